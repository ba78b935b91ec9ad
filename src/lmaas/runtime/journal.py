"""Which requests a worker is working on, kept where it outlives the worker.

A worker notes the ids before it touches a request, from the first byte on, and clears them after,
in a small shared mapping of a file: this costs no system call, and when the worker is killed the
server reads from the file who was at work. Everyone else merely waited and is not to blame.
"""

import mmap
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

SLOT_IDS: Final = 1024
"""Most ids that one slot holds."""
MOST_SLOTS: Final = 256
"""So many are read of a worker that has ended: it may have written anything."""
_WORD: Final = 8
_SLOT_BYTES: Final = _WORD * (1 + SLOT_IDS)


class RequestJournal:
    """The worker's side. Each thread that works on requests has a slot of its own."""

    def __init__(self, file: BinaryIO, slots: int) -> None:
        file.truncate(slots * _SLOT_BYTES)
        self._map = mmap.mmap(file.fileno(), slots * _SLOT_BYTES)
        self._since = [0.0] * slots

    def begin(self, slot: int, ids: Sequence[int], *, timed: bool = True) -> None:
        """Note that work on `ids` begins in `slot`; what is not `timed` may last."""
        assert len(ids) <= SLOT_IDS
        start = slot * _SLOT_BYTES
        words = array("Q", (len(ids), *ids)).tobytes()
        self._map[start : start + len(words)] = words
        self._since[slot] = time.monotonic() if timed else 0.0

    def end(self, slot: int) -> None:
        """Note that the work in `slot` is over."""
        start = slot * _SLOT_BYTES
        self._map[start : start + _WORD] = b"\0" * _WORD
        self._since[slot] = 0.0

    def longest_s(self) -> float:
        """For how long the oldest timed work has gone on."""
        begun = [since for since in self._since if since]
        return time.monotonic() - min(begun) if begun else 0.0


def read_journal(path: Path) -> set[int]:
    """The ids that were at work when the worker ended; none if it never got to write."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_SLOTS * _SLOT_BYTES)
    except FileNotFoundError:
        return set()
    ids: set[int] = set()
    for start in range(0, len(data) - _SLOT_BYTES + 1, _SLOT_BYTES):
        slot = array("Q", data[start : start + _SLOT_BYTES])
        ids.update(slot[1 : 1 + min(slot[0], SLOT_IDS)])
    return ids
