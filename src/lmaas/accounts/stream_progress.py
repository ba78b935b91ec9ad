"""What running streams have delivered, kept where a kill of the server does not reach it.

A request's row is noted when it ends. Until then its tokens stand in a shared mapping of a file,
which takes no system call, so that they are billed once though the server is killed. The caller
serialises all calls but the counting, which is one word's write.

A file has slots of 128 bytes: tokens of the prompt and of the answer, the price's three numbers,
then the request's id.
"""

import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

from lmaas.accounts.records import Price
from lmaas.errors import FULL
from lmaas.generation_types import Usage

NAME: Final = "delivered"
SLOT_BYTES: Final = 128
SLOTS: Final = 4096
NUMBERS: Final = 5
WORD: Final = 8
ID_BYTES: Final = SLOT_BYTES - NUMBERS * WORD


class Progress(NamedTuple):
    """What a request had delivered, and what that costs."""

    usage: Usage
    cost_micro: int


class StreamProgress:
    """The file of one folder. Without room on the device, or in it, nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._map: mmap.mmap | None = None
        self._free: list[int] = []
        self.numbers: memoryview[int] = memoryview(b"").cast("q")
        """The answer's tokens of a slot are at the index that `begin` gives."""

    def begin(self, request_id: str, price: Price, prompt: int) -> int | None:
        """Where to count the answer's tokens of a request; None: nowhere."""
        name = request_id.encode()
        if (self._map is None and not self._start()) or not self._free or len(name) > ID_BYTES:
            return None
        assert self._map is not None
        slot = self._free.pop()
        start, first = slot * SLOT_BYTES, slot * SLOT_BYTES // WORD
        for offset, number in enumerate(
            (prompt, 0, price.prompt_micro, price.completion_micro, price.request_micro)
        ):
            self.numbers[first + offset] = number
        self._map[start + NUMBERS * WORD : start + SLOT_BYTES] = name.ljust(ID_BYTES, b"\0")
        return first + 1

    def end(self, place: int) -> None:
        """Its row is noted: forget it."""
        assert self._map is not None
        slot = place * WORD // SLOT_BYTES
        start = slot * SLOT_BYTES + NUMBERS * WORD
        self._map[start : start + ID_BYTES] = bytes(ID_BYTES)
        self._free.append(slot)

    def read(self) -> dict[str, Progress]:
        """What a killed process left, by request."""
        data = self.path.read_bytes() if self.path.is_file() else b""
        found: dict[str, Progress] = {}
        for start in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
            slot = data[start : start + SLOT_BYTES]
            name = slot[NUMBERS * WORD :].rstrip(b"\0").decode("ascii", "replace")
            if name:
                prompt, completion, *micro = memoryview(slot[: NUMBERS * WORD]).cast("q")
                price = Price(
                    prompt_micro=micro[0], completion_micro=micro[1], request_micro=micro[2]
                )
                found[name] = Progress(Usage(prompt, completion), price.cost(prompt, completion))
        return found

    def remove(self) -> None:
        """Remove the file, once nothing counts in it."""
        self._map = None
        self.path.unlink(missing_ok=True)

    def _start(self) -> bool:
        try:
            with self.path.open("w+b") as file:
                # A hole would end the process when the device is full; this fails instead.
                os.posix_fallocate(file.fileno(), 0, SLOTS * SLOT_BYTES)
                self._map = mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        self.numbers = memoryview(self._map).cast("q")
        self._free = list(range(SLOTS))
        return True
