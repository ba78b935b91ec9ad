"""Rows of a file through a model, batch by batch, into another file.

Nothing of either file is in memory but the batch. Knows no transport: whoever asks for it says how
a call is made.
"""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

import msgspec

from lmaas.data.csv import FORMULA
from lmaas.data.lines import GZIP
from lmaas.data.reading import FileRow, rows
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import Task
from lmaas.types import JSON, MAX_SAMPLES, Answer, CompressSample, Payload

COMMA, TAB, LINES = ",", "\t", "lines"
FORMATS: Final = {".csv": COMMA, ".tsv": TAB, ".jsonl": LINES, ".ndjson": LINES}
"""By the end of a file's name, without .gz: what separates cells, or that each line is JSON."""
_ROW: Final = re.compile(r"(?:inputs|documents)\[(\d+)\]")


class Writer(Protocol):
    """What takes rows with their new values."""

    def write(self, row: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Write one row."""
        ...


def kind_of(path: Path) -> str | None:
    """How a file of rows is written, None for what is none."""
    name = path.name.lower().removesuffix(GZIP)
    return FORMATS.get(Path(name).suffix)


def fields_of(texts: Sequence[str]) -> dict[str, str]:
    """`text=review` as {"text": "review"}. Raises InvalidInput."""
    given = {}
    for text in texts:
        field, sign, column = text.partition("=")
        if not sign or not field or not column:
            raise InvalidInput(f"--column takes FIELD=COLUMN; received {text!r}.", param="column")
        given[field] = column
    return given


def predict_rows(
    path: Path,
    task: Task,
    call: Callable[[Payload], Answer],
    writer: Writer,
    *,
    encoding: str | None = None,
    columns: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> int:
    """Write every row of `path` with what the model says of it; how many there are.

    `columns` says for fields of the task in which column they are; `told` hears how many rows are
    done. Raises what `call` raises, naming the line of the row that an error is about.
    """
    pick = _picker(task, dict(columns or {}))
    done = 0
    for batch in _batches(rows(path, encoding), task, pick):
        answers = _ask(batch, task, call, path.parent, parameters or {})
        for asked, values in zip(batch, answers, strict=True):
            writer.write(asked.row.values, values)
        done += len(batch)
        told(done)
    if not done:
        raise InvalidInput(f"{path.name} holds no rows.", param="FILE")
    return done


def samples_of(
    path: Path,
    task: Task,
    expected: str,
    *,
    columns: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[CompressSample, ...]:
    """The rows of `path` as samples that a compressed model is judged by.

    The right answer is in the column `expected`. Raises InvalidInput naming the row.
    """
    pick = _picker(task, dict(columns or {}))
    found: list[CompressSample] = []
    for row in rows(path, None):
        right = row.values.get(expected)
        if isinstance(right, list):
            right = msgspec.json.encode(right).decode()
        if not isinstance(right, str | int):
            told = "nothing" if right is None else type(right).__name__
            raise InvalidInput(
                f"{row.place}: the column {expected!r} must hold a text, a label or a list; "
                f"received {told}.",
                param="expected",
            )
        if len(found) == MAX_SAMPLES:
            raise InvalidInput(
                f"{path.name} has more than {MAX_SAMPLES} rows.",
                hint="Take fewer; a few hundred tell what a model loses.",
                param="data",
            )
        values = {name: value for name, value in row.values.items() if name != expected}
        given = pick(row._replace(values=values))
        found.append(
            CompressSample(
                inputs=task.collect([given], path.parent),
                expected=str(right),
                parameters=dict(parameters or {}),
            )
        )
    if not found:
        raise InvalidInput(f"{path.name} holds no rows.", param="data")
    return tuple(found)


class Asked(NamedTuple):
    """A row, and what of it goes to the model."""

    row: FileRow
    given: Mapping[str, Any]


Pick = Callable[[FileRow], Mapping[str, Any]]


def _picker(task: Task, columns: dict[str, str]) -> Pick:
    """What of a row goes to the model. Raises InvalidInput for a field that the task has not."""
    spec = task.spec
    for field in columns:
        if field not in spec.fields:
            told = f"its fields are {', '.join(spec.fields)}" if spec.fields else "it has none"
            raise InvalidInput(f"{spec.name} has no field {field!r}; {told}.", param="column")

    def pick(row: FileRow) -> Mapping[str, Any]:
        # An empty cell is a value that is not known.
        values = {name: None if value == "" else value for name, value in row.values.items()}
        if not spec.fields:
            return values
        if len(spec.fields) == 1 and len(values) == 1 and not columns:
            return {spec.fields[0]: next(iter(values.values()))}
        found = {}
        for field in spec.fields:
            column = columns.get(field, field)
            if column not in values:
                own = ", ".join(values)[:500] or "nothing"
                raise InvalidInput(
                    f"{row.place} has no column {column!r}; it has {own}.",
                    hint=f"Say where it is: --column {field}=COLUMN.",
                    param="column",
                )
            found[field] = values[column]
        return found

    return pick


def _batches(coming: Iterator[FileRow], task: Task, pick: Pick) -> Iterator[list[Asked]]:
    """The rows in calls: as many as one takes, with the same in the field that they share."""
    batch: list[Asked] = []
    for row in coming:
        asked = Asked(row, pick(row))
        full = len(batch) == task.spec.rows_per_call
        if batch and (full or (task.spec.shared and _share(asked, task) != _share(batch[0], task))):
            yield batch
            batch = []
        batch.append(asked)
    if batch:
        yield batch


def _share(asked: Asked, task: Task) -> Any:
    return asked.given[task.spec.shared] if task.spec.shared else None


def _ask(
    batch: list[Asked],
    task: Task,
    call: Callable[[Payload], Answer],
    folder: Path,
    parameters: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The new values of each row. A batch that is too large is sent in halves."""
    try:
        inputs = task.collect([asked.given for asked in batch], folder)
        body = {"inputs": inputs, **({"parameters": parameters} if parameters else {})}
        answer = call(Payload(media_type=JSON, body=msgspec.json.encode(body)))
        return task.records(msgspec.json.decode(answer.body))
    except PayloadTooLarge as error:
        if len(batch) == 1:
            raise _placed(error, batch) from None
        middle = len(batch) // 2
        halves = (batch[:middle], batch[middle:])
        return [told for half in halves for told in _ask(half, task, call, folder, parameters)]
    except LMaaSError as error:
        raise _placed(error, batch) from None


def _placed(error: LMaaSError, batch: list[Asked]) -> LMaaSError:
    """The error with the row's place in the file instead of its place in the call."""
    first, last = batch[0].row.place, batch[-1].row.place
    found = _ROW.search(error.message)
    if found and int(found.group(1)) < len(batch):
        place = batch[int(found.group(1))].row.place
        error.message = error.message.replace(found.group(), place, 1)
    elif isinstance(error, InvalidInput) and first not in error.message:
        more = "" if len(batch) == 1 else f" to {last.rpartition(', ')[2]}"
        error.message = f"{first}{more}: {error.message}"
    return error


class _Separated:
    """Rows as CSV; the first one says the columns."""

    def __init__(self, file: IO[str], separator: str) -> None:
        self._writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        self._columns: list[str] | None = None
        self._own: dict[str, str] = {}

    def write(self, row: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Write one row; lists and objects as JSON."""
        if self._columns is None:
            self._own = _named(told, row)
            self._columns = [*row]
            self._writer.writerow([*self._columns, *self._own.values()])
        for name in row.keys() - set(self._columns):
            raise InvalidInput(
                f"A row has the column {name!r}, which the first one has not.",
                hint="Write JSONL: --out FILE.jsonl.",
                param="out",
            )
        cells = [row.get(name) for name in self._columns]
        self._writer.writerow(
            [*map(_cell, cells), *(_safe(_cell(told.get(name))) for name in self._own)]
        )


class _Lines:
    """Rows as JSON, one a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Write one row."""
        own = _named(told, row)
        whole = {**row, **{own[name]: value for name, value in told.items()}}
        self._file.write(msgspec.json.encode(whole).decode() + "\n")


@contextmanager
def written(out: Path | None, kind: str, standard: IO[str], source: Path) -> Iterator[Writer]:
    """A writer into the file `out`, complete or not there, or without it to `standard`.

    Raises InvalidInput for a file of another kind, and for `source` itself.
    """
    if out is None:
        yield _writer(standard, kind)
        return
    known = kind_of(out)
    if known is None:
        raise InvalidInput(
            f"{out.name} is of no kind that is written: {', '.join(FORMATS)}, each also as .gz.",
            param="out",
        )
    if out.exists() and out.samefile(source):
        raise InvalidInput(f"{out} is what is read.", hint="Name another file.", param="out")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with ExitStack() as stack:
            raw: Any = stack.enter_context(part.open("xb"))
            if out.suffix.lower() == GZIP:
                raw = stack.enter_context(gzip.GzipFile(out.stem, "wb", fileobj=raw, mtime=0))
            text = stack.enter_context(io.TextIOWrapper(raw, "utf-8", newline=""))
            yield _writer(text, known)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _writer(file: IO[str], kind: str) -> Writer:
    return _Lines(file) if kind == LINES else _Separated(file, kind)


def _named(told: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    """By the name of a new value the name of its column: another one where the row has it."""
    named: dict[str, str] = {}
    for name in told:
        own = name
        while own in row or own in named.values():
            own += "_"
        named[name] = own
    return named


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _safe(cell: str) -> str:
    """A cell that no spreadsheet computes: a label may come from anybody."""
    return f"'{cell}" if FORMULA.match(cell) else cell
