"""One server a home. The kernel releases the lock when its holder dies, however it dies."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from lmaas.errors import AlreadyRunning

FILE = "server.lock"


class HomeLock:
    """The right to serve a home; a context manager. Raises AlreadyRunning on entry."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._file: Any = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            info = _content(self._path)
            raise AlreadyRunning(
                f"Another server holds {self._path.parent}: process {info.get('pid', '?')} at "
                f"{info.get('url', 'an unknown address')}.",
                hint="Use that server, stop it, or give this one another LMAAS_HOME.",
            ) from None
        self._file = file
        self.write({})
        return self

    def __exit__(self, *_: object) -> None:
        self.write({})
        self._file.close()

    def write(self, info: dict[str, Any]) -> None:
        """Let others know where this server is, e.g. {"url": …}; the pid is added."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"pid": os.getpid(), **info}))
        self._file.flush()

    @staticmethod
    def read(home: Path) -> dict[str, Any] | None:
        """What the live server of `home` wrote, or None when none runs."""
        path = home / FILE
        if not path.exists():
            return None
        with path.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _content(path)
        return None


@contextmanager
def alone(path: Path) -> Iterator[Callable[[], bool]]:
    """Tries to be the only one to hold a lock on a file, each time it is called: whether it is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:

        def tried() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield tried


def _content(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
