"""The ledger: everything or nothing is held, once is settled, and the table is what was counted."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmaas.accounts import usage
from lmaas.accounts.call_counters import SLOTS
from lmaas.accounts.journal import FOLDER
from lmaas.accounts.keys import Keys
from lmaas.accounts.ledger import Ledger
from lmaas.accounts.limits_store import LimitsStore
from lmaas.accounts.records import FREE, Limits, Price, UsageRow
from lmaas.accounts.reservation import CountedCall, Reservation
from lmaas.accounts.rows import SERVER_ENDED
from lmaas.errors import InsufficientQuota, InvalidInput, NotFound, RateLimited, Unavailable
from lmaas.generation_types import Usage
from lmaas.registry.store import Registry
from lmaas.types import (
    TENANT,
    KeyRecord,
)  # fmt: skip

NOON = 1_900_000_000.0
DAY_S = 86_400


class Books:
    """A ledger with a clock that stands still unless it is moved, and two keys."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.registry = Registry(home)
        self.limits_store = LimitsStore(self.registry.database)
        keys = Keys(self.registry)
        self.key, _ = keys.create(TENANT, "one", ("call",))
        self.other, _ = keys.create(TENANT, "two", ("call",))
        self.now = NOON
        self.monotonic_ns = 10**12
        self.count = itertools.count(1)
        self.ledger = self.make()
        self.ledger.open()

    def make(self) -> Ledger:
        return Ledger(self.registry, now=lambda: self.now, monotonic_ns=lambda: self.monotonic_ns)

    def reserve(
        self, tokens: int = 0, key: KeyRecord | None = None, model: str = "m:1"
    ) -> Reservation:
        number = next(self.count)
        key = key or self.key
        self.ledger.freshen(key)
        return self.ledger.reserve(
            key,
            request_id=f"req-{number}",
            endpoint="chat.completions",
            model=model,
            tokens=tokens,
        )

    def check(self) -> bool:
        self.ledger.freshen(self.key)
        return self.ledger.check(self.key, "m:1")

    def calls(self, model: str = "m:1", key: KeyRecord | None = None) -> CountedCall | None:
        key = key or self.key
        self.ledger.freshen(key)
        return self.ledger.count(key, "models", model)

    def limit(self, key_id: str | None = "", **given: object) -> None:
        place = self.key.id if key_id == "" else key_id
        self.limits_store.set_limits(TENANT, place, Limits(**given))  # type: ignore[arg-type] # named

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic_ns += int(seconds * 1e9)

    def rows(self, *by: str, key_id: str | None = None) -> tuple[UsageRow, ...]:
        self.ledger.flush()
        return usage.report(
            self.registry.database, TENANT, start="2030-01-01", end="2030-12-31", by=by,
            key_id=key_id,
        ).data  # fmt: skip

    def cost(self) -> int:
        return self.rows()[0].cost_micro


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.ledger.shut()
    books.registry.close()


def test_200_at_once_against_a_budget_for_10(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(completion_micro=1_000_000))
    books.limit(budget_micro=1000, period="day")

    def ask(_: int) -> Reservation | None:
        try:
            return books.reserve(tokens=100)
        except InsufficientQuota:
            return None

    with ThreadPoolExecutor(64) as threads:
        admitted = [one for one in threads.map(ask, range(200)) if one]
    assert len(admitted) == 10
    for one in admitted:
        one.settle(Usage(prompt=0, completion=100))
    with pytest.raises(InsufficientQuota, match=r"0\.001 is spent"):
        books.reserve(tokens=1)
    (row,) = books.rows()
    assert (row.requests, row.cost_micro) == (10, 1000)


def test_what_is_held_and_not_used_is_free_again(books: Books) -> None:
    books.limits_store.set_price(
        TENANT, "m", Price(prompt_micro=1_000_000, completion_micro=2_000_000)
    )
    books.limit(budget_micro=1000, tokens_per_minute=1000)
    first = books.reserve(tokens=500)
    with pytest.raises(InsufficientQuota):
        books.reserve(tokens=1)
    first.settle(Usage(prompt=10, completion=20))
    assert books.cost() == 50
    books.reserve(tokens=475).settle(None, "failed", "timed_out")
    assert books.cost() == 50
    second = books.reserve(tokens=475)
    assert dict(second.headers)[b"x-ratelimit-remaining-tokens"] == b"495"
    second.settle(Usage(prompt=0, completion=475), "cancelled", "cancelled")
    with pytest.raises(InsufficientQuota):
        books.reserve(tokens=1)
    (row,) = books.rows()
    assert (row.requests, row.failed, row.cancelled, row.cost_micro) == (3, 1, 1, 1000)


def test_settled_twice_is_settled_once(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(request_micro=5))
    books.limit(concurrent=1, budget_micro=100)
    with books.reserve() as one:
        one.usage = Usage(prompt=1, completion=1)
        one.settle(one.usage)
        one.settle(None, "failed", "timed_out")
    (row,) = books.rows()
    assert (row.requests, row.failed, row.cost_micro) == (1, 0, 5)
    two = books.reserve()
    with pytest.raises(RateLimited, match="at most 1"):
        books.reserve()
    two.settle(None)


def test_as_a_context_a_request_ends_with_what_ended_it(books: Books) -> None:
    for error in (RateLimited("x"), KeyError(), asyncio.CancelledError()):
        with pytest.raises(type(error)), books.reserve():
            raise error
    with books.reserve() as reservation:
        reservation.usage = Usage(prompt=7)
    (row,) = books.rows()
    assert (row.requests, row.failed, row.cancelled, row.prompt_tokens) == (4, 2, 1, 7)


def test_all_levels_must_allow_and_a_refusal_takes_nothing(books: Books) -> None:
    books.limit(requests_per_minute=100, tokens_per_minute=1000)
    books.limit(None, requests_per_minute=3, tokens_per_minute=50)
    for _ in range(5):
        with pytest.raises(RateLimited, match="tenant has 50"):
            books.reserve(tokens=60)
    for _ in range(2):
        books.reserve(tokens=10).settle(Usage(prompt=10))
    books.reserve(tokens=10, key=books.other).settle(Usage(prompt=10))
    with pytest.raises(RateLimited, match="tenant has 3 requests") as caught:
        books.reserve(tokens=10)
    assert caught.value.retry_after_s == 20
    books.pass_s(20)
    headers = dict(books.reserve(tokens=10).headers)
    assert headers == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"x-ratelimit-limit-tokens": b"50",
        b"x-ratelimit-remaining-tokens": b"26",
        b"x-ratelimit-reset-tokens": b"28s",
    }
    books.limit(None)
    assert dict(books.reserve().headers)[b"x-ratelimit-limit-requests"] == b"100"


def test_who_may_not_ask_is_told_before_tokens_are_counted(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(prompt_micro=1_000_000))
    assert not books.check()
    books.limit(requests_per_minute=2, tokens_per_minute=60, budget_micro=50)
    for _ in range(3):
        assert books.check()
    books.reserve(tokens=49).settle(Usage(prompt=49))
    assert books.check()
    books.reserve(tokens=1).settle(Usage(prompt=1))
    with pytest.raises(RateLimited, match="2 requests") as caught:
        books.check()
    assert dict(caught.value.headers)[b"x-ratelimit-remaining-tokens"] == b"10"
    books.pass_s(30)
    with pytest.raises(InsufficientQuota) as spent:
        books.check()
    assert dict(spent.value.headers)[b"x-ratelimit-remaining-requests"] == b"1"
    (row,) = books.rows()
    assert row.requests == 2


def test_a_request_that_can_never_run_says_so(books: Books) -> None:
    books.limit(tokens_per_minute=50)
    with pytest.raises(RateLimited, match="max_tokens") as caught:
        books.reserve(tokens=51)
    assert caught.value.never


def test_limits_of_another_process_are_seen_and_count_what_runs(books: Books) -> None:
    running = [books.reserve(tokens=100) for _ in range(3)]
    other = Registry(books.home)
    books.limits_store.set_price(TENANT, "m", Price(completion_micro=1_000_000))
    priced = books.reserve(tokens=100)
    before = books.ledger.revision()
    LimitsStore(other.database).set_limits(
        TENANT, books.key.id, Limits(concurrent=5, tokens_per_minute=600, budget_micro=250)
    )
    other.close()
    # A commit of another connection shows after a millisecond.
    while books.ledger.revision() == before:
        pass
    fifth = books.reserve(tokens=100)
    with pytest.raises(RateLimited, match="at most 5"):
        books.reserve()
    priced.settle(Usage(prompt=0, completion=100))
    with pytest.raises(InsufficientQuota):
        books.reserve(tokens=100)
    for one in (*running, fifth):
        one.settle(None)
    books.reserve(tokens=150).settle(Usage(prompt=0, completion=150))
    assert books.cost() == 250


def test_a_budget_set_later_knows_what_was_spent(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(request_micro=10))
    books.reserve().settle(None)
    books.ledger.flush()
    books.reserve().settle(None)
    held = books.reserve()
    books.limit(budget_micro=40)
    books.reserve().settle(None)
    with pytest.raises(InsufficientQuota):
        books.reserve()
    held.settle(None)
    with pytest.raises(InsufficientQuota):
        books.reserve()
    assert books.cost() == 40


def test_a_period_ends_and_a_request_belongs_to_where_it_began(books: Books) -> None:
    books.now = NOON // DAY_S * DAY_S + DAY_S - 1
    books.limits_store.set_price(TENANT, "m", Price(request_micro=10))
    books.limit(budget_micro=20, period="day")
    books.reserve().settle(None)
    late = books.reserve()
    with pytest.raises(InsufficientQuota, match="starts again on 2030-03-18"):
        books.reserve()
    books.now += 1
    books.reserve().settle(None)
    late.settle(None)
    books.reserve().settle(None)
    with pytest.raises(InsufficientQuota):
        books.reserve()
    assert [row.cost_micro for row in books.rows("day")] == [20, 20]
    # A clock that was wrong and is set back: that day's money is spent all the same.
    books.now -= 1
    with pytest.raises(InsufficientQuota):
        books.reserve()
    books.now += 30 * DAY_S
    books.reserve().settle(None)


def test_a_jump_of_the_wall_clock_moves_no_rate(books: Books) -> None:
    books.limit(requests_per_minute=1)
    books.reserve()
    books.now += 10 * DAY_S
    with pytest.raises(RateLimited):
        books.reserve()
    books.now -= 20 * DAY_S
    books.monotonic_ns += 60 * 10**9
    books.reserve()


def test_a_soft_budget_only_tells(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(request_micro=10))
    books.limit(soft_budget_micro=10, period="month")
    one = books.reserve()
    assert one.headers == []
    one.settle(None)
    assert books.reserve().headers == [(b"x-lmaas-budget", b"soft budget passed")]


def test_counters_are_what_the_table_adds_up_to(books: Books) -> None:
    dice = random.Random(0)
    books.limits_store.set_price(TENANT, "m", Price(prompt_micro=333_333, completion_micro=777_777))
    books.limit(budget_micro=3000, period="day")
    running: list[tuple[Reservation, int]] = []
    for _ in range(600):
        if running and dice.random() < 0.5:
            one, tokens = running.pop(dice.randrange(len(running)))
            used = dice.randrange(tokens + 1)
            one.settle(dice.choice([Usage(prompt=used), Usage(prompt=0, completion=used), None]))
        else:
            tokens = dice.randrange(1, 300)
            try:
                running.append((books.reserve(tokens=tokens), tokens))
            except InsufficientQuota:
                books.pass_s(dice.randrange(DAY_S))
        if dice.random() < 0.05:
            books.ledger.flush()
    for one, _ in running:
        one.settle(None)
    assert len(books.rows("day")) > 3
    assert all(row.cost_micro <= 3000 for row in books.rows("day"))
    (level,) = books.ledger._levels.values()
    assert level.period is not None
    assert level.period.reserved == 0
    day = [r for r in books.rows("day") if r.cost_micro == level.period.spent]
    assert day
    assert level.running == 0


def test_only_one_process_keeps_the_accounts(books: Books) -> None:
    second = books.make()
    second.open()
    with pytest.raises(Unavailable):
        second.reserve(books.key, request_id="x", endpoint="e", model="m", tokens=0)
    second.shut()
    books.ledger.shut()
    second.open()
    second.reserve(books.key, request_id="x", endpoint="e", model="m", tokens=0).settle(None)
    second.shut()


def test_what_was_not_written_is_found_once_at_the_next_start(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(request_micro=10))
    books.limit(budget_micro=1000)
    books.reserve().settle(None)
    lost = books.reserve()
    books.ledger.flush()
    books.reserve().settle(Usage(prompt=3, completion=4))
    folder = books.home / FOLDER
    spools = {path.name: path.read_bytes() for path in folder.glob("*.spool")}
    assert spools
    lost.settle(None)
    books.ledger.shut()
    for _ in range(2):  # As after a kill: the same notes, the second time with their rows there.
        for name, content in spools.items():
            (folder / name).write_bytes(content + b'["req-9","default","cut')
        again = books.make()
        again.open()
        assert not list(folder.glob("*.spool"))
        again.shut()
    books.ledger = books.make()
    books.ledger.open()
    (row,) = books.rows()
    assert (row.requests, row.prompt_tokens, row.cost_micro) == (3, 3, 30)
    (level,) = books.ledger._levels.values()
    assert level.period is not None
    assert level.period.spent == 30


def test_a_request_that_never_ended_becomes_a_failed_row(books: Books) -> None:
    books.limits_store.set_price(TENANT, "m", Price(request_micro=10))
    running = books.reserve(tokens=100)
    books.reserve(tokens=5).settle(Usage(prompt=5))
    (spool,) = (books.home / FOLDER).glob("*.spool")
    content = spool.read_bytes()
    running.settle(None)
    books.ledger.shut()
    with books.registry.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM usage")
    spool.write_bytes(content)
    books.ledger.open()
    with books.registry.database.read() as connection:
        query = "SELECT request_id, status, error_code, cost_micro FROM usage ORDER BY 1"
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    assert found == [("req-1", "failed", SERVER_ENDED, 0), ("req-2", "ok", None, 10)]


def test_calls_that_nothing_bounds_are_summed(books: Books) -> None:
    def count(model: str = "m:1", key: KeyRecord | None = None) -> CountedCall:
        counted = books.calls(model, key)
        assert counted is not None
        return counted

    late = count()
    for _ in range(1000):
        with count():
            books.pass_s(0.001)
    for error in (KeyError(), asyncio.CancelledError()):
        with pytest.raises(type(error)), count(key=books.other):
            raise error
    with count("n:2"):
        pass
    for _ in range(2):
        assert [(r.model, r.requests, r.failed, r.cancelled) for r in books.rows("model")] == [
            ("m", 1002, 1, 1),
            ("n", 1, 0, 0),
        ]
    with late:
        pass
    assert books.rows("model")[0].requests == 1003
    assert books.rows()[0].duration_ms == pytest.approx(2000)
    with books.registry.database.read() as connection:
        query = "SELECT count(*) FROM usage"
        assert connection.exec_driver_sql(query).scalar_one() == 5
    books.limit(concurrent=1)
    assert books.calls() is None
    books.limits_store.set_price(TENANT, "m", Price(request_micro=1))
    assert books.calls(key=books.other) is None
    count("n:2", books.other)


def test_more_kinds_of_calls_than_there_is_room_for_get_rows(books: Books) -> None:
    for _ in range(2):
        found = [books.calls(f"m{number}:1") for number in range(SLOTS + 1)]
        assert [one is None for one in found] == [False] * SLOTS + [True]
        for one in found[:-1]:
            assert one is not None
            with one:
                pass
        books.ledger.flush()
    assert books.rows()[0].requests == 2 * SLOTS
    assert books.calls("x" * 500 + ":1") is None


def test_what_a_killed_stream_delivered_is_billed_once(books: Books) -> None:
    books.limits_store.set_price(
        TENANT, "m", Price(prompt_micro=1_000_000, completion_micro=2_000_000)
    )
    running, ended = books.reserve(tokens=100), books.reserve(tokens=100)
    for completion in range(1, 8):
        running.delivered(3, completion)
        ended.delivered(4, completion)
    ended.settle(Usage(prompt=4, completion=9))
    again = books.reserve(tokens=100)  # in the place that got free, and with nothing delivered
    again.delivered(5, 0)
    folder = books.home / FOLDER
    content = {path: path.read_bytes() for path in folder.iterdir()}
    for reservation in (running, again):
        reservation.settle(None)
    books.ledger.shut()
    assert not (folder / "delivered").exists()
    with books.registry.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM usage")
    books.limits_store.set_price(TENANT, "m", Price())
    for _ in range(2):
        for path, data in content.items():
            path.write_bytes(data)
        books.ledger.open()
        (row,) = books.rows()
        assert (row.requests, row.failed) == (3, 2)
        assert (row.prompt_tokens, row.completion_tokens) == (3 + 4 + 5, 7 + 9)
        assert row.cost_micro == 3 + 2 * 7 + 4 + 2 * 9 + 5
        books.ledger.shut()


def test_sums_of_a_killed_process_are_found_once(books: Books) -> None:
    for _ in range(3):
        with books.calls() or books.reserve():
            pass
    running = books.calls()
    assert running is not None
    (tally,) = (books.home / FOLDER).glob("*.tally")
    content = tally.read_bytes()
    with running:
        pass
    books.ledger.shut()
    with books.registry.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM usage")
    for _ in range(2):
        tally.write_bytes(content)
        books.ledger.open()
        (row,) = books.rows()
        assert (row.requests, row.failed) == (4, 1)
        books.ledger.shut()
        assert not list((books.home / FOLDER).glob("*.tally"))


def test_rows_are_grouped_and_bounded(books: Books) -> None:
    books.reserve(model="a:1").settle(Usage(prompt=1, cached=1))
    books.reserve(model="a:2", key=books.other).settle(Usage(prompt=2, completion=3, reasoning=1))
    books.pass_s(DAY_S)
    books.reserve(model="b:1").settle(None, "failed", "x")
    assert [(r.model, r.requests) for r in books.rows("model")] == [("a", 2), ("b", 1)]
    assert [(r.day, r.prompt_tokens) for r in books.rows("day")] == [
        ("2030-03-17", 3),
        ("2030-03-18", 0),
    ]
    grouped = books.rows("day", "model", "key")
    assert len(grouped) == 3
    assert all(row.key and row.model and row.day for row in grouped)
    (mine,) = books.rows(key_id=books.other.id)
    assert (mine.completion_tokens, mine.reasoning_tokens, mine.key) == (3, 1, None)
    database = books.registry.database
    day = usage.report(database, TENANT, start="2030-03-18", end="2030-03-18")
    assert day.data[0].requests == 1
    assert usage.report(database, "nobody", start="2030-01-01", end="2030-12-31").data == (
        usage.report(database, TENANT, start="2031-01-01", end="2031-12-31").data
    )
    for wrong in (
        {"start": "soon"},
        {"by": ["tenant"]},
        {"start": "2031-01-02", "end": "2031-01-01"},
        {"end": "9999-12-31"},
        {"start": "1969-12-31"},
    ):
        with pytest.raises(InvalidInput):
            usage.report(database, TENANT, **wrong)


def test_limits_and_prices_that_make_no_sense_are_refused(books: Books) -> None:
    with pytest.raises(InvalidInput, match="period"):
        books.limit(period="day")
    with pytest.raises(InvalidInput, match="soft"):
        books.limit(budget_micro=1, soft_budget_micro=2)
    with pytest.raises(NotFound):
        books.limit("nobody", concurrent=1)
    with pytest.raises(NotFound):
        books.limits_store.limits("another tenant", books.key.id)
    with pytest.raises(InvalidInput):
        books.limits_store.set_price(TENANT, "../m", FREE)
    books.limits_store.set_price(TENANT, "m", Price(request_micro=1))
    assert [item.model for item in books.limits_store.prices(TENANT)] == ["m"]
    books.limits_store.set_price(TENANT, "m", FREE)
    assert books.limits_store.prices(TENANT) == []
