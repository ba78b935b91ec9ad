"""Seconds of sound: priced exactly, kept in rows, read from rows of earlier releases."""

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from lmaas.accounts.journal import Begun, UsageEntry, line_of, read_spools
from lmaas.accounts.records import Price
from lmaas.accounts.rows import row_of
from lmaas.generation_types import Usage

BEGUN = Begun("r1", "default", "k", "whisper:1", "audio.transcriptions", 1.0)


def test_a_minute_costs_what_it_says() -> None:
    price = Price(audio_minute_micro=6_000)
    assert price.cost(0, 0, 60_000) == 6_000
    assert price.cost(0, 0, 90_000) == 9_000
    assert price.cost(0, 0, 1) == 1  # a part of a millionth is one


@given(
    prompt=st.integers(0, 10**6), completion=st.integers(0, 10**6), ms=st.integers(0, 10**8),
    prices=st.tuples(*[st.integers(0, 10**7)] * 4),
)  # fmt: skip
def test_the_sum_is_rounded_once(
    prompt: int, completion: int, ms: int, prices: tuple[int, int, int, int]
) -> None:
    first, second, request, minute = prices
    price = Price(
        prompt_micro=first, completion_micro=second, request_micro=request,
        audio_minute_micro=minute,
    )  # fmt: skip
    exact = prompt * first / 10**6 + completion * second / 10**6 + ms * minute / 60_000
    assert abs(price.cost(prompt, completion, ms) - request - exact) <= 1 + exact * 1e-9
    assert price.most(prompt + completion, ms) >= price.cost(prompt, completion, ms)


def test_a_row_has_its_sound_and_older_rows_have_none(tmp_path: Path) -> None:
    row = row_of(BEGUN, 5.0, Usage(0, 12, audio_ms=9_963), 7, "ok", None)
    older = tuple(row)[:-1]
    assert len(older) == 16  # the columns of releases that heard nothing
    spool = tmp_path / "1.spool"
    other = msgspec.json.encode(("r2", *older[1:])) + b"\n"
    spool.write_bytes(line_of(BEGUN) + line_of(row) + other)
    running, rows = read_spools([spool])
    assert not running
    assert isinstance(rows["r1"], UsageEntry)
    assert (rows["r1"].audio_ms, rows["r2"].audio_ms) == (9_963, 0)
