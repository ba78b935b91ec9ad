"""What a confined process prints, passed on to the log of this one.

The process has a pipe, never the log's own descriptor: with that it could truncate the file or fill
the disk.
"""

import asyncio
import contextlib
import io
import os
import sys
from typing import Final

PIECE_BYTES: Final = 65_536
MINUTE_S: Final = 60.0
MINUTE_BYTES: Final = 1 << 20
"""So much of a process's output is kept in a minute; the rest is read and dropped."""


class Output:
    """A pipe for one process: give it `descriptor`, then call `pass_on`."""

    def __init__(self) -> None:
        self._reads, self.descriptor = os.pipe()

    def close(self) -> None:
        """Close both ends: no process was started."""
        os.close(self._reads)
        os.close(self.descriptor)

    def pass_on(self) -> None:
        """Write what the process prints to stderr, from now on until nobody holds the pipe."""
        os.close(self.descriptor)
        task = asyncio.ensure_future(_pass_on(os.fdopen(self._reads, "rb", 0)))
        _running.add(task)
        task.add_done_callback(_running.discard)


_running: set[asyncio.Future[None]] = set()


async def _pass_on(pipe: io.RawIOBase) -> None:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(PIECE_BYTES)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        minute, left = loop.time(), MINUTE_BYTES
        while piece := await stream.read(PIECE_BYTES):
            if loop.time() - minute > MINUTE_S:
                minute, left = loop.time(), MINUTE_BYTES
            if left <= 0:
                continue
            left -= len(piece)
            if left <= 0:
                piece += b"\nA worker prints too much: more of this minute is dropped.\n"
            await asyncio.to_thread(_write, piece)
    finally:
        transport.close()


def _write(piece: bytes) -> None:
    try:
        file = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        # Something stands in its place that is no file, as in a notebook.
        sys.stderr.write(piece.decode("utf-8", "replace"))
        return
    # On a full disk the piece is lost; the process goes on, and so does the log once there is room.
    with contextlib.suppress(OSError):
        sys.stderr.flush()
        while piece:
            piece = piece[os.write(file, piece) :]
