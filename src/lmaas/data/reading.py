"""From a file or folder to a table, by what it is and not only by what it is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from lmaas.data import csv, images, jsonl, parquet
from lmaas.data.table import Table, digest_of, mapped
from lmaas.errors import InvalidInput

CONVERTERS: Final[dict[str, tuple[Callable[[Path, Path], None], str]]] = {
    ".jsonl": (jsonl.convert, "line"),
    ".ndjson": (jsonl.convert, "line"),
    ".csv": (csv.convert, "line"),
    ".tsv": (csv.convert, "line"),
    ".parquet": (parquet.convert, "row"),
}
MAGIC: Final = {
    b"PAR1": "Parquet", b"PK\x03\x04": "a zip", b"PK\x05\x06": "a zip", b"\x1f\x8b": "gzip",
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"%PDF": "a PDF",
    b"\x89HDF": "HDF5", b"\x93NUMPY": "a numpy file", b"\xd0\xcf\x11\xe0": "an old Office file",
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"SQLite format 3": "SQLite",
}  # fmt: skip
PICKLES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")
KNOWN: Final = "JSONL (.jsonl), CSV (.csv, .tsv), Parquet (.parquet), a folder or zip of images"


def read(path: Path, folder: Path) -> Table:
    """The data at `path`; what is made of it for reading goes into `folder`, once.

    Raises InvalidInput for what is missing, not what it says, empty or damaged, with the line.
    """
    if path.is_dir():
        return images.read_folder(path)
    if not path.is_file():
        raise InvalidInput(f"There is no data at {path}.", param="data")
    suffix, kind = path.suffix.lower(), _kind(path)
    if kind == "a pickle" or suffix in PICKLES:
        raise InvalidInput(
            f"{path.name} is or may be a pickle, which runs code when it is read.",
            hint=f"Save the data as one of {KNOWN}.",
            param="data",
        )
    wanted = {".zip": "a zip", ".parquet": "Parquet"}.get(suffix)
    if suffix != ".zip" and suffix not in CONVERTERS:
        raise InvalidInput(f"{path.name} is of no kind that is read: {KNOWN}.", param="data")
    if kind != wanted:
        raise InvalidInput(
            f"{path.name} says that it is {suffix[1:]}, but it is {kind or 'something else'}.",
            hint="Unpack it, or give it the name of what it is.",
            param="data",
        )
    if suffix == ".zip":
        return images.read_zip(path)
    convert, unit = CONVERTERS[suffix]
    digest = digest_of(path)
    arrow = folder / f"{digest}{suffix}.arrow"
    if not arrow.exists():
        convert(path, arrow)
    return Table(mapped(arrow), name=path.name, digest=digest, unit=unit)


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
