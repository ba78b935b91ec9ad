"""JSON Lines: one object a line, checked line by line. Blank lines are passed over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from lmaas.data import table
from lmaas.data.lines import lines
from lmaas.errors import InvalidInput

NUMBER, NESTED = "a number", "a list or an object"
KINDS: Final = {
    bool: "a boolean", int: NUMBER, float: NUMBER, str: "a text", list: NESTED, dict: NESTED,
}  # fmt: skip
TYPES: Final = {
    "a boolean": pa.bool_(), NUMBER: pa.float64(), "a text": pa.string(), NESTED: pa.string(),
}  # fmt: skip
BEYOND: Final = 1 << 63


def convert(source: Path, target: Path) -> None:
    """Write `source` as an Arrow file. Raises InvalidInput naming the line.

    It is read twice: for what the columns are, and for what is in them.
    """
    columns = _Columns(source.name)
    for number, row in _rows(source):
        for name, value in row.items():
            if value is not None:
                columns.note(name, value, number)
    if not columns.kinds:
        raise InvalidInput(f"{source.name} holds no samples.", param="data")
    table.check_columns(list(columns.kinds), source.name)
    schema = columns.schema()
    table.write(target, schema, _batches(source, schema, columns.kinds))


def check(source: Path) -> None:
    """Raise InvalidInput, naming the line, for what no task reads; columns are not looked at."""
    if not sum(bool(row) for _, row in _rows(source)):
        raise InvalidInput(f"{source.name} holds no samples.", param="data")


class _Columns:
    """What is known of the columns after some lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.kinds: dict[str, str] = {}
        self._fractions: set[str] = set()

    def note(self, name: str, value: Any, number: int) -> None:
        """Take one value in; its kind must be that of the earlier ones."""
        place = f"{self.file}, line {number}"
        kind = KINDS[type(value)]
        before = self.kinds.get(name)
        if before is None:
            self.kinds[name] = before = kind
            if len(self.kinds) > table.MAX_COLUMNS:
                table.check_columns(list(self.kinds), place)
        if before != kind:
            raise InvalidInput(
                f"{place}: {name!r} is {kind}; in earlier lines it is {before}.",
                hint="A column holds values of one kind.",
                param="data",
            )
        if isinstance(value, float):
            self._fractions.add(name)
        elif type(value) is int and not -BEYOND <= value < BEYOND:
            raise InvalidInput(f"{place}: {name!r} does not fit 64 bits.", param="data")

    def schema(self) -> pa.Schema:
        """The Arrow file's columns, the line number last."""
        fields = [pa.field(name, *self._type(name, kind)) for name, kind in self.kinds.items()]
        return pa.schema([*fields, pa.field(table.LINE, pa.int64())])

    def _type(self, name: str, kind: str) -> tuple[pa.DataType, bool, dict[bytes, bytes] | None]:
        if kind == NUMBER and name not in self._fractions:
            return pa.int64(), True, None
        return TYPES[kind], True, {table.NESTED: b"1"} if kind == NESTED else None


def _rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in lines(source):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            told = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise InvalidInput(
                f"{source.name}, line {number} is not a JSON object: {told}.",
                hint='Each line is one sample: {"text": "…", "label": "…"}.',
                param="data",
            ) from None
        yield number, row


def _batches(source: Path, schema: pa.Schema, kinds: dict[str, str]) -> Iterator[pa.RecordBatch]:
    held: dict[str, list[Any]] = {name: [] for name in schema.names}

    def batch() -> pa.RecordBatch:
        arrays = [pa.array(held[field.name], field.type) for field in schema]
        for values in held.values():
            values.clear()
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for number, row in _rows(source):
        for name, kind in kinds.items():
            value = row.get(name)
            if kind == NESTED and value is not None:
                value = msgspec.json.encode(value).decode()
            held[name].append(value)
        held[table.LINE].append(number)
        if len(held[table.LINE]) >= table.BATCH_ROWS:
            yield batch()
    yield batch()
