"""What vLLM writes: its end is kept for whoever asks why it failed, the rest goes to our log."""

import asyncio
import logging
import re
from collections import deque
from typing import Final

log = logging.getLogger(__name__)

KEPT_LINES: Final = 200
MAX_LINE_CHARS: Final = 1000
LAST_LINES: Final = 6
CAUSES: Final = 3
MAX_TOLD_CHARS: Final = 2000
_PREFIX: Final = re.compile(
    r"\A(?:\([A-Za-z_]\w* pid=\d+\) )?(?:(?:INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?"
)
_CAUSE: Final = re.compile(r"\A\w[\w.]*(?:Error|Exception|Interrupt)\b")


class Tail(asyncio.Protocol):
    """The last lines of a stream of text. `secret` is never told."""

    def __init__(self, secret: str) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._secret = secret
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Keep the lines, and a bounded part of one that does not end."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: 4 * MAX_LINE_CHARS]
        for line in lines:
            text = line[: 4 * MAX_LINE_CHARS].decode("utf-8", "replace")
            text = "".join(char for char in text if char.isprintable())
            text = text.replace(self._secret, "***").strip()[:MAX_LINE_CHARS]
            if text:
                log.debug("vLLM: %s", text)
                self._lines.append(text)

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody writes any more."""
        self.data_received(b"\n")
        if not self.closed.done():
            self.closed.set_result(None)

    def told(self) -> str:
        """The errors among the last lines, then the last lines, as one line."""
        bare = [_PREFIX.sub("", line) for line in self._lines]
        causes = list(dict.fromkeys(line for line in bare if _CAUSE.match(line)))[:CAUSES]
        last = [line for line in bare[-LAST_LINES:] if line.strip() and line not in causes]
        return " | ".join([*causes, *last])[:MAX_TOLD_CHARS] or "nothing"
