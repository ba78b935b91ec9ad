"""The ledger under any order of requests, limits, flushes and crashes.

A model beside it knows what was settled. Whatever comes, the table has each request once with what
it cost, nothing that is held is negative, and no budget is passed.
"""

import contextlib
import functools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fuzz.effort import effort
from lmaas.accounts.keys import Keys
from lmaas.accounts.ledger import Ledger
from lmaas.accounts.limits_store import LimitsStore
from lmaas.accounts.records import Limits, Price
from lmaas.accounts.reservation import Reservation
from lmaas.errors import InsufficientQuota, RateLimited
from lmaas.generation_types import Usage
from lmaas.registry.store import Registry
from lmaas.types import TENANT

SCRATCH = tempfile.TemporaryDirectory(prefix="lmaas-ledger-empty-")
NOON = 1_900_000_000.0
KEYS = st.integers(0, 1)
LIMITS = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(1, 8),
    tokens_per_minute=st.none() | st.integers(1, 400),
    concurrent=st.none() | st.integers(1, 4),
    budget_micro=st.none() | st.integers(0, 3000),
    period=st.sampled_from(["none", "day", "month"]),
).filter(lambda limits: limits.budget_micro is not None or limits.period == "none")
PRICES = st.builds(
    Price,
    prompt_micro=st.integers(0, 3_000_000),
    completion_micro=st.integers(0, 3_000_000),
    request_micro=st.integers(0, 20),
)


@functools.cache
def _empty() -> Path:
    """A home whose database is made already, which takes longer than a whole case."""
    home = Path(SCRATCH.name) / "home"
    Registry(home).close()
    return home


class Open(NamedTuple):
    """A request that runs, and what it has delivered so far."""

    reservation: Reservation
    tokens: int
    delivered: Usage | None


class Told(NamedTuple):
    """What the table must say of a request."""

    status: str
    prompt: int
    completion: int
    cost: int


class LedgerMachine(RuleBasedStateMachine):
    """One home; the ledger in it is closed, killed and opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lmaas-ledger-"))
        self.home = self.folder / "home"
        shutil.copytree(_empty(), self.home)
        self.registry = Registry(self.home)
        self.limits_store = LimitsStore(self.registry.database)
        keys = Keys(self.registry)
        self.keys = [keys.create(TENANT, name, ("call",))[0] for name in ("one", "two")]
        self.now, self.monotonic_ns = NOON, 10**12
        self.running: dict[str, Open] = {}
        self.told: dict[str, Told] = {}
        self.count = 0
        self.ledger = self.make()

    def make(self) -> Ledger:
        ledger = Ledger(self.registry, now=lambda: self.now, monotonic_ns=lambda: self.monotonic_ns)
        ledger.open()
        return ledger

    @rule(key=KEYS, tokens=st.integers(0, 200))
    def reserve(self, key: int, tokens: int) -> None:
        self.count += 1
        self.ledger.freshen(self.keys[key])
        with contextlib.suppress(RateLimited, InsufficientQuota):
            reservation = self.ledger.reserve(
                self.keys[key],
                request_id=f"req-{self.count}",
                endpoint="chat",
                model="m:1",
                tokens=tokens,
            )
            self.running[f"req-{self.count}"] = Open(reservation, tokens, None)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.floats(0, 1))
    def deliver(self, data: st.DataObject, share: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        one = self.running[name]
        before = one.delivered.prompt if one.delivered else int(one.tokens * share)
        usage = Usage(before, int((one.tokens - before) * share))
        one.reservation.delivered(usage.prompt, usage.completion)
        self.running[name] = one._replace(delivered=usage)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        share=st.none() | st.floats(0, 1),
        status=st.sampled_from(["ok", "failed", "cancelled"]),
        times=st.integers(1, 2),
    )
    def settle(self, data: st.DataObject, share: float | None, status: str, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        one = self.running.pop(name)
        usage = (
            None if share is None else Usage(int(one.tokens * share), int(one.tokens * (1 - share)))
        )
        for _ in range(times):
            one.reservation.settle(usage, status, None)  # type: ignore[arg-type] # one of the three
        price = one.reservation.price
        cost = price.request_micro if status == "ok" else 0
        if usage is not None:
            cost = price.cost(usage.prompt, usage.completion)
        prompt, completion = (usage.prompt, usage.completion) if usage else (0, 0)
        self.told[name] = Told(status, prompt, completion, cost)

    @rule(key=st.none() | KEYS, limits=LIMITS)
    def limit(self, key: int | None, limits: Limits) -> None:
        self.limits_store.set_limits(TENANT, None if key is None else self.keys[key].id, limits)

    @rule(price=PRICES)
    def price(self, price: Price) -> None:
        self.limits_store.set_price(TENANT, "m", price)

    @rule(seconds=st.sampled_from([0.5, 20, 3600, 86_400, 40 * 86_400]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic_ns += int(seconds * 1e9)

    @rule()
    def flush(self) -> None:
        self.ledger.flush()

    @rule(cut=st.integers(0, 40))
    def crash(self, cut: int) -> None:
        """As after SIGKILL: the files stay as they are, and a note may be half written."""
        journal = self.ledger._journal
        if journal._path is not None:
            with journal._path.open("ab") as spool:
                spool.write(b'["req-0","default","a","m:1","chat",1900000000.0]\n'[:cut])
        for name, one in self.running.items():
            done = one.delivered or Usage(0)
            cost = 0
            if one.delivered is not None:
                cost = one.reservation.price.cost(done.prompt, done.completion)
            self.told[name] = Told("failed", done.prompt, done.completion, cost)
        self.running = {}
        journal.release()
        self.ledger._call_counters.release()
        self.ledger = self.make()

    @rule()
    def restart(self) -> None:
        if not self.running:
            self.ledger.shut()
            self.ledger = self.make()

    @invariant()
    def nothing_is_negative(self) -> None:
        for level in self.ledger._levels.values():
            mine = [
                one.reservation
                for one in self.running.values()
                if level.covers(one.reservation.begun.tenant, one.reservation.begun.key_id)
            ]
            assert level.running == len(mine)
            if level.period is not None:
                assert level.period.spent >= 0
                now = [
                    a for a in mine if level.period.start <= a.begun.started_at < level.period.end
                ]
                assert level.period.reserved == sum(a.held_micro for a in now)

    @invariant()
    def each_row_is_there_once(self) -> None:
        with self.registry.database.read() as connection:
            found = connection.exec_driver_sql(
                "SELECT request_id, status, prompt_tokens, completion_tokens, cost_micro FROM usage"
            ).fetchall()
        assert max(Counter(row[0] for row in found).values(), default=1) == 1
        for name, *told in found:
            assert self.told[name] == Told(*told)

    def teardown(self) -> None:
        try:
            for name, one in self.running.items():
                one.reservation.settle(None, "cancelled", None)
                self.told[name] = Told("cancelled", 0, 0, 0)
            self.ledger.shut()
            self.running = {}
            with self.registry.database.read() as connection:
                rows = connection.exec_driver_sql("SELECT request_id FROM usage").fetchall()
            assert sorted(row[0] for row in rows) == sorted(self.told)
            self.each_row_is_there_once()
        finally:
            self.registry.close()
            shutil.rmtree(self.folder, ignore_errors=True)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = effort(12, steps=30, share=0.2)
