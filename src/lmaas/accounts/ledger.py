"""Reservations and accounting of requests: reserve, run, settle.

One process holds the ledger of a home (the server). Counters are in memory, every step is noted
in the journal before it counts, and rows reach the database in batches beside the event loop.
Knows no models and no transport.
"""

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from lmaas.accounts.call_counters import CallCounters, Counter, Place
from lmaas.accounts.journal import Begun, UsageEntry, UsageJournal, line_of, read_spools
from lmaas.accounts.limits import Bucket, Level, Period, bounds, duration
from lmaas.accounts.limits_store import AllLimits, AllPrices, LimitsStore
from lmaas.accounts.records import FREE, Limits, Price, Status
from lmaas.accounts.reservation import CountedCall, Reservation
from lmaas.accounts.rows import SERVER_ENDED, row_of, split_name, sums_of
from lmaas.accounts.stream_progress import Progress, StreamProgress
from lmaas.accounts.usage import insert, spent
from lmaas.errors import InsufficientQuota, LMaaSError, RateLimited, Unavailable
from lmaas.generation_types import Usage
from lmaas.registry.store import Registry
from lmaas.supervision import Supervisor
from lmaas.types import KeyRecord

log = logging.getLogger(__name__)

FLUSH_S: Final = 2.0
NOTHING: Final = Usage(prompt=0)


class Ledger:
    """The accounts of one home. Thread-safe; sees limits and prices that others change."""

    def __init__(
        self,
        registry: Registry,
        supervisor: Supervisor | None = None,
        *,
        now: Callable[[], float] = time.time,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor or Supervisor()
        self._database = registry.database
        self.revision = self._database.watch("limits")
        self._journal = UsageJournal(registry.home)
        self._call_counters = CallCounters(self._journal.folder)
        self._stream_progress = StreamProgress(self._journal.folder)
        self._limits_store = LimitsStore(registry.database)
        self._now = now
        self._monotonic_ns = monotonic_ns
        # Taken in this order: who flushes, or adds up what was spent, holds both.
        self._flushing = threading.RLock()
        self._lock = threading.Lock()
        self._seen = -1
        self._limits: AllLimits = {}
        self._prices: AllPrices = {}
        self._price_of: dict[tuple[str, str], Price] = {}
        self._levels: dict[tuple[str, str], Level] = {}
        self._levels_of: dict[tuple[str, str], tuple[Level, ...]] = {}
        self._running: dict[str, Reservation] = {}
        self._ended: list[UsageEntry] = []
        self._batch: list[UsageEntry] = []
        self._open = False
        self._flusher: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Take the home's accounts, if no other process has them, and write rows as they come."""
        await asyncio.to_thread(self.open)
        self._flusher = self._supervisor.keep("ledger", self._flush_often)

    async def close(self) -> None:
        """Write what is left. Requests that still run may settle after it: the next start sees."""
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
            self._flusher = None
        await asyncio.to_thread(self.shut)

    def open(self) -> None:
        """Take the accounts and count what a killed process left. Raises StorageFull."""
        if self._journal.held or not self._journal.hold():
            return
        left = self._journal.spools()
        tallies = self._call_counters.files()
        running, rows = read_spools(left)
        parts, nothing = self._stream_progress.read(), Progress(NOTHING, 0)
        failed = [
            row_of(begun, 0.0, *parts.get(begun.request_id, nothing), "failed", SERVER_ENDED)
            for begun in running.values()
        ]
        insert(self._database, [*rows.values(), *failed, *sums_of(tallies, ended=True)])
        for path in (*left, *tallies):
            path.unlink()
        self._stream_progress.remove()
        if rows or failed:
            log.info("Recovered %d usage rows, %d of killed requests.", len(rows), len(failed))
        self._refresh(self.revision())
        self._open = True

    def shut(self) -> None:
        """Write what is left and let another process have the accounts."""
        if not self._open:
            return
        self._open = False
        try:
            self.flush()
        except LMaaSError as error:
            log.warning("Usage rows wait in the journal: %s", error)
        with self._lock:
            if not self._running:
                self._release()

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await asyncio.to_thread(self.flush)
            except LMaaSError as error:
                log.warning("Usage rows wait in the journal: %s", error)

    # Requests

    def stale(self, key: KeyRecord) -> bool:
        """Whether what `key` may do must be read from the database first: `freshen`."""
        if self._seen != self.revision():
            return True
        levels = self._levels_of.get((key.tenant, key.id), ())
        return any(map(_period_is_over, levels, itertools.repeat(self._now())))

    def freshen(self, key: KeyRecord) -> None:
        """Read limits, prices and what was spent in a new period; then calls wait for nothing."""
        self._refresh(self.revision())
        self._open_periods(self._find_levels(key.tenant, key.id), self._now())

    def count(self, key: KeyRecord, endpoint: str, model: str) -> "CountedCall | None":
        """A call without tokens that nothing bounds and that costs nothing, or None.

        None: the call needs `reserve`. Limits and prices are those of the last `freshen`.
        """
        with self._lock:
            counter = self._call_counters.known.get((key.id, endpoint, model))
            if counter is None:
                if not self._open or not self._is_free(key, model):
                    return None
                place = Place(key.tenant, key.id, model, endpoint, self._now())
                counter = self._call_counters.counter(place)
                if counter is None:
                    return None
                self._call_counters.known[key.id, endpoint, model] = counter
            self._call_counters.numbers[counter.first] += 1
        return CountedCall(self, counter, self._monotonic_ns())

    def _is_free(self, key: KeyRecord, model: str) -> bool:
        bounded = self._find_levels(key.tenant, key.id)
        return not bounded and self._find_price(key.tenant, model) is FREE

    def _release(self) -> None:
        self._stream_progress.remove()
        self._journal.release()
        self._call_counters.release()

    def counted(self, counter: Counter, status: int, start_ns: int) -> None:
        """A counted call has ended, with this index into STATUSES."""
        ns = self._monotonic_ns() - start_ns
        with self._lock:
            numbers, first = self._call_counters.numbers, counter.first
            numbers[first + 1 + status] += 1
            numbers[first + 4] += ns

    def reserve(
        self,
        key: KeyRecord,
        *,
        request_id: str,
        endpoint: str,
        model: str,
        tokens: int,
        prompt_tokens: int | None = None,
        audio_ms: int = 0,
    ) -> Reservation:
        """Hold `tokens` (prompt and most of the answer), sound, and their price at every level,
        or nothing.

        `model` is `name` or `name:version`. With `prompt_tokens`, how many of `tokens` are the
        prompt's, the price is held exactly; without, the dearer kind counts. Limits and prices are
        those of the last `freshen`, so that an event loop never waits here. Raises RateLimited,
        InsufficientQuota; Unavailable where another process holds the accounts; StorageFull.
        """
        tenant, now = key.tenant, self._now()
        price = self._price_of.get((tenant, model)) or self._find_price(tenant, model)
        begun = Begun(request_id, tenant, key.id, model, endpoint, now)
        start_ns = self._monotonic_ns()
        reservation = Reservation(self, begun, tokens, price, start_ns)
        if price is not FREE:
            reservation.held_micro = _most(price, tokens, prompt_tokens, audio_ms)
        levels = self._levels_of.get((tenant, key.id))
        if levels is None:
            levels = self._find_levels(tenant, key.id)
        if levels:
            self._open_periods(levels, now)
        reservation.line = line_of(begun)
        try:
            with self._lock:
                if not self._open:
                    raise Unavailable(
                        "No accounts are kept here: not started, ended, or kept by another process."
                    )
                assert request_id not in self._running
                if levels:
                    self._take(reservation, levels, start_ns)
                else:
                    self._journal.append(reservation.line)
                self._running[request_id] = reservation
        except (RateLimited, InsufficientQuota) as refusal:
            raise self._with_headers(refusal, levels) from None
        return reservation

    def check(self, key: KeyRecord, model: str) -> bool:
        """Whether anything bounds what `key` may use. Takes nothing.

        Raises what `reserve` would raise however few tokens a request has, so that none are counted
        for who may not ask at all.
        """
        tenant, now = key.tenant, self._now()
        levels = self._levels_of.get((tenant, key.id)) or self._find_levels(tenant, key.id)
        self._open_periods(levels, now)
        least = self._find_price(tenant, model).cost(1, 0)
        with self._lock:
            now_ns = self._monotonic_ns()
            found = [level.refusal(None, least, now_ns) for level in levels]
        for refusal in found:
            if refusal is not None:
                raise self._with_headers(refusal, levels)
        return bool(levels)

    def _with_headers(self, refusal: LMaaSError, levels: tuple[Level, ...]) -> LMaaSError:
        if isinstance(refusal, RateLimited | InsufficientQuota):
            refusal.headers = self.headers(levels)
        return refusal

    def _take(self, reservation: Reservation, levels: tuple[Level, ...], now_ns: int) -> None:
        tokens, cost = reservation.tokens, reservation.held_micro
        for level in levels:
            refusal = level.refusal(tokens, cost, now_ns)
            if refusal is not None:
                raise refusal
        self._journal.append(reservation.line)
        for level in levels:
            level.take(tokens, cost, now_ns)
            if level.soft_passed():
                _tell_soft(level)
        reservation.levels = levels
        reservation.periods = tuple(level.period for level in levels if level.period is not None)

    def delivered(self, reservation: Reservation, prompt: int, completion: int) -> None:
        """What `Reservation.delivered` does."""
        if reservation.place is None and not reservation.settled:
            begun = reservation.begun
            with self._lock:
                reservation.place = self._stream_progress.begin(
                    begun.request_id, reservation.price, prompt
                )
        if reservation.place is not None:
            self._stream_progress.numbers[reservation.place] = completion

    def settle(
        self,
        reservation: Reservation,
        usage: Usage | None,
        status: Status,
        error_code: str | None,
        start_ns: int,
    ) -> None:
        """What `Reservation.settle` does."""
        now_ns = self._monotonic_ns()
        cost = 0
        if usage is not None:
            cost = reservation.price.cost(usage.prompt, usage.completion, usage.audio_ms)
        elif status == "ok":
            cost = reservation.price.request_micro
        row = row_of(
            reservation.begun, (now_ns - start_ns) / 1e6, usage or NOTHING, cost, status, error_code
        )
        with self._lock:
            if reservation.settled:
                return
            reservation.settled = True
            if reservation.levels:
                used = usage.prompt + usage.completion if usage else 0
                for level in reservation.levels:
                    level.running -= 1
                    if level.tokens is not None:
                        level.tokens.give(reservation.tokens - used, now_ns)
                for period in reservation.periods:
                    period.reserved -= reservation.held_micro
                    period.spent += cost
            del self._running[row.request_id]
            self._ended.append(row)
            try:
                self._journal.append(line_of(row))
            except LMaaSError as error:
                log.warning("The row of %s is only in memory: %s", row.request_id, error)
            if reservation.place is not None:
                self._stream_progress.end(reservation.place)
                reservation.place = None
            if not self._open and not self._running:
                self._release()

    def headers(self, levels: tuple[Level, ...]) -> list[tuple[bytes, bytes]]:
        """Limit, what remains and when all is back, of the tightest level for each kind."""
        now = self._monotonic_ns()
        found: list[tuple[bytes, bytes]] = []
        with self._lock:
            for kind, buckets in (
                (b"requests", [level.requests for level in levels]),
                (b"tokens", [level.tokens for level in levels]),
            ):
                tightest = min(
                    (bucket for bucket in buckets if bucket is not None),
                    key=lambda bucket: bucket.remaining(now),
                    default=None,
                )
                if tightest is not None:
                    found += _headers_of(kind, tightest, now)
            if any(level.soft_passed() for level in levels):
                found.append((b"x-lmaas-budget", b"soft budget passed"))
        return found

    # The database

    def flush(self) -> None:
        """Write ended requests to the database. Raises StorageFull or Unavailable; then the rows
        stay in the journal and in memory."""
        with self._flushing:
            with self._lock:
                if not self._journal.held:
                    return
                self._call_counters.rotate(self._now())
                if self._ended:
                    self._journal.rotate([a.line for a in self._running.values()])
                self._batch += self._ended
                self._ended = []
                spools = self._journal.spools() if self._batch else []
                tallies = self._call_counters.files()
            insert(self._database, [*self._batch, *sums_of(tallies, ended=False)])
            self._batch = []
            for path in (*spools, *tallies):
                path.unlink()

    def _refresh(self, revision: int) -> None:
        """Read limits and prices again; running requests count against new limits, too."""
        limits, prices = self._limits_store.load()
        if limits == self._limits and prices == self._prices:
            self._seen = revision
            return
        with self._flushing, self._lock:
            now, now_ns = self._now(), self._monotonic_ns()
            for place in [place for place in self._levels if place not in limits]:
                del self._levels[place]
            for place, given in limits.items():
                if given != self._limits.get(place):
                    self._set_level(place, given, now, now_ns)
            self._limits, self._prices = limits, prices
            self._levels_of, self._price_of = {}, {}
            self._call_counters.known.clear()
            self._seen = revision

    def _set_level(self, place: tuple[str, str], limits: Limits, now: float, now_ns: int) -> None:
        level = self._levels.get(place)
        running = [a for a in self._running.values() if place in _places(a)]
        if level is None:
            level = self._levels[place] = Level(*place)
            level.running = len(running)
            for reservation in running:
                reservation.levels = (*reservation.levels, level)
        same_period = level.has_budget and level.limits.period == limits.period
        level.set(limits, now_ns, running_tokens=sum(a.tokens for a in running))
        if not level.has_budget:
            level.period = None
        elif not same_period:
            self._load_period(level, now)

    def _open_periods(self, levels: Iterable[Level], now: float) -> None:
        for level in levels:
            if _period_is_over(level, now):
                self._open_period(level, now)

    def _open_period(self, level: Level, now: float) -> None:
        with self._flushing, self._lock:
            period = level.period
            if period is not None and not period.start <= now < period.end:
                self._load_period(level, now)

    def _load_period(self, level: Level, now: float) -> None:
        """Add up what was spent and is held in the period of `now`. The caller holds both locks."""
        before, period = level.period, Period(*bounds(level.limits.period, now))
        with self._database.read() as connection:
            place = level.tenant, level.key_id
            period.spent = spent(connection, *place, period.start, period.end)
        period.spent += sum(
            row.cost_micro
            for row in (*self._batch, *self._ended)
            if level.covers(row.tenant, row.key_id) and period.start <= row.started_at < period.end
        )
        for reservation in self._running.values():
            begun = reservation.begun
            if not level.covers(begun.tenant, begun.key_id):
                continue
            if period.start <= begun.started_at < period.end:
                period.reserved += reservation.held_micro
                kept = tuple(p for p in reservation.periods if p is not before)
                reservation.periods = (*kept, period)
        level.period = period

    def _find_levels(self, tenant: str, key_id: str) -> tuple[Level, ...]:
        found = [self._levels.get(place) for place in ((tenant, ""), (tenant, key_id))]
        levels = tuple(level for level in found if level is not None)
        self._levels_of[tenant, key_id] = levels
        return levels

    def _find_price(self, tenant: str, model: str) -> Price:
        price = self._prices.get((tenant, split_name(model)[0]), FREE)
        self._price_of[tenant, model] = price
        return price


def _places(reservation: Reservation) -> tuple[tuple[str, str], tuple[str, str]]:
    begun = reservation.begun
    return (begun.tenant, ""), (begun.tenant, begun.key_id)


def _most(price: Price, tokens: int, prompt_tokens: int | None, audio_ms: int) -> int:
    if prompt_tokens is None:
        return price.most(tokens, audio_ms)
    return price.cost(prompt_tokens, tokens - prompt_tokens, audio_ms)


def _headers_of(kind: bytes, bucket: Bucket, now: int) -> list[tuple[bytes, bytes]]:
    reset = duration(bucket.reset_ns(now)).encode()
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % bucket.limit),
        (b"x-ratelimit-remaining-" + kind, b"%d" % bucket.remaining(now)),
        (b"x-ratelimit-reset-" + kind, reset),
    ]


def _tell_soft(level: Level) -> None:
    period = level.period
    if period is not None and not period.told:
        period.told = True
        log.warning("The soft budget of %s %s is passed.", level.tenant, level.name)


def _period_is_over(level: Level, now: float) -> bool:
    return level.period is not None and not level.period.start <= now < level.period.end
