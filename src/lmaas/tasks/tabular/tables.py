"""Rows as clients send them: objects, or a table of columns as those of Hugging Face do.

Python's client sends `{"table": {column: [cells]}}`, the JavaScript one `{"inputs": {"data": …}}`;
both write numbers as texts, and read one prediction a row.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from lmaas.codecs import json
from lmaas.errors import InvalidInput

HINT = 'Send JSON {"inputs": [{"COLUMN": VALUE, …}]}.'
Shape = Literal["row", "rows", "table", "data"]


class TableCall(msgspec.Struct, forbid_unknown_fields=True):
    """A request: rows in `inputs`, or a table."""

    inputs: Any = None
    table: Any = None
    parameters: dict[str, Any] | None = None


class Rows(msgspec.Struct, kw_only=True):
    """The rows of a request, and in which shape they came."""

    rows: list[Any]
    shape: Shape


def read(body: bytes) -> tuple[Rows, Sequence[str]]:
    """The rows, and the names of the parameters. Raises InvalidInput."""
    call = json.read(body, TableCall)
    if (call.inputs is None) == (call.table is None):
        raise InvalidInput("Send either inputs or table.", hint=HINT, param="inputs")
    return _rows(call), tuple(call.parameters or ())


def _rows(call: TableCall) -> Rows:
    inputs = call.inputs
    if call.table is not None:
        return Rows(rows=_of_table(call.table), shape="table")
    if isinstance(inputs, dict):
        if inputs.keys() == {"data"} and isinstance(inputs["data"], dict):
            return Rows(rows=_of_table(inputs["data"]), shape="data")
        return Rows(rows=[inputs], shape="row")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("inputs must be an object or a list of them.", hint=HINT, param="inputs")
    return Rows(rows=inputs, shape="rows")


def _of_table(table: Any) -> list[dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(cells, list) for cells in table.values()):
        raise InvalidInput("A table is an object with a list of cells for each column.")
    lengths = {name: len(cells) for name, cells in table.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = dict(list(lengths.items())[:20])
        raise InvalidInput(f"A table's columns have one length, not 0; received {shown}.")
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _number(cell: Any) -> Any:
    """A text that is a number as one; all else as it is."""
    if not isinstance(cell, str):
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell


def predictions(values: Sequence[Any], shape: Shape) -> list[Any]:
    """One prediction a row; numbers as such for the client that reads nothing else."""
    numbers = [_number(value) for value in values]
    if shape == "data" and all(isinstance(number, float) for number in numbers):
        return [int(number) if number.is_integer() else number for number in numbers]
    return list(values)
