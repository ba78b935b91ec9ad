"""What a caller holds of a request that may run, and ends it by: a reservation, or a mere count."""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from lmaas.accounts.call_counters import Counter
from lmaas.accounts.journal import Begun
from lmaas.accounts.limits import Level, Period
from lmaas.accounts.records import Price, Status
from lmaas.errors import Cancelled, LMaaSError
from lmaas.generation_types import Usage

if TYPE_CHECKING:
    from lmaas.accounts.ledger import Ledger

GONE: Final = (asyncio.CancelledError, GeneratorExit, Cancelled)
"""How a block ends whose caller went away."""


class Reservation:
    """A request that may run. Settle it once it has ended; more often does nothing.

    As a context manager it settles itself with `usage` and what ended the block.
    """

    __slots__ = (
        "_ledger", "_start_ns", "begun", "held_micro", "levels", "line", "periods", "place",
        "price", "settled", "tokens", "usage",
    )  # fmt: skip

    def __init__(
        self, ledger: "Ledger", begun: Begun, tokens: int, price: Price, start_ns: int
    ) -> None:
        self._ledger = ledger
        self._start_ns = start_ns
        self.begun = begun
        self.line = b""
        self.tokens = tokens
        self.price = price
        self.held_micro = 0
        self.levels: tuple[Level, ...] = ()
        self.periods: tuple[Period, ...] = ()
        self.usage: Usage | None = None
        self.place: int | None = None
        self.settled = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is left of the limits now, for the answer; of several levels the tightest."""
        return self._ledger.headers(self.levels) if self.levels else []

    def delivered(self, prompt: int, completion: int) -> None:
        """Note how many tokens have gone out so far: they are billed if the server is killed."""
        self._ledger.delivered(self, prompt, completion)

    def settle(
        self, usage: Usage | None, status: Status = "ok", error_code: str | None = None
    ) -> None:
        """End the request: what was held and not used is free again; its row is noted.

        `usage` None: no tokens; a request that failed so costs nothing.
        """
        if not self.settled:
            self._ledger.settle(self, usage, status, error_code, self._start_ns)

    def end(self, usage: Usage | None, status: Status, error: BaseException | None) -> None:
        """Settle with what ended the request, if it was an error."""
        code = error.code if isinstance(error, LMaaSError) else None
        if status == "cancelled":
            code = Cancelled.code
        elif error is not None and code is None:
            code = LMaaSError.code
        self.settle(usage, status, code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.settle(self.usage)
        elif isinstance(error, GONE):
            self.settle(self.usage, "cancelled", Cancelled.code)
        else:
            code = error.code if isinstance(error, LMaaSError) else LMaaSError.code
            self.settle(self.usage, "failed", code)


class CountedCall:
    """A call that is counted and no more, as a context manager."""

    __slots__ = ("_counter", "_ledger", "_start_ns")

    def __init__(self, ledger: "Ledger", counter: Counter, start_ns: int) -> None:
        self._ledger = ledger
        self._counter = counter
        self._start_ns = start_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = 0 if error is None else 2 if isinstance(error, GONE) else 1
        self._ledger.counted(self._counter, status, self._start_ns)
