"""Comma-separated values (RFC 4180) with a header; semicolons, tabs and bars separate too.

Every cell stays the text that it is; what is a number is the table's to say.
"""

import contextlib
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa

from lmaas.data import table
from lmaas.data.lines import GZIP, lines
from lmaas.errors import InvalidInput

SEPARATORS: Final = "\t|;,"
"""In the order in which they win where they fit alike: a comma also stands in numbers and texts."""
SNIFFED_CHARS: Final = 1 << 16
"""So much of a file is parsed with each separator to find its own."""
INDEX: Final = "The first column has no name: it is an index, and left out."
MAX_CELL_CHARS: Final = 16 << 20
"""How long a cell may be, and so how much of a file a quote that nothing closes can take."""
csv.field_size_limit(MAX_CELL_CHARS)
STATED: Final = re.compile(r'"?sep=([,;\t|])"?')
"""A first line by which spreadsheets say the separator."""
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


class Opened(NamedTuple):
    """The columns' names, the checked rows below them, and what is to be told of the file."""

    names: list[str]
    rows: Iterator[tuple[int, list[str]]]
    notes: tuple[str, ...]


def convert(source: Path, target: Path, encoding: str | None = None) -> None:
    """Write `source` as an Arrow file of texts. Raises InvalidInput naming the line."""
    names, rows, notes = read(source, encoding)
    fields = [pa.field(name, pa.string()) for name in names]
    schema = pa.schema([*fields, pa.field(table.LINE, pa.int64())], table.noted("line", notes))
    table.write(target, schema, _batches(names, schema, rows))


def check(source: Path, encoding: str | None = None) -> None:
    """Raise InvalidInput, naming the line, for what `convert` would refuse."""
    if not sum(1 for _ in read(source, encoding).rows):
        raise InvalidInput(f"{source.name} holds no samples.", param="data")


def read(source: Path, encoding: str | None = None) -> Opened:
    """What is in `source`, row by row. Raises InvalidInput, also while the rows are read."""
    rows = _rows(source, encoding)
    at, header = next(rows, (0, None))
    if header is None:
        raise InvalidInput(f"{source.name} holds no samples.", param="data")
    names = [name.strip() for name in header]
    checked = _checked(source.name, len(names), rows)
    if len(names) > 1 and not names[0]:
        # Data frames are saved with the numbers or names of their rows before the first column.
        names = names[1:]
        checked = ((number, row[1:]) for number, row in checked)
        notes: tuple[str, ...] = (INDEX,)
    else:
        notes = ()
    table.check_columns(names, f"{source.name}, line {at}")
    return Opened(names, _without_formulas(source.name, names, checked), notes)


def _checked(
    file: str, width: int, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        if len(row) != width:
            raise InvalidInput(
                f"{file}, line {number}: {len(row)} cells; the header has {width} columns.",
                param="data",
            )
        yield number, row


def _without_formulas(
    file: str, names: list[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        for name, cell in zip(names, row, strict=True):
            if cell and FORMULA.match(cell):
                raise InvalidInput(
                    f"{file}, line {number}: {name!r} holds a formula, {cell[:40]!r}.",
                    hint="Export the values, not the formulas.",
                    param="data",
                )
        yield number, row


def _separator(source: Path, encoding: str | None) -> tuple[str, int]:
    """What separates cells, and how many lines before the header say so.

    The header is cut by it, and of the rows below as many as possible into as many cells.
    """
    head: list[str] = []
    size = 0
    for _, line in lines(source, encoding):
        stated = STATED.fullmatch(line.strip("\r\n")) if not head else None
        if stated:
            return stated.group(1), 1
        head.append(line)
        size += len(line)
        if size > SNIFFED_CHARS:
            break
    if Path(source.name.lower().removesuffix(GZIP)).suffix == ".tsv":
        return "\t", 0

    found = {separator: _fit(head, separator) for separator in SEPARATORS}
    best = max(found, key=lambda separator: found[separator])
    return best if found[best][1] else ",", 0


def _fit(head: list[str], separator: str) -> tuple[float, int]:
    """How well a separator cuts: the share of rows as wide as the header, and that width."""
    widths: list[int] = []
    # A parse ends early at what was cut off, or where the separator is not the file's own.
    with contextlib.suppress(csv.Error):
        rows = csv.reader(head, delimiter=separator, strict=True)
        widths.extend(len(row) for row in rows if not _blank(row))
    if not widths or widths[0] < 2:
        return 0.0, 0
    below = widths[1:]
    return below.count(widths[0]) / len(below) if below else 1.0, widths[0]


def _blank(row: list[str], width: int = 0) -> bool:
    """Whether a line has nothing; below a header of one column, blanks are a cell."""
    return not row or (len(row) == 1 != width and not row[0].strip())


def _rows(source: Path, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of its first line."""
    separator, skipped = _separator(source, encoding)
    number = width = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for at, line in lines(source, encoding):
            number = at
            if at > skipped:
                yield line

    reader = csv.reader(counted(), delimiter=separator, strict=True)
    while True:
        start = max(number, skipped) + 1
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
        if not _blank(row, width):
            width = width or len(row)
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
