"""From a file or folder to a table, by what it is and not only by what it is called."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmaas.data import archive, csv, images, jsonl, parquet, sounds
from lmaas.data.lines import GZIP, check_encoding
from lmaas.data.table import Table, digest_of, mapped
from lmaas.errors import InvalidInput


class Reader(NamedTuple):
    """What makes an Arrow file of a kind of file, and what only looks.

    Both take the encoding that somebody has said, or None. `text`: what can be gzip, too.
    """

    convert: Callable[[Path, Path, str | None], None]
    check: Callable[[Path, str | None], None]
    text: bool


JSONL: Final = Reader(jsonl.convert, jsonl.check, True)
CSV: Final = Reader(csv.convert, csv.check, True)
READERS: Final = {
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".json": JSONL,
    ".csv": CSV,
    ".tsv": CSV,
    ".parquet": Reader(parquet.convert, parquet.check, False),
}
MAGIC: Final = {
    b"PAR1": "Parquet", b"PK\x03\x04": "a zip", b"PK\x05\x06": "a zip", b"\x1f\x8b": "gzip",
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"%PDF": "a PDF",
    b"\x89HDF": "HDF5", b"\x93NUMPY": "a numpy file", b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\x7fELF": "a program", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z",
    b"SQLite format 3": "SQLite",
}  # fmt: skip
SHEETS: Final = (".xlsx", ".xls", ".ods", ".numbers")
EXPORT: Final = "Export a spreadsheet as CSV."
PICKLES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")
KNOWN: Final = (
    "JSONL (.jsonl), a list in JSON (.json), CSV (.csv, .tsv), each of them also as .gz; "
    "Parquet (.parquet), a folder or zip of images, with their boxes or texts too, or of sound "
    "with texts"
)


def read(path: Path, folder: Path, encoding: str | None = None) -> Table:
    """The data at `path`; what is made of it for reading goes into `folder`, once.

    Raises InvalidInput for what is missing, not what it says, empty or damaged, with the line; and
    for an `encoding` of what is no text.
    """
    suffix = "" if path.is_dir() else suffix_of(path)
    if encoding is not None:
        if suffix not in READERS or not READERS[suffix].text:
            raise InvalidInput(
                f"{path.name} is no text file, so it has no encoding {encoding!r}.",
                hint="Leave data.encoding out.",
                param="data.encoding",
            )
        encoding = check_encoding(encoding)
    if not suffix:
        return _of_files(archive.of_folder(path), folder, around=False)
    if suffix == ".zip":
        return _of_files(archive.of_zip(path), folder, around=True)
    reader = READERS[suffix]
    digest = digest_of(path)
    arrow = folder / f"{digest}{suffix}{encoding or ''}.arrow"
    if not arrow.exists():
        reader.convert(path, arrow, encoding)
    return Table(mapped(arrow), name=path.name, digest=digest)


def _of_files(files: archive.Files, folder: Path, *, around: bool) -> Table:
    if sounds.fits(files):
        return sounds.table(files, folder, _convert)
    return images.table(files, around=around)


def _convert(path: Path, arrow: Path) -> None:
    READERS[suffix_of(path)].convert(path, arrow, None)


class FileRow(NamedTuple):
    """A row of a file of text, in the order of its columns; `place` is where it stands."""

    place: str
    values: dict[str, Any]


def rows(path: Path, encoding: str | None = None) -> Iterator[FileRow]:
    """The rows of a CSV or JSONL file, one after another. Raises InvalidInput, with the line."""
    suffix = suffix_of(path)
    if suffix not in READERS or not READERS[suffix].text:
        raise InvalidInput(f"{path.name} is no CSV or JSONL.", param="data")
    if encoding is not None:
        encoding = check_encoding(encoding)
    if READERS[suffix] is JSONL:
        for unit, number, values in jsonl.rows(path, encoding):
            yield FileRow(f"{path.name}, {unit} {number}", values)
        return
    names, cells, _ = csv.read(path, encoding)
    for number, row in cells:
        yield FileRow(f"{path.name}, line {number}", dict(zip(names, row, strict=True)))


def check(path: Path) -> None:
    """Look through the file at `path`, all of it. Nothing is kept.

    Raises InvalidInput, with the line, for what no task can read; what its columns and images must
    be is a task's to say.
    """
    suffix = suffix_of(path)
    if suffix == ".zip":
        with tempfile.TemporaryDirectory() as scratch:
            _of_files(archive.of_zip(path), Path(scratch), around=True)
    else:
        READERS[suffix].check(path, None)


def suffix_of(path: Path) -> str:
    """Which kind a file is: its name's end, in lower case and without .gz.

    Raises InvalidInput for what is missing, empty, unknown or by its first bytes something else
    than it says.
    """
    if not path.is_file():
        raise InvalidInput(f"There is no data at {path}.", param="data")
    suffix, kind = path.suffix.lower(), _kind(path)
    packed = suffix == GZIP
    if packed:
        suffix = Path(path.stem).suffix.lower()
    if kind == "a pickle" or suffix in PICKLES:
        raise InvalidInput(
            f"{path.name} is or may be a pickle, which runs code when it is read.",
            hint=f"Save the data as one of {KNOWN}.",
            param="data",
        )
    wanted = {".zip": "a zip", ".parquet": "Parquet"}.get(suffix)
    if suffix != ".zip" and suffix not in READERS:
        raise InvalidInput(
            f"{path.name} is of no kind that is read: {KNOWN}.",
            hint=EXPORT if suffix in SHEETS else "A file is known by the end of its name.",
            param="data",
        )
    if packed and (suffix not in READERS or not READERS[suffix].text):
        raise InvalidInput(
            f"{path.name}: only files of text are read as .gz.", hint="Unpack it.", param="data"
        )
    if packed:
        wanted = "gzip"
    if kind != wanted:
        says = "gzip" if packed else suffix[1:]
        raise InvalidInput(
            f"{path.name} says that it is {says}, but it is {kind or 'something else'}.",
            hint=_instead(path, kind, packed=packed),
            param="data",
        )
    return suffix


def _instead(path: Path, kind: str | None, *, packed: bool) -> str:
    """What to do with a file that is of another kind than its name says."""
    if packed and kind is None:
        return f"If it is not packed, call it {path.stem}."
    if kind == "gzip":
        return f"Call it {path.name}.gz if it is text, or unpack it."
    if kind == "a zip":
        return f"Unpack it if it is an archive. {EXPORT}"
    if kind == "Parquet":
        return f"Call it {path.with_suffix('.parquet').name}."
    if kind == "an old Office file":
        return EXPORT
    return f"It may be damaged. Read are {KNOWN}."


def _kind(path: Path) -> str | None:
    """What the first bytes say, None for what looks like text."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise InvalidInput(f"{path.name} is empty.", param="data")
    # A pickle of protocol 2 or later: PROTO, the protocol.
    if head[0] == 0x80 and len(head) > 1 and head[1] in range(2, 8):
        return "a pickle"
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)
