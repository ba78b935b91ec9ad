"""How often and how long each version was called since the server's start, by tenant."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final

import msgspec

from lmaas.types import ModelVersion

KEEP_MOST: Final = 4096
"""So many versions have their numbers kept; those called longest ago make room."""


class Calls(msgspec.Struct):
    """The numbers of one version: calls, samples and batches of its engine, times in ns."""

    succeeded: int = 0
    succeeded_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    samples: int = 0
    batches: int = 0
    last_ms: int = 0


class Statistics:
    """The numbers of all versions that were called."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], Calls] = {}

    def of(self, version: ModelVersion) -> Calls:
        """The numbers of a version; zeros if it was not called."""
        return self._calls.get((version.tenant, version.ref)) or Calls()

    def timing(self, version: ModelVersion) -> "Timing":
        """A block that counts as a call of `version`."""
        return Timing(self, version)

    def called(self, version: ModelVersion, ns: int, *, succeeded: bool) -> None:
        """A call of `version` has ended after so many nanoseconds."""
        calls = self._keep(version)
        if succeeded:
            calls.succeeded += 1
            calls.succeeded_ns += ns
            calls.last_ms = time.time_ns() // 1_000_000
        else:
            calls.failed += 1
            calls.failed_ns += ns

    def ran(self, version: ModelVersion, sizes: Iterable[int]) -> None:
        """A worker ran batches of these sizes."""
        calls = self._keep(version)
        for size in sizes:
            calls.samples += size
            calls.batches += 1

    def _keep(self, version: ModelVersion) -> Calls:
        key = (version.tenant, version.ref)
        calls = self._calls.get(key)
        if calls is None:
            if len(self._calls) >= KEEP_MOST:
                del self._calls[min(self._calls, key=lambda each: self._calls[each].last_ms)]
            calls = self._calls[key] = Calls()
        return calls


class Timing:
    """A call that is timed, as a context manager."""

    __slots__ = ("_start_ns", "_statistics", "_version")

    def __init__(self, statistics: Statistics, version: ModelVersion) -> None:
        self._statistics = statistics
        self._version = version

    def __enter__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ns = time.perf_counter_ns() - self._start_ns
        self._statistics.called(self._version, ns, succeeded=error is None)
