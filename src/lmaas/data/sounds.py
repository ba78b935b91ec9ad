"""Folders of sound with texts, or a zip of one, as Hugging Face's audiofolder or in pairs.

Either `metadata.jsonl`, `metadata.csv` or the only file of that kind names the sounds in a column
`file_name` (or `audio`), with their texts beside; or each sound has its text in a file of its name:
`a.wav`, `a.txt`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa

from lmaas.data.archive import Files
from lmaas.data.images import SUFFIXES as IMAGES
from lmaas.data.table import Table, mapped
from lmaas.errors import InvalidInput

AUDIO, TEXT = "audio", "text"
SUFFIXES: Final = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mkv", ".aac",
    ".aif", ".aiff",
)  # fmt: skip
METADATA: Final = ("metadata.jsonl", "metadata.csv")
ROWS: Final = (".jsonl", ".csv", ".tsv")
PATHS: Final = ("file_name", "audio_filepath", "path")
"""What a column of paths may be called beside `audio`."""
TEXTS: Final = ("transcription", "transcript", "sentence")
"""What a column of texts may be called beside `text`."""
MAX_TEXT_BYTES: Final = 1 << 20
LAYOUT: Final = (
    'Put a metadata.jsonl beside the files, with lines as {"file_name": "a.wav", "text": "…"}, or '
    "a text a.txt beside each a.wav."
)

Convert = Callable[[Path, Path], None]
"""Makes an Arrow file (the second path) of a file of rows."""


def fits(files: Files) -> bool:
    """Whether the files are sound: any of them is, and none is an image."""
    images = any(PurePosixPath(name).suffix.lower() in IMAGES for name in files.names)
    return not images and any(_is_sound(name) for name in files.names)


def table(files: Files, folder: Path, convert: Convert) -> Table:
    """The sounds and their texts; what is made of the metadata goes into `folder`, once.

    Raises InvalidInput for a sound without a text, a text without a sound, and what is laid out
    otherwise.
    """
    outer = _around(files.names)
    names = [name.removeprefix(outer) for name in files.names]
    sounds = [name for name in names if _is_sound(name)]
    metadata = [name for name in names if name in METADATA]
    if not metadata:
        rows = [name for name in names if PurePosixPath(name).suffix.lower() in ROWS]
        metadata = rows if len(rows) == 1 else []
    if len(metadata) > 1:
        raise InvalidInput(f"{files.name} has both {' and '.join(METADATA)}.", param="data")
    used = sounds + metadata
    if not metadata:
        used += [str(PurePosixPath(name).with_suffix(".txt")) for name in sounds]
    missing = [name for name in used if name not in set(names)]
    if missing:
        raise InvalidInput(
            f"{files.name}: {missing[0]} is not there, and there is no metadata.jsonl.",
            hint=LAYOUT,
            param="data",
        )
    digest = files.digest([outer + name for name in sorted(used)])

    def read(name: str) -> bytes:
        if name not in known:
            raise InvalidInput(f"{files.name}: there is no file {name[:200]!r}.", param="data")
        return files.read(outer + name)

    known = frozenset(sounds)
    if metadata:
        arrow = _converted(files, outer, metadata[0], folder, convert)
        return Table(
            arrow, name=f"{files.name}/{metadata[0]}", digest=digest, unit="line", open_bytes=read
        )
    texts = []
    for name in sounds:
        raw = files.read(outer + str(PurePosixPath(name).with_suffix(".txt")))
        try:
            if len(raw) > MAX_TEXT_BYTES:
                raise ValueError(f"it has more than {MAX_TEXT_BYTES} bytes")
            texts.append(raw.decode("utf-8-sig").strip())
        except ValueError as error:
            raise InvalidInput(
                f"{files.name}: the text of {name} is not UTF-8 text: {error}.", param="data"
            ) from None
    made = pa.table({AUDIO: pa.array(sounds, pa.string()), TEXT: pa.array(texts, pa.string())})
    return Table(made, name=files.name, digest=digest, unit="sound", open_bytes=read)


def renamed(arrow: pa.Table) -> pa.Table:
    """The table with its columns of paths and texts called `audio` and `text`, where they are told
    by their names.
    """
    names = list(arrow.column_names)
    for wanted, others in ((AUDIO, PATHS), (TEXT, TEXTS)):
        found = [name for name in others if name in names]
        if wanted not in names and found:
            names[names.index(found[0])] = wanted
    fields = [field.with_name(name) for field, name in zip(arrow.schema, names, strict=True)]
    return pa.Table.from_arrays(
        arrow.columns, schema=pa.schema(fields, metadata=arrow.schema.metadata)
    )


def _converted(files: Files, outer: str, name: str, folder: Path, convert: Convert) -> pa.Table:
    raw = files.read(outer + name)
    digest = hashlib.sha256(raw).hexdigest()
    arrow = folder / f"{digest}.sounds.arrow"
    if not arrow.exists():
        source = folder / digest / PurePosixPath(name).name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(raw)
        try:
            convert(source, arrow)
        finally:
            source.unlink()
            source.parent.rmdir()
    return renamed(mapped(arrow))


def _around(names: tuple[str, ...]) -> str:
    """The folder that everything is in, where there is one."""
    firsts = {PurePosixPath(name).parts[0] for name in names}
    deep = all(len(PurePosixPath(name).parts) > 1 for name in names)
    return f"{firsts.pop()}/" if len(firsts) == 1 and deep else ""


def _is_sound(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES
