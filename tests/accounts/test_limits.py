"""Rates and calendars: exact for every clock, the same as a slow model that is plainly right."""

import random
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from lmaas.accounts.limits import MINUTE_NS, Bucket, bounds, duration
from lmaas.accounts.records import Price, to_micro, to_money
from lmaas.errors import InvalidInput


@pytest.mark.parametrize("seed", range(30))
def test_a_bucket_gives_what_flows_into_it_and_not_a_unit_more(seed: int) -> None:
    dice = random.Random(seed)
    limit = dice.choice([1, 3, 7, 10, 60, 997, 1_000_000])
    now = dice.randrange(10**15)
    bucket, free, taken = Bucket(limit, now), Fraction(limit), []
    for _ in range(400):
        step = dice.choice([0, 1, dice.randrange(10**6), dice.randrange(MINUTE_NS)])
        now += step
        free = min(Fraction(limit), free + Fraction(limit * step, MINUTE_NS))
        units = dice.choice([0, 1, 1, dice.randrange(limit + 1)])
        assert bucket.remaining(now) == int(free)
        wait_ns = bucket.wait_ns(units, now)
        assert (wait_ns == 0) == (units <= free)
        if wait_ns:
            assert bucket.wait_ns(units, now + wait_ns) == 0
            assert bucket.wait_ns(units, now + wait_ns - 1) > 0
            continue
        bucket.take(units, now)
        free -= units
        taken.append((now, units))
        if units and dice.random() < 0.3:
            back = dice.randrange(units + 1)
            bucket.give(back, now)
            free += back
            taken[-1] = (now, units - back)
    for first, (start, _) in enumerate(taken):
        total = 0
        for end, units in taken[first:]:
            total += units
            assert total <= limit + Fraction(limit * (end - start), MINUTE_NS)


def test_a_full_minute_of_requests_at_once_and_then_one_by_one() -> None:
    bucket = Bucket(7, 0)
    for _ in range(7):
        assert bucket.wait_ns(1, 0) == 0
        bucket.take(1, 0)
    wait_ns = bucket.wait_ns(1, 0)
    assert wait_ns == -(-MINUTE_NS // 7)
    assert bucket.wait_ns(1, wait_ns) == 0
    assert bucket.reset_ns(0) == MINUTE_NS
    assert bucket.remaining(MINUTE_NS) == 7


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(2, MINUTE_NS)
    bucket.take(2, MINUTE_NS)
    assert bucket.wait_ns(1, 0) > 0
    bucket.take(0, 0)
    assert bucket.wait_ns(1, MINUTE_NS) == MINUTE_NS // 2


def test_more_used_than_held_is_a_debt() -> None:
    bucket = Bucket(10, 0)
    bucket.take(5, 0)
    bucket.give(-25, 0)
    assert bucket.remaining(0) == 0
    assert bucket.wait_ns(1, 0) == 21 * MINUTE_NS // 10


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2028-02-29T23:59:59", ("2028-02-29", "2028-03-01"), ("2028-02-01", "2028-03-01")),
        ("2028-03-01T00:00:00", ("2028-03-01", "2028-03-02"), ("2028-03-01", "2028-04-01")),
        ("2030-12-31T12:00:00", ("2030-12-31", "2031-01-01"), ("2030-12-01", "2031-01-01")),
    ],
)
def test_periods_are_utc_days_and_months(
    now: str, day: tuple[str, str], month: tuple[str, str]
) -> None:
    assert bounds("day", at(now)) == (at(day[0]), at(day[1]))
    assert bounds("month", at(now)) == (at(month[0]), at(month[1]))
    start, end = bounds("none", at(now))
    assert start < 0 < at(now) < end


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0ms"), (1, "1ms"), (20_000_000, "20ms"), (1_500_000_000, "1.5s"),
     (59_000_000_000, "59s"), (6 * MINUTE_NS, "6m0s"), (61_000_000_000, "1m1s")],
)  # fmt: skip
def test_times_are_written_as_clients_read_them(ns: int, text: str) -> None:
    assert duration(ns) == text


def test_parts_of_a_millionth_are_rounded_up_and_never_free() -> None:
    price = Price(prompt_micro=150_000, completion_micro=600_000)
    assert price.cost(1, 0) == 1
    assert price.cost(1_000_000, 1_000_000) == 750_000
    assert price.most(10) == price.cost(0, 10) >= price.cost(5, 5)
    assert Price(request_micro=3).cost(10, 10) == 3


def test_money_is_read_and_told_exactly() -> None:
    assert to_micro("12.50", "--budget") == 12_500_000
    assert to_money(12_500_000) == "12.5"
    assert to_money(3) == "0.000003"
    for wrong in ("", "x", "-1", "0.0000001", "NaN", "inf", "1e400"):
        with pytest.raises(InvalidInput):
            to_micro(wrong, "--budget")
