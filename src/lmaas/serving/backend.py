"""What the pool asks of whatever serves one version: a worker process, or another service."""

from typing import Protocol

from lmaas.errors import LMaaSError
from lmaas.generation_types import Ended
from lmaas.serving.generation import Receiver
from lmaas.serving.speech import Listener
from lmaas.types import Answer, ModelVersion, Payload, WorkerStatus


class Backend(Protocol):
    """One served version."""

    version: ModelVersion
    pinned: bool
    error: LMaaSError | None
    planned_bytes: int
    last_used: float
    variant_name: str
    """What tells the weights and engine that answer from all others; empty until it is known."""

    @property
    def state(self) -> str:
        """As in `WorkerStatus`."""

    @property
    def live(self) -> bool:
        """Whether calls can be answered now."""

    @property
    def lost(self) -> bool:
        """Whether it could be called and cannot now."""

    @property
    def depth(self) -> int:
        """Requests that wait or run."""

    @property
    def cache_used(self) -> float:
        """The share of a language model's cache that is in use."""

    @property
    def memory_bytes(self) -> int:
        """What it takes, or is expected to take."""

    async def loaded(self) -> None:
        """Wait until it is loaded. Raises what made that fail."""

    async def call(self, payload: Payload, receiver: Receiver | None = None) -> Answer:
        """The answer to `payload`; `receiver` hears of pieces that come before it.

        Cancelling the caller cancels the request.
        """

    async def generate(self, payload: Payload, receiver: Receiver) -> Ended:
        """Run a generation. Cancelling the caller cancels it."""

    async def speak(self, payload: Payload, listener: Listener) -> Answer:
        """Speak a text. Cancelling the caller cancels it."""

    def tick(self, now: float, *, late: bool) -> None:
        """Once a heartbeat."""

    async def stop(self, deadline: float) -> None:
        """Take no more calls, finish the running ones until `deadline`, then end."""

    def status(self) -> WorkerStatus:
        """What `lmaas ps` shows."""
