"""Comma-separated values (RFC 4180) with a header; semicolons and tabs separate too.

Every cell stays the text that it is; what is a number is the table's to say.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from lmaas.data import table
from lmaas.data.lines import lines
from lmaas.errors import InvalidInput

SEPARATORS: Final = ",;\t"
CELL: Final = r"(?:(?:'[^']*'|\w[\w.]*)!)?\$?[A-Z]{1,3}\$?[1-9][0-9]*"
NUMBER: Final = r"\.?[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?"
FORMULA: Final = re.compile(
    rf"""\s*(?=[-=+@#])(?:
        = [-+(@]*
          (?: ["'{{\[#] | (?:{NUMBER} | [$\\]?[^\W\d][\w.$]*) \s* (?:$ | [-+*/^&=<>%:;,!|()]))
        | [-+@]+ (?: [A-Z][A-Z0-9.]*\( | \w+\|')
        | [-+]+ (?: \(*{NUMBER}\)* \s*[-+*/^&]\s* )* \(*{CELL}\)*
          (?: \s*[-+*/^&:]\s* \(*(?:{CELL} | {NUMBER})\)* )* \s*$
        | \#(?:REF|VALUE|NAME|DIV/0|NUM|NULL)[!?]
    )""",
    re.VERBOSE,
)
"""What a spreadsheet computes, or says of a formula that failed, with or without blanks before it.

After "=" stands a text in quotes, a number or a name with nothing, an operator or "(" after it:
=1+2, =TRUE, =SUM(A1), =cmd|'…'!A0. After "+", "-" or "@" only what a spreadsheet writes so: a
function or a program (@SUM(A1)), or cells and numbers up to the end (-A1+2). So -3, +1-800-5550,
"- a dash", "-A1 is sold out", "@ann: hello", "= a heading =" and "=) fine" are values.
"""


def convert(source: Path, target: Path) -> None:
    """Write `source` as an Arrow file of texts. Raises InvalidInput naming the line."""
    names, rows = _opened(source)
    fields = [pa.field(name, pa.string()) for name in names]
    schema = pa.schema([*fields, pa.field(table.LINE, pa.int64())])
    table.write(target, schema, _batches(names, schema, rows))


def check(source: Path) -> None:
    """Raise InvalidInput, naming the line, for what `convert` would refuse."""
    _, rows = _opened(source)
    if not sum(1 for _ in rows):
        raise InvalidInput(f"{source.name} holds no samples.", param="data")


def _opened(source: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The columns' names, and the rows below them, each checked."""
    rows = _rows(source)
    at, header = next(rows, (0, None))
    if header is None:
        raise InvalidInput(f"{source.name} holds no samples.", param="data")
    names = [name.strip() for name in header]
    table.check_columns(names, f"{source.name}, line {at}")
    return names, _checked(source.name, names, rows)


def _checked(
    file: str, names: list[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        if len(row) != len(names):
            raise InvalidInput(
                f"{file}, line {number}: {len(row)} cells; the header has {len(names)} columns.",
                param="data",
            )
        for name, cell in zip(names, row, strict=True):
            if cell and FORMULA.match(cell):
                raise InvalidInput(
                    f"{file}, line {number}: {name!r} holds a formula, {cell[:40]!r}.",
                    hint="Export the values, not the formulas.",
                    param="data",
                )
        yield number, row


def _rows(source: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of its first line."""
    head = next((line for _, line in lines(source) if line.strip()), "")
    known = "\t" if source.suffix == ".tsv" else SEPARATORS
    separator = max(known, key=lambda s: len(next(csv.reader([head], delimiter=s))))
    number = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for at, line in lines(source):
            number = at
            yield line

    reader = csv.reader(counted(), delimiter=separator, strict=True)
    while True:
        start = number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(
                f"{source.name}, line {start} is not CSV: {error}.",
                hint='A cell with a separator, quote or line break stands in "…", quotes twice.',
                param="data",
            ) from None
        if row and (len(row) > 1 or row[0].strip()):
            yield start, row


def _batches(
    names: list[str], schema: pa.Schema, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[pa.RecordBatch]:
    held: list[list[str]] = []
    numbers: list[int] = []

    def batch() -> pa.RecordBatch:
        columns = list(zip(*held, strict=True)) or [() for _ in names]
        arrays = [*(pa.array(c, pa.string()) for c in columns), pa.array(numbers, pa.int64())]
        held.clear()
        numbers.clear()
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    most = max(1, table.BATCH_ROWS * 16 // max(16, len(names)))
    for number, row in rows:
        held.append(row)
        numbers.append(number)
        if len(held) >= most:
            yield batch()
    yield batch()
