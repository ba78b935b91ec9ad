"""What may be set for a key or tenant, what a model costs, and what usage is told.

Money is whole millionths of the operator's currency, so sums are exact. Knows no database.
"""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.types import Record

MICRO = 1_000_000
"""Millionths in one unit of money; also the tokens that a price is for."""
MINUTE_MS = 60_000
MOST_MICRO = 1_000_000_000_000
"""The largest price; budgets may be a thousand times as large."""
Rate = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Money = Annotated[int, Meta(ge=0, le=1000 * MOST_MICRO)]
Cost = Annotated[int, Meta(ge=0, le=MOST_MICRO)]
PeriodName = Literal["none", "day", "month"]
Status = Literal["ok", "failed", "cancelled"]


class Limits(Record, frozen=True, kw_only=True):
    """Bounds of a key, or of all keys of a tenant together; None: no such bound.

    `tokens_per_minute` counts the prompt's and the answer's. A request that would take what is
    spent above `budget_micro` is refused; above `soft_budget_micro` it is only told. Spending
    starts again at 0 with every UTC day or month; with the period "none" it never does.
    """

    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    concurrent: Rate | None = None
    budget_micro: Money | None = None
    soft_budget_micro: Money | None = None
    period: PeriodName = "none"


NO_LIMITS = Limits()


class Price(Record, frozen=True, kw_only=True):
    """What a model costs, in millionths: a million tokens of either kind, each request, and a
    minute of sound that it hears.
    """

    prompt_micro: Cost = 0
    completion_micro: Cost = 0
    request_micro: Cost = 0
    audio_minute_micro: Cost = 0

    def cost(self, prompt: int, completion: int, audio_ms: int = 0) -> int:
        """Millionths for one request with so many tokens and milliseconds of sound.

        Parts of one are rounded up.
        """
        tokens = prompt * self.prompt_micro + completion * self.completion_micro
        sound = audio_ms * self.audio_minute_micro
        # The sum of tokens / MICRO and sound / MINUTE_MS, in whole numbers.
        return self.request_micro - (-(tokens * MINUTE_MS + sound * MICRO) // (MICRO * MINUTE_MS))

    def most(self, tokens: int, audio_ms: int = 0) -> int:
        """The most that a request can cost whose tokens may be of either kind."""
        dearer = max(self.prompt_micro, self.completion_micro)
        either = msgspec.structs.replace(self, prompt_micro=dearer)
        return either.cost(tokens, 0, audio_ms)


FREE = Price()


class ModelPrice(Record, frozen=True, kw_only=True):
    """A model and its price."""

    model: str
    price: Price


class UsageRow(Record, frozen=True, kw_only=True):
    """Sums over admitted requests. `key`, `model`, `day` are None where not grouped by them.

    `requests` counts all; `failed` and `cancelled` are among them.
    """

    key: str | None = None
    model: str | None = None
    day: str | None = None
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    audio_s: float
    cost_micro: int
    duration_ms: float


class UsageReport(Record, frozen=True, kw_only=True):
    """Usage from the first to the last day, both included (UTC, YYYY-MM-DD)."""

    object: Literal["list"] = "list"
    start: str
    end: str
    data: tuple[UsageRow, ...]


def to_micro(text: str, param: str) -> int:
    """Millionths of the amount of money that `text` says, such as "12.50". Raises InvalidInput."""
    try:
        micro = Decimal(text) * MICRO
        whole = int(micro)
    except (InvalidOperation, ValueError, OverflowError):
        whole, micro = -1, Decimal(0)
    if whole != micro or not 0 <= whole <= MOST_MICRO:
        raise InvalidInput(
            f"{param} is an amount of money up to a million with at most 6 decimals, such as "
            f"12.50; received {text!r}.",
            param=param,
        )
    return whole


def to_money(micro: int) -> str:
    """An amount for people: 12.5 for 12,500,000."""
    whole, part = divmod(micro, MICRO)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
