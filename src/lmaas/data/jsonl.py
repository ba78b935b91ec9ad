"""JSON Lines: one object a line, checked line by line; blank lines are passed over.

A file that begins with "[" is one list of objects instead, read as a whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from lmaas.data import table
from lmaas.data.lines import first_text, lines
from lmaas.errors import InvalidInput

NUMBER, NESTED = "a number", "a list or an object"
KINDS: Final = {
    bool: "a boolean", int: NUMBER, float: NUMBER, str: "a text", list: NESTED, dict: NESTED,
}  # fmt: skip
TYPES: Final = {
    "a boolean": pa.bool_(), NUMBER: pa.float64(), "a text": pa.string(), NESTED: pa.string(),
}  # fmt: skip
BEYOND: Final = 1 << 63
MAX_LIST_CHARS: Final = 256 << 20
"""A list is in memory as a whole; JSON Lines have no such bound."""
LINE, ITEM = "line", "item"


def objects(source: Path, encoding: str | None = None) -> Iterator[tuple[str, int, str]]:
    """Each sample of the file as JSON text, with its place: LINE or ITEM, and which.

    Raises InvalidInput for a list that is not JSON, or too long.
    """
    if first_text(source, encoding) != "[":
        for number, line in lines(source, encoding):
            if line.strip():
                yield LINE, number, line
        return
    pieces: list[str] = []
    size = 0
    for _, line in lines(source, encoding):
        pieces.append(line)
        size += len(line)
        if size > MAX_LIST_CHARS:
            raise InvalidInput(
                f"{source.name} is a list of more than {MAX_LIST_CHARS >> 20} million characters.",
                hint="Write it as JSON Lines (.jsonl): one object a line.",
                param="data",
            )
    whole = "".join(pieces)
    pieces.clear()
    try:
        items = msgspec.json.decode(whole, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(
            f"{source.name} is not a JSON list: {_why(error)}.",
            hint="Write it as a list of objects, or as one object a line (.jsonl).",
            param="data",
        ) from None
    for number, item in enumerate(items, 1):
        yield ITEM, number, bytes(item).decode()


def convert(source: Path, target: Path, encoding: str | None = None) -> None:
    """Write `source` as an Arrow file. Raises InvalidInput naming the line.

    It is read twice: for what the columns are, and for what is in them.
    """
    columns = _Columns()
    unit = LINE
    for unit, number, row in rows(source, encoding):
        for name, value in row.items():
            if value is not None:
                columns.note(name, value, f"{source.name}, {unit} {number}")
    if not columns.kinds:
        raise InvalidInput(f"{source.name} holds no samples.", param="data")
    table.check_columns(list(columns.kinds), source.name)
    schema = columns.schema().with_metadata(table.noted(unit))
    table.write(target, schema, _batches(source, encoding, schema, columns.kinds))


def check(source: Path, encoding: str | None = None) -> None:
    """Raise InvalidInput, naming the line, for what no task reads; columns are not looked at."""
    if not sum(bool(row) for _, _, row in rows(source, encoding)):
        raise InvalidInput(f"{source.name} holds no samples.", param="data")


class _Columns:
    """What is known of the columns after some lines."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self._fractions: set[str] = set()

    def note(self, name: str, value: Any, place: str) -> None:
        """Take one value in; its kind must be that of the earlier ones."""
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


def rows(source: Path, encoding: str | None) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each sample of the file with its place: LINE or ITEM, and which. Raises InvalidInput."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    for unit, number, text in objects(source, encoding):
        try:
            row = decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInput(
                f"{source.name}, {unit} {number} is not a JSON object: {_why(error)}.",
                hint='Each line is one sample: {"text": "…", "label": "…"}.',
                param="data",
            ) from None
        yield unit, number, row


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _batches(
    source: Path, encoding: str | None, schema: pa.Schema, kinds: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    held: dict[str, list[Any]] = {name: [] for name in schema.names}

    def batch() -> pa.RecordBatch:
        arrays = [pa.array(held[field.name], field.type) for field in schema]
        for values in held.values():
            values.clear()
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for _, number, row in rows(source, encoding):
        for name, kind in kinds.items():
            value = row.get(name)
            if kind == NESTED and value is not None:
                value = msgspec.json.encode(value).decode()
            held[name].append(value)
        held[table.LINE].append(number)
        if len(held[table.LINE]) >= table.BATCH_ROWS:
            yield batch()
    yield batch()
