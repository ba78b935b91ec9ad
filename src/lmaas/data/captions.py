"""Images with a text each: what is written on a plate, a label, a line.

One file beside the images names them and their texts: JSONL (`{"image": "1.png", "text": "A 1"}`),
CSV or TSV with such columns, or the text that PaddleOCR reads, with lines of a path, a tab and the
text. A path begins at the file or at the top; a file's name alone will do where only one has it.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
import pyarrow as pa

from lmaas.data.annotations.marked import Files, Names, text_of
from lmaas.data.table import LINE, Table
from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE

IMAGE, TEXT = "image", "text"
IMAGES: Final = ("image", "file_name", "filename", "path")
TEXTS: Final = ("text", "transcription")
"""What the columns may be called."""
JSONL: Final = (".jsonl", ".ndjson")
ROWS: Final = (".csv", ".tsv")
SEPARATORS: Final = ",;\t|"
LABELS: Final = ".txt"
HEAD_CHARS: Final = 1 << 16
LONGEST_TEXT: Final = 4096
Row = tuple[int, Any, Any]
"""A line's number, the image that it names, and the text."""


def table_of(files: Files, digest: Callable[[], str]) -> Table | None:
    """The images that a file gives texts to; None where none does. Raises InvalidInput."""
    found = [name for name in sorted(files.others) if _reader(files, name) is not None]
    if not found:
        return None
    if len(found) > 1:
        raise InvalidInput(
            f"{files.file} has several files with texts: {found[0]} and {found[1]}.",
            hint="Keep one, or give the others as data.validation and data.test.",
            param="data",
        )
    name = found[0]
    reader = _reader(files, name)
    assert reader is not None
    names, numbers, images, texts = Names(files), [], [], []
    for number, image, text in reader(text_of(files.read(name), name), name):
        place = f"{name}, line {number}"
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            told = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
            raise InvalidInput(
                f"{place}: the text must be one of at most {LONGEST_TEXT} characters; received "
                f"{told}.",
                param="data",
            )
        numbers.append(number)
        images.append(names.find(image, name, place))
        texts.append(text)
    rows = pa.table(
        {
            IMAGE: pa.array(images, pa.string()),
            TEXT: pa.array(texts, pa.string()),
            LINE: pa.array(numbers, pa.int64()),
        }
    )
    return Table(
        rows,
        name=f"{files.file}/{name}",
        digest=digest(),
        unit="line",
        notes=_notes(len(set(files.images) - set(images))),
        open_bytes=files.read,
    )


def _notes(left: int) -> list[str]:
    return [f"Images passed over, since nothing says their text: {left}."] if left else []


def _reader(files: Files, name: str) -> Callable[[str, str], Iterator[Row]] | None:
    """What reads a file of texts; None for a file that is none."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (*JSONL, *ROWS, LABELS):
        return None
    try:
        head = files.read(name)[: 4 * HEAD_CHARS].decode("utf-8-sig", "replace")
    except InvalidInput:
        return None  # whoever reads it tells
    first = next((line for line in head.splitlines() if line.strip()), "")
    if suffix in JSONL:
        return _json_lines if _keys(first) is not None else None
    if suffix in ROWS:
        return _rows if _columns(first) is not None else None
    path, tab, _ = first.partition("\t")
    return _labels if tab and _is_there(files, name, path) else None


def _is_there(files: Files, name: str, path: str) -> bool:
    try:
        Names(files).find(path, name, "")
    except InvalidInput:
        return False
    return True


def _keys(line: str) -> tuple[str, str] | None:
    """What an object of JSON calls the image and the text."""
    try:
        told = msgspec.json.decode(line, type=dict[str, Any])
    except UNREADABLE:
        return None
    return None if "boxes" in told else _named(list(told))


def _named(names: Sequence[str]) -> tuple[str, str] | None:
    image = next((each for each in IMAGES if each in names), None)
    text = next((each for each in TEXTS if each in names), None)
    return None if image is None or text is None else (image, text)


def _json_lines(content: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = msgspec.json.decode(line, type=dict[str, Any])
        except UNREADABLE as error:
            raise InvalidInput(f"{name}, line {number}: {error}.", param="data") from None
        keys = _named(list(told))
        if keys is None:
            raise InvalidInput(
                f"{name}, line {number}: there is no image with a text.",
                hint='{"image": "1.png", "text": "AB 12"}',
                param="data",
            )
        yield number, told[keys[0]], told[keys[1]]


def _columns(head: str) -> tuple[str, int, int] | None:
    """The separator, and which columns the image and the text are."""
    for separator in SEPARATORS:
        names = [each.strip() for each in next(csv.reader([head], delimiter=separator), [])]
        keys = _named(names)
        if keys is not None:
            return separator, names.index(keys[0]), names.index(keys[1])
    return None


def _rows(content: str, name: str) -> Iterator[Row]:
    head = next(line for line in content.splitlines() if line.strip())
    found = _columns(head)
    assert found is not None
    separator, image, text = found
    reader = csv.reader(io.StringIO(content), delimiter=separator, strict=True)
    try:
        begun = False
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if begun:
                if len(row) <= max(image, text):
                    raise InvalidInput(
                        f"{name}, line {reader.line_num}: it has {len(row)} cells.", param="data"
                    )
                yield reader.line_num, row[image].strip(), row[text]
            begun = True
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {reader.line_num}: {error}.", param="data") from None


def _labels(content: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            path, tab, text = line.removesuffix("\r").partition("\t")
            if not tab:
                raise InvalidInput(
                    f"{name}, line {number}: a path, a tab and a text are expected.", param="data"
                )
            yield number, path, text
