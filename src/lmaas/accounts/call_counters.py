"""Sums of calls that nothing bounds and that cost nothing, kept where a kill does not reach them.

A small model answers tens of thousands of calls a second: a row for each would cost more than the
call, and fill the disk. Such calls are counted in a shared mapping of a file, which takes no system
call, and become one row for each key, model, endpoint and outcome when they are flushed. The
caller serialises all calls.

A file has slots of 512 bytes: five numbers (begun, ok, failed, cancelled, nanoseconds), then who
called what as a line of JSON. Its random name makes the rows' ids, so it is counted once.
"""

import contextlib
import mmap
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from lmaas.accounts.records import Status
from lmaas.errors import FULL, StorageFull
from lmaas.types import UNREADABLE

SUFFIX: Final = ".tally"
SLOT_BYTES: Final = 512
SLOTS: Final = 512
NUMBERS: Final = 5
WORD: Final = 8
STATUSES: Final[tuple[Status, ...]] = ("ok", "failed", "cancelled")


class Place(NamedTuple):
    """Whose calls a slot counts, and since when."""

    tenant: str
    key_id: str
    model: str
    endpoint: str
    started_at: float


class Sum(NamedTuple):
    """What a slot has counted. `id` is of this slot in this file, and of no other ever."""

    id: str
    place: Place
    ended: tuple[int, int, int]
    running: int
    ns: int


class Counter:
    """A slot of the file that is written to now."""

    __slots__ = ("first", "place")

    def __init__(self, place: Place, first: int) -> None:
        self.place = place
        self.first = first
        """Index of its first number."""


class CallCounters:
    """The counting files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._map: mmap.mmap | None = None
        self._counters: list[Counter] = []
        self._places: dict[tuple[str, ...], Counter] = {}
        self.known: dict[tuple[str, str, str], Counter] = {}
        """Counters by key, endpoint and version; whoever fills it empties it."""
        self.numbers: memoryview[int] = memoryview(b"").cast("q")
        """NUMBERS for each counter, from `Counter.first` on."""

    def counter(self, place: Place) -> Counter | None:
        """The counter of a place, made where there is none; None: no room. Raises StorageFull."""
        return self._places.get(place[:4]) or self._add(place)

    def _add(self, place: Place) -> Counter | None:
        if self._map is None:
            self._start(())
        line = msgspec.json.encode(place) + b"\n"
        number = len(self._counters)
        if number >= SLOTS or len(line) > SLOT_BYTES - NUMBERS * WORD:
            return None
        assert self._map is not None
        start = number * SLOT_BYTES
        self._map[start + NUMBERS * WORD : start + NUMBERS * WORD + len(line)] = line
        counter = Counter(place, start // WORD)
        self._counters.append(counter)
        self._places[place[:4]] = counter
        return counter

    def rotate(self, now: float) -> None:
        """Go on in a new file, with the calls that run, unless none has ended in this one."""
        running, ended = [], 0
        for counter in self._counters:
            begun, *done, _ = self.numbers[counter.first : counter.first + NUMBERS]
            ended += sum(done)
            if begun > sum(done):
                running.append((counter, begun - sum(done)))
        if not ended:
            return
        if running:
            self._start(running, now)
        else:
            self.release()

    def files(self) -> list[Path]:
        """All files but the one that is written to."""
        return [path for path in self._folder.glob(f"*{SUFFIX}") if path != self._path]

    def release(self) -> None:
        """Begin no more in this file; it stays, and calls that run end in it."""
        self._map = self._path = None
        self._counters, self._places, self.known = [], {}, {}

    def _start(self, running: Iterable[tuple[Counter, int]], now: float = 0.0) -> None:
        path = self._folder / f"{secrets.token_hex(8)}{SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # A hole would end the process when the device is full; this fails instead.
            os.posix_fallocate(file, 0, SLOTS * SLOT_BYTES)
            mapping = mmap.mmap(file, SLOTS * SLOT_BYTES)
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            if error.errno not in FULL:
                raise
            raise StorageFull(
                f"Calls cannot be counted: {error.strerror}.",
                hint="Free space on the device of LMAAS_HOME.",
            ) from error
        finally:
            os.close(file)
        self._path, self._map = path, mapping
        self.numbers = memoryview(mapping).cast("q")
        self._counters, self._places, self.known = [], {}, {}
        for counter, count in running:
            moved = self._add(counter.place._replace(started_at=now))
            assert moved is not None
            counter.first = moved.first
            self._counters[-1] = self._places[moved.place[:4]] = counter
            self.numbers[moved.first] = count


def read_tally(path: Path) -> list[Sum]:
    """What a file has counted."""
    data = path.read_bytes()
    sums = []
    for number in range(len(data) // SLOT_BYTES):
        slot = data[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
        line, end, _ = slot[NUMBERS * WORD :].partition(b"\n")
        if not end:
            break
        begun, ok, failed, cancelled, ns = memoryview(slot)[: NUMBERS * WORD].cast("q")
        running = begun - ok - failed - cancelled
        try:
            place = msgspec.json.decode(line, type=Place)
        except UNREADABLE:
            # Cut by a kill: nothing was counted here yet.
            continue
        sums.append(Sum(f"{path.stem}-{number}", place, (ok, failed, cancelled), running, ns))
    return sums
