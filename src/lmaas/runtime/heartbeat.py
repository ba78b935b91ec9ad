"""The worker's sign of life, and the check that its work still moves.

Beats come from a thread of their own, so a long engine call does not look like death. What outlasts
its bound ends the process, be it an engine's call or the reading of a request: native code cannot
be interrupted from within.
"""

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lmaas.runtime.journal import RequestJournal
from lmaas.runtime.messages import Beat

log = logging.getLogger(__name__)

EXIT_WEDGED: Final = 70
EXIT_ORPHANED: Final = 0
READING_S: Final = 30.0
"""Longest time that reading one request may take: decoding, templates, tokens, grammars."""
_STATM = Path("/proc/self/statm")


class Heartbeat:
    """Sends a `Beat` every `interval_s`; ends the process when work lasts too long.

    An engine's call may last `limit_s`, with `engines` of them each its own; what the `journal`
    times, `READING_S`.
    """

    def __init__(
        self,
        send: Callable[[Beat], None],
        interval_s: float,
        limit_s: float,
        journal: RequestJournal,
        engines: int = 1,
    ) -> None:
        self.queued = 0
        self.running = 0
        self.cache_used = 0.0
        self._send = send
        self._interval_s = interval_s
        self._limit_s = limit_s
        self._journal = journal
        self._busy_since: list[float | None] = [None] * engines
        self._batches: list[int] = []

    def start(self) -> None:
        """Begin to beat."""
        threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def begin(self, engine: int = 0) -> None:
        """A call of the engine of this number begins now."""
        self._busy_since[engine] = time.monotonic()

    def end(self, rows: int, engine: int = 0) -> None:
        """The engine's call is over; it ran `rows` samples."""
        self._busy_since[engine] = None
        self._batches.append(rows)

    def _beat(self) -> None:
        while True:
            time.sleep(self._interval_s)
            begun = [since for since in self._busy_since if since is not None]
            if begun and time.monotonic() - min(begun) > self._limit_s:
                log.error("The engine has not come back for %.0f s; ending.", self._limit_s)
                os._exit(EXIT_WEDGED)
            if self._journal.longest_s() > READING_S:
                log.error("A request has been read for more than %.0f s; ending.", READING_S)
                os._exit(EXIT_WEDGED)
            batches, self._batches = self._batches, []
            beat = Beat(
                queued=self.queued,
                running=self.running,
                memory_bytes=resident_bytes(),
                batches=tuple(batches),
                cache_used=self.cache_used,
            )
            try:
                self._send(beat)
            except OSError:
                os._exit(EXIT_ORPHANED)


def resident_bytes() -> int:
    """Memory that this process has resident now (its peak, where the system tells no more)."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
