"""Whatever bytes a data file has, it is read, or refused by an error of ours, with its place.

`FUZZ_EXAMPLES` says how many files each property looks at.
"""

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaas.data import reading
from lmaas.data.conversations import read_examples, read_pairs
from lmaas.data.lines import ENCODINGS
from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.predictions import kind_of, written

SCRATCH = tempfile.TemporaryDirectory()
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "NA", "nan", "1", "-1.5e300", "1e999", "1,5", "1.234,5", "=1+2", '"', '""', "'",
         "a\"b", "a\nb", "a\rb", "\r\n", "\x00", "\ufeff", "\ud800", "ä", "�", "٣", "true", "{}"]
    ),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip
COLUMNS = st.sampled_from(["a", "b", "text", "ü"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)  # fmt: skip
FIELDS = st.sampled_from(
    ["messages", "conversations", "instruction", "input", "output", "prompt", "completion", "text",
     "tools", "role", "content", "from", "value", "tool_calls", "function", "name", "arguments",
     "weight", "id", "history", "system", "preferred_output", "non_preferred_output"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "x", "", "{}", "[]"]
)
KINDS: list[st.SearchStrategy[Any]] = [
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.booleans(),
    st.lists(st.integers() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none() | st.integers(), max_size=2),
    CELLS,
]


@st.composite
def alike(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of which each column has values of one kind, or none."""
    kinds = {name: st.none() | draw(st.sampled_from(KINDS)) for name in draw(st.sets(COLUMNS))}
    return draw(st.lists(st.fixed_dictionaries({}, optional=kinds), max_size=5))


SHAPED = st.recursive(
    WORDS | st.none() | st.integers(0, 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=14,
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A CSV that may be ragged, with any separator, line end, quotes and encoding."""
    separator = draw(st.sampled_from(",;\t|:"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n\r"]))
    quote = draw(st.sampled_from(["", '"', '"', "'"]))
    width = draw(st.integers(1, 4))
    ragged = draw(st.booleans())
    rows = draw(
        st.lists(st.lists(CELLS, min_size=0 if ragged else width, max_size=width), max_size=6)
    )
    if draw(st.booleans()):
        rows.insert(0, [*"abcd"[:width]])
    text = end.join(separator.join(f"{quote}{c}{quote}" for c in row) for row in rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "cp932"]))
    return text.encode(encoding, draw(st.sampled_from(["replace", "ignore"])))


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """JSON Lines, or a list, some of it cut or nested deeply."""
    rows = draw(st.lists(values, max_size=4) | alike())
    told = [json.dumps(row) for row in rows]
    if draw(st.integers(0, 5)) == 5:
        told.append("[" * draw(st.sampled_from([1, 100, 10_000])))
    text = f"[{','.join(told)}]" if draw(st.booleans()) else "\n".join(told)
    cut = draw(st.integers(0, len(text))) if draw(st.integers(0, 5)) == 5 else len(text)
    return text[:cut].encode()


@st.composite
def files(draw: st.DrawFn, names: tuple[str, ...], content: st.SearchStrategy[bytes]) -> Path:
    """A file of some name, plain, packed, or packed and cut."""
    name = draw(st.sampled_from(names))
    data = draw(st.binary(max_size=60) if draw(st.integers(0, 9)) == 9 else content)
    if draw(st.integers(0, 3)) == 0:
        name, data = f"{name}.gz", gzip.compress(data, mtime=0)
        if draw(st.integers(0, 3)) == 0:
            data = data[: draw(st.integers(0, len(data)))]
    return written_to(name, data)


def written_to(name: str, data: bytes) -> Path:
    path = Path(tempfile.mkdtemp(dir=SCRATCH.name)) / name
    path.write_bytes(data)
    return path


def everything(table: Table) -> None:
    """All that tasks ask of a table."""
    calls: list[Callable[[str], Any]] = [
        table.values, table.numerals, table.dates, table.numbers, table.categories, table.texts,
        table.labeled, lambda column: table.labels(column, table.labeled(column)),
        lambda column: table.content(column, 0), lambda column: table.values(column, [0]),
    ]  # fmt: skip
    for column in table.columns:
        for call in calls:
            with suppress(InvalidInput):
                call(column)
        assert np.isin(table.labeled(column), np.arange(len(table))).all()
    assert len(list(table.hashes(table.columns))) == len(table)
    assert table.name in table.place(len(table) - 1)


def reads_or_refuses(path: Path, encoding: str | None) -> None:
    with suppress(InvalidInput):
        everything(reading.read(path, path.parent / "cache", encoding))
    assert not list(path.parent.glob("cache/*.part"))
    for call in (reading.check, read_examples, read_pairs):
        with suppress(InvalidInput):
            call(path)


@given(
    files((".csv", "a.csv", "a.tsv"), tables()), st.none() | st.sampled_from([*ENCODINGS, "x", ""])
)
@FUZZ
def test_tables_are_read_or_refused(path: Path, encoding: str | None) -> None:
    reads_or_refuses(path, encoding)


@given(
    files(("a.jsonl", "a.json", "a.ndjson"), objects(JSON | SHAPED)),
    st.none() | st.sampled_from(ENCODINGS),
)
@FUZZ
def test_objects_are_read_or_refused(path: Path, encoding: str | None) -> None:
    reads_or_refuses(path, encoding)


@given(st.lists(st.dictionaries(FIELDS, SHAPED, max_size=4), min_size=1, max_size=3))
@FUZZ
def test_conversations_are_read_or_refused_with_their_line(rows: list[dict[str, Any]]) -> None:
    path = written_to("a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    refused = ""
    try:
        assert len(read_examples(path).samples) == len(rows)
    except InvalidInput as error:
        refused = error.message
    assert not refused or "a.jsonl, line " in refused


PLAIN = st.text(st.characters(exclude_characters="\x00\r\n", exclude_categories=["Cs"]), max_size=9)


@given(
    st.lists(st.lists(PLAIN, min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from(["\t", "|", ";", ","]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.booleans(),
)
@FUZZ
def test_what_a_table_says_is_what_is_read(
    rows: list[list[str]], separator: str, end: str, encoding: str, packed: bool
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["first", "second"], *rows])
    data = text.getvalue().encode(encoding)
    path = written_to("a.csv.gz" if packed else "a.csv", gzip.compress(data) if packed else data)
    found: list[list[Any]] = []
    refused = ""
    try:
        table = reading.read(path, path.parent / "cache")
        found = [table.values("first"), table.values("second")]
    except InvalidInput as error:
        refused = error.message
    assert "formula" in refused or found == [list(column) for column in zip(*rows, strict=True)]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b"]), JSON, min_size=2), min_size=1, max_size=4
    ),
    st.dictionaries(st.sampled_from(["a", "prediction"]), JSON, min_size=1),
    st.sampled_from(["out.csv", "out.tsv.gz", "out.jsonl", "out.ndjson.gz"]),
)
@FUZZ
def test_rows_that_are_written_can_be_read(
    rows: list[dict[str, Any]], told: dict[str, Any], name: str
) -> None:
    source = written_to("source.csv", b"a")
    out = source.with_name(name)
    with written(out, kind_of(out) or "", io.StringIO(), source) as writer:
        for row in rows:
            writer.write(row, told)
    with suppress(InvalidInput):
        assert len(list(reading.rows(out))) == len(rows)
    assert sorted(path.name for path in source.parent.iterdir()) == sorted([name, "source.csv"])
