"""What a served version asks of the process that runs it, whatever that process is."""

import asyncio
from typing import Protocol

from lmaas.runtime.messages import AnyMessage, Loaded


class WorkerProcess(Protocol):
    """A process that has loaded its model. Its messages go where its launch was told.

    It takes `Call`, `Cancel` and `Stop`, and says no more once it is `closed`.
    """

    loaded: Loaded
    patience_s: float
    """Silent for longer, it is taken for stuck."""

    @property
    def pid(self) -> int:
        """The process, as `lmaas ps` shows it."""

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when it can no longer be talked to."""

    @property
    def last_seen(self) -> float:
        """The loop's time of its last sign of life."""

    def send(self, message: AnyMessage) -> None:
        """Tell it; one that is closed does not hear."""

    def kill(self) -> None:
        """End it now; `closed` follows."""

    async def end(self) -> set[int]:
        """Clear it away once it is closed; the ids of the requests it was working on."""
