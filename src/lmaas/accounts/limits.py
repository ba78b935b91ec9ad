"""Rates, concurrency and budgets of one level (a key, or a tenant), in memory.

Rates are token buckets by the Generic Cell Rate Algorithm (ITU-T I.371) in whole numbers, so that
a limit of 7 a minute is 7 and not 6.999. Knows no database and no clock: it is told the time
(monotonic nanoseconds; for budgets, Unix seconds).
"""

from calendar import monthrange
from datetime import UTC, date, datetime
from math import inf
from typing import Final

from lmaas.accounts.records import Limits, PeriodName, to_money
from lmaas.errors import InsufficientQuota, LMaaSError, RateLimited

MINUTE_NS: Final = 60_000_000_000
SECOND_NS: Final = 1_000_000_000
DAY_S: Final = 86_400


class Bucket:
    """At most `limit` units in any minute, beside what flows back meanwhile.

    What was taken flows back steadily, `limit` units a minute. It is kept in units x nanoseconds
    of a minute, which makes the flow `limit` a nanosecond: exact.
    """

    __slots__ = ("_at", "_taken", "limit")

    def __init__(self, limit: int, now: int) -> None:
        self.limit = limit
        self._taken = 0
        self._at = now

    def _now(self, now: int) -> int:
        return max(0, self._taken - self.limit * max(0, now - self._at))

    def wait_ns(self, units: int, now: int) -> int:
        """Nanoseconds until `units` can be taken; 0: now. For more than `limit`, as for `limit`."""
        over = self._now(now) + (min(units, self.limit) - self.limit) * MINUTE_NS
        return max(0, -(-over // self.limit))

    def take(self, units: int, now: int) -> None:
        """Take `units`, whether or not there is room: `wait_ns` says that."""
        self._taken = self._now(now) + units * MINUTE_NS
        self._at = max(self._at, now)

    def give(self, units: int, now: int) -> None:
        """Put back what was taken and not needed; a negative number takes more."""
        self._taken = max(0, self._now(now) - units * MINUTE_NS)
        self._at = max(self._at, now)

    def set(self, limit: int, now: int) -> None:
        """Another limit; what is taken stays taken."""
        self._taken, self._at, self.limit = self._now(now), max(self._at, now), limit

    def remaining(self, now: int) -> int:
        """Whole units that can be taken now."""
        return max(0, self.limit - -(-self._now(now) // MINUTE_NS))

    def reset_ns(self, now: int) -> int:
        """Nanoseconds until all of `limit` can be taken."""
        return -(-self._now(now) // self.limit)


class Period:
    """A stretch of calendar time and the money of its requests, in millionths.

    A request belongs to the period in which it was admitted, also when it ends later.
    """

    __slots__ = ("end", "reserved", "spent", "start", "told")

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end
        self.spent = 0
        self.reserved = 0
        self.told = False


def bounds(period: PeriodName, now: float) -> tuple[float, float]:
    """First moment of the UTC day or month of `now`, and the first after it (Unix seconds)."""
    if period == "none":
        return -inf, inf
    if period == "day":
        start = now // DAY_S * DAY_S
        return start, start + DAY_S
    today = datetime.fromtimestamp(now, UTC).date()
    first = datetime(today.year, today.month, 1, tzinfo=UTC).timestamp()
    return first, first + monthrange(today.year, today.month)[1] * DAY_S


def day_of(now: float) -> date:
    """The UTC day of a moment."""
    return datetime.fromtimestamp(now, UTC).date()


class Level:
    """What one key, or one tenant, may do, and what it does. The caller holds a lock."""

    def __init__(self, tenant: str, key_id: str) -> None:
        self.tenant = tenant
        self.key_id = key_id
        self.limits = Limits()
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.period: Period | None = None

    @property
    def name(self) -> str:
        """How errors call this level."""
        return f"key {self.key_id}" if self.key_id else "tenant"

    def covers(self, tenant: str, key_id: str) -> bool:
        """Whether requests of this key count here."""
        return tenant == self.tenant and self.key_id in ("", key_id)

    def set(self, limits: Limits, now: int, *, running_tokens: int) -> None:
        """Other limits. What already runs counts against a new one, too."""
        self.limits = limits
        self.requests = _bucket(self.requests, limits.requests_per_minute, now, 0)
        self.tokens = _bucket(self.tokens, limits.tokens_per_minute, now, running_tokens)

    @property
    def has_budget(self) -> bool:
        """Whether money has a bound here, hard or soft."""
        return self.limits.budget_micro is not None or self.limits.soft_budget_micro is not None

    def refusal(self, tokens: int | None, cost: int, now: int) -> LMaaSError | None:
        """Why a request may not run now; None when it may. Takes nothing.

        `tokens` None: they are not counted yet.
        """
        limits = self.limits
        if limits.concurrent is not None and self.running >= limits.concurrent:
            return RateLimited(
                f"{self.running} requests of this {self.name} run; at most {limits.concurrent} may "
                "at a time.",
                hint="Wait until one has ended.",
            )
        for what, bucket, units in (
            ("requests", self.requests, 1),
            ("tokens", self.tokens, tokens),
        ):
            if bucket is None or units is None:
                continue
            if units > bucket.limit:
                return RateLimited(
                    f"The request may take {units} tokens; this {self.name} has {bucket.limit} "
                    "a minute.",
                    hint="Send a shorter prompt or a smaller max_tokens.",
                    retry_after_s=60,
                    never=True,
                )
            wait_ns = bucket.wait_ns(units, now)
            if wait_ns:
                return RateLimited(
                    f"This {self.name} has {bucket.limit} {what} a minute, of which "
                    f"{bucket.remaining(now)} are left; the request needs {units}.",
                    hint=f"Try again in {duration(wait_ns)}.",
                    retry_after_s=-(-wait_ns // SECOND_NS),
                )
        return self._over_budget(cost)

    def _over_budget(self, cost: int) -> LMaaSError | None:
        budget, period = self.limits.budget_micro, self.period
        if budget is None or not cost:
            return None
        assert period is not None
        if period.spent + period.reserved + cost <= budget:
            return None
        until = "" if period.end == inf else f" It starts again on {day_of(period.end)} (UTC)."
        return InsufficientQuota(
            f"The budget of this {self.name} is {to_money(budget)}: {to_money(period.spent)} is "
            f"spent, {to_money(period.reserved)} is held for running requests, and this one may "
            f"cost {to_money(cost)}.{until}",
            hint="Ask the operator for a larger budget: lmaas keys limits.",
        )

    def take(self, tokens: int, cost: int, now: int) -> None:
        """Admit a request: count it and hold its tokens and money."""
        self.running += 1
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)
        if self.period is not None:
            self.period.reserved += cost

    def soft_passed(self) -> bool:
        """Whether more than the soft budget is spent or held."""
        soft, period = self.limits.soft_budget_micro, self.period
        return soft is not None and period is not None and period.spent + period.reserved > soft


def _bucket(before: Bucket | None, limit: int | None, now: int, taken: int) -> Bucket | None:
    if limit is None:
        return None
    if before is None:
        bucket = Bucket(limit, now)
        bucket.take(taken, now)
        return bucket
    before.set(limit, now)
    return before


def duration(ns: int) -> str:
    """A time as OpenAI's headers write it: 6m0s, 1.5s, 20ms."""
    ms = -(-ns // 1_000_000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
