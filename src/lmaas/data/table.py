"""A data set as columns of equally many samples, each of which knows where it stands in its file.

Columns lie in an Arrow file that is mapped, not read, so a table larger than memory can be used.
Knows no task: what a column means is for others to say.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmaas.errors import InvalidInput
from lmaas.tasks import dates, numerals
from lmaas.tasks.cells import category
from lmaas.tasks.numerals import NO_NUMBER, PLAIN, Notation

LINE: Final = "\x00line"
"""The column with each sample's line number; no file can have a column of that name."""
NESTED: Final = b"json"
"""Metadata of a column whose texts are JSON: lists and objects of a JSONL file."""
UNIT: Final = b"unit"
NOTES: Final = b"notes"
"""Metadata of an Arrow file: what a place in its source is called, what is to be told of it."""
BATCH_ROWS: Final = 16_384
MAX_COLUMNS: Final = 4096
UNLABELED: Final = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL")
"""What a cell says that has no label; "None" and "?" are labels. Of numbers all of `NO_NUMBER`."""


class Table:
    """Samples by number, values by column.

    `name` is the file's, for errors; `digest` the sha256 of its content; `unit` what a place is
    called ("line", "row", "image") and `notes` what is to be told of the file, where the Arrow file
    does not say so. `open_bytes`, where given, reads what a column of paths names.
    """

    def __init__(
        self,
        arrow: pa.Table,
        *,
        name: str,
        digest: str,
        unit: str = "row",
        notes: Sequence[str] = (),
        open_bytes: Callable[[str], bytes] | None = None,
    ) -> None:
        if arrow.num_rows == 0:
            raise InvalidInput(f"{name} holds no samples.", param="data")
        self._arrow = arrow
        sizes = [len(chunk) for chunk in arrow.column(0).chunks]
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self._open = open_bytes
        self.name = name
        self.digest = digest
        told = arrow.schema.metadata or {}
        self.unit = told[UNIT].decode() if UNIT in told else unit
        self.notes = tuple(msgspec.json.decode(told[NOTES], type=list[str]) if told else notes)

    def __len__(self) -> int:
        return int(self._arrow.num_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names, in the file's order."""
        return tuple(name for name in self._arrow.column_names if name != LINE)

    def place(self, index: int) -> str:
        """Where a sample stands: "train.csv, line 17"."""
        if LINE in self._arrow.column_names:
            return f"{self.name}, {self.unit} {self._arrow[LINE][index].as_py()}"
        return f"{self.name}, {self.unit} {index + 1}"

    def require(self, column: str, hint: str = "Name a column as the file does.") -> None:
        """Raise InvalidInput for a column that is not there."""
        if column not in self.columns:
            raise InvalidInput(
                f"{self.name} has no column {column!r}; it has {', '.join(self.columns[:50])}.",
                hint=hint,
                param="data.columns",
            )

    def values(self, column: str, indices: Sequence[int] | np.ndarray | None = None) -> list[Any]:
        """The column's values as plain Python, at `indices` or all; None where there is none."""
        values = self._cells(column, indices)
        if (self._arrow.schema.field(column).metadata or {}).get(NESTED):
            return [None if v is None else msgspec.json.decode(v) for v in values]
        return values

    def _cells(self, column: str, indices: Sequence[int] | np.ndarray | None) -> list[Any]:
        """The column's values, lists and objects of a JSONL file as JSON."""
        self.require(column)
        cells = self._arrow[column]
        if indices is None:
            values: list[Any] = cells.to_pylist()
            return values
        # Arrow's own `take` joins all chunks first, so a batch would cost what the table does.
        rows = np.asarray(indices, np.int64)
        chunks = np.searchsorted(self._starts, rows, "right") - 1
        offsets = rows - self._starts[chunks]
        return [
            cells.chunk(chunk)[offset].as_py()
            for chunk, offset in zip(chunks.tolist(), offsets.tolist(), strict=True)
        ]

    def texts(self, column: str) -> list[str]:
        """All values as texts. Raises InvalidInput, with the place, where there is none."""
        found = self.values(column)
        for index, value in enumerate(found):
            if not isinstance(value, str) or not value.strip():
                told = "is empty" if value is None or value == "" else f"is {str(value)[:80]!r}"
                raise InvalidInput(
                    f"{self.place(index)}: {column!r} must be a text that is not empty; it {told}.",
                    param="data",
                )
        return found

    def labeled(self, column: str, *, numbers: bool = False) -> np.ndarray:
        """The rows that have a label in a column, or a number, by their numbers in rising order."""
        self.require(column)
        cells = self._arrow[column]
        if _is_text(cells.type):
            words = pa.array(NO_NUMBER if numbers else UNLABELED, cells.type)
            there = pc.invert(pc.is_in(pc.utf8_trim_whitespace(cells), words))
            there = pc.and_(there, pc.is_valid(cells))
        elif pa.types.is_floating(cells.type):
            there = pc.invert(pc.is_null(cells, nan_is_null=True))
        else:
            there = pc.is_valid(cells)
        return np.flatnonzero(there.to_numpy())

    def labels(self, column: str, rows: np.ndarray) -> list[str]:
        """The values of `rows` as names of classes. Raises InvalidInput, with the place, where
        there is none.

        Whole numbers and booleans are taken as they are written.
        """
        values, names = self.values(column), []
        for index in rows.tolist():
            name = _label(values[index])
            if name is None:
                raise InvalidInput(
                    f"{self.place(index)}: {column!r} must be a label; received "
                    f"{'nothing' if values[index] in (None, '') else repr(values[index])[:80]}.",
                    param="data",
                )
            names.append(name)
        return names

    def content(self, column: str, index: int) -> bytes:
        """The bytes in a column of bytes, or of the file that a column of paths names."""
        value = self._arrow[column][index].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str) and self._open is not None:
            value = self._open(value)
        if not isinstance(value, bytes):
            raise InvalidInput(
                f"{self.place(index)}: {column!r} must hold a file's bytes; received "
                f"{type(value).__name__}.",
                hint="Give images as a folder with one folder a class, a zip of one, or Parquet.",
                param="data",
            )
        return value

    def numerals(
        self, column: str, decimal: numerals.Decimal | None = None
    ) -> numerals.Found | None:
        """Which share of the values that are there are numbers, and how they are written.

        None where no value is there. `decimal` is the decimal mark where it is known.
        """
        self.require(column)
        cells = self._arrow[column]
        if _is_number(cells.type):
            there = cells.null_count < len(cells)
            return numerals.Found(share=1.0, notation=Notation()) if there else None
        if not _is_text(cells.type):
            return numerals.Found(share=0.0, notation=Notation())
        return numerals.find(self._counted(column), decimal)

    def dates(self, column: str) -> dates.Found | None:
        """Which share of the values that are there are dates, and in which form; None: none."""
        self.require(column)
        return dates.find(self._counted(column)) if _is_text(self._arrow[column].type) else None

    def _counted(self, column: str) -> list[tuple[str, int]]:
        """The different texts of a column, each with how often it stands there."""
        counts = pc.value_counts(self._arrow[column].drop_null())
        values, numbers = counts.field("values"), counts.field("counts")
        return list(zip(values.to_pylist(), numbers.to_pylist(), strict=True))

    def numbers(self, column: str, notation: Notation | None = None) -> np.ndarray:
        """The values as float64 (N,), NaN where there is none; texts read as `notation` says.

        Raises InvalidInput, with the place, for a value that is no finite number.
        """
        self.require(column)
        cells = self._arrow[column]
        if _is_text(cells.type):
            cells = self._read_numbers(column, notation or Notation())
        elif not (_is_number(cells.type) or pa.types.is_boolean(cells.type)):
            raise InvalidInput(
                f"{self.name}: {column!r} must hold numbers; it holds {cells.type}.", param="data"
            )
        values = pc.cast(cells, pa.float64(), safe=False).to_numpy()
        infinite = np.isinf(values)
        if infinite.any():
            raise InvalidInput(
                f"{self.place(int(infinite.argmax()))}: {column!r} is infinite.", param="data"
            )
        return np.asarray(values, np.float64)

    def _read_numbers(self, column: str, notation: Notation) -> Any:
        cells = _present(self._arrow[column])
        good = pc.fill_null(pc.match_substring_regex(cells, PLAIN), True)
        if notation.decimal == "." and pc.all(good).as_py():
            return cells
        known: dict[str | None, float | None] = {None: float("nan")}
        read = []
        for index, text in enumerate(cells.to_pylist()):
            if text not in known:
                known[text] = numerals.parse(text, notation)
                if known[text] is None:
                    raise InvalidInput(
                        f"{self.place(index)}: {column!r} must be a number; received "
                        f"{text[:80]!r}.",
                        hint=f"Numbers of the column are read with {notation.told()}; a missing "
                        "value is empty or NA. `data.options.kinds` makes it a category.",
                        param="data",
                    )
            read.append(known[text])
        return pa.array(read, pa.float64())

    def dated(self, column: str, form: str) -> np.ndarray:
        """The dates' parts (N, `dates.PARTS`), NaN where there is none.

        Raises InvalidInput, with the place, for a value that is no date in this form.
        """
        texts = self.categories(column)
        parts = dates.parts(texts, form)
        for index, text in enumerate(texts):
            if text is not None and np.isnan(parts[index, dates.YEAR]):
                raise InvalidInput(
                    f"{self.place(index)}: {column!r} must be a date; received {text[:80]!r}.",
                    hint=f"Dates of the column are read as {form}. `data.options.kinds` makes it "
                    "a category.",
                    param="data",
                )
        return parts

    def categories(self, column: str) -> list[str | None]:
        """The values as names of categories, None where there is none."""
        return [category(value) for value in self.values(column)]

    def hashes(self, columns: Sequence[str]) -> Iterator[bytes]:
        """A digest of each sample's content in `columns`: equal content, equal digest."""
        for column in columns:
            self.require(column)
        for start in range(0, len(self), BATCH_ROWS):
            rows = range(start, min(start + BATCH_ROWS, len(self)))
            if self._open is not None and len(columns) == 1:
                parts = [[self.content(columns[0], i) for i in rows]]
            else:
                parts = [self._cells(column, rows) for column in columns]
            for row in zip(*parts, strict=True):
                content = msgspec.msgpack.encode(row)
                yield hashlib.blake2b(content, digest_size=16).digest()


def noted(unit: str, notes: Sequence[str] = ()) -> dict[bytes, bytes]:
    """Metadata of an Arrow file."""
    return {UNIT: unit.encode(), NOTES: msgspec.json.encode(list(notes))}


def write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """An Arrow file of `batches`, complete or not there. Raises InvalidInput without samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            rows = 0
            for batch in batches:
                rows += batch.num_rows
                writer.write_batch(batch)
        if not rows:
            raise InvalidInput("The data holds no samples.", param="data")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def mapped(path: Path) -> pa.Table:
    """The table in an Arrow file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def digest_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_columns(names: Sequence[str], place: str) -> None:
    """Refuse no columns, too many, and names that are empty, twice or bad."""
    if not names:
        raise InvalidInput(f"{place}: there are no columns.", param="data")
    if len(names) > MAX_COLUMNS:
        raise InvalidInput(
            f"{place}: {len(names)} columns; at most {MAX_COLUMNS} are read.", param="data"
        )
    seen = set()
    for number, name in enumerate(names, 1):
        if not name.strip() or "\x00" in name:
            raise InvalidInput(f"{place}: column {number} has no name.", param="data")
        if name in seen:
            raise InvalidInput(f"{place}: the column {name!r} is there twice.", param="data")
        seen.add(name)


def _label(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    return None


def _present(cells: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(trimmed, pa.array(NO_NUMBER, trimmed.type)), None, trimmed)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )
