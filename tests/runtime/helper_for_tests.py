"""A helper that does what it is told: `verb:more`."""

import os
import time
from collections.abc import Callable

from lmaas.runtime.language.helper import serve

MORE_BYTES = 64 << 20
kept: list[bytes] = []


def answer(frame: bytes) -> bytes:
    """What came of it."""
    verb, _, more = frame.partition(b":")
    os.write(1, b"what libraries print goes nowhere")
    match verb:
        case b"work":
            while True:
                pass
        case b"sleep":
            time.sleep(60)
        case b"die":
            os._exit(3)
        case b"memory":
            try:
                return str(len(bytearray(2 * MORE_BYTES))).encode()
            except MemoryError:
                return b"no"
        case b"grow":
            kept.append(b"x" * (MORE_BYTES * 3 // 4))
            return b"grown"
        case b"length":
            for descriptor in range(3, 20):
                try:
                    os.write(descriptor, int(more).to_bytes(4, "little"))
                except OSError:
                    continue
            time.sleep(60)
    return more


def make() -> Callable[[bytes], bytes]:
    """The function that answers."""
    return answer


if __name__ == "__main__":
    serve(make, MORE_BYTES)
