"""How many live sessions each key has: connections that stay, beside the requests they make."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lmaas.errors import RateLimited
from lmaas.types import KeyRecord


class Sessions:
    """The live sessions of one server, at most `most` of each key. For one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, key: KeyRecord) -> Iterator[None]:
        """One more session of `key` while this lasts. Raises RateLimited."""
        if self._open[key.id] >= self._most:
            raise RateLimited(
                f"The key {key.id} has {self._most} live sessions; no more are opened.",
                hint="Close one, or raise max_sessions.",
            )
        self._open[key.id] += 1
        try:
            yield
        finally:
            self._open[key.id] -= 1
            if not self._open[key.id]:
                del self._open[key.id]
