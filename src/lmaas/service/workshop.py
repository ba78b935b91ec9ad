"""Where a home's heavy work is done: scratch folders, and sandboxed children that work in them."""

import asyncio
import os
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import psutil

from lmaas.aside import refuse_in_loop
from lmaas.config import Settings
from lmaas.errors import FULL, StorageFull
from lmaas.placement import left
from lmaas.placement.base import ChildBounds, Placement
from lmaas.placement.local import LocalPlacement
from lmaas.placement.waiting import to_end

T = TypeVar("T")

SCRATCH: Final = re.compile(r"-([0-9]{1,9})-[a-z0-9_]{8}$")
"""How the name of a scratch folder ends: with the id of the process whose it is."""
MAX_LOG_BYTES: Final = 1 << 20
MOST_CHILDREN: Final = 4
"""So many children work at once; what comes more waits."""


class Workshop:
    """The scratch folders and children of one home."""

    def __init__(self, settings: Settings, placement: Placement | None = None) -> None:
        self._settings = settings
        self._placement = placement or LocalPlacement(settings.home_path)
        self._folder = settings.home_path / "tmp"
        # Of its own: children may take minutes, and whoever else needs a thread must not wait.
        self._threads = ThreadPoolExecutor(MOST_CHILDREN, "child")

    def tidy(self) -> None:
        """Remove the scratch folders of processes that were killed."""
        for folder in self._folder.glob("*"):
            named = SCRATCH.search(folder.name)
            if named is not None and not psutil.pid_exists(int(named[1])):
                left.remove(folder)

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(cancel_futures=True)

    @asynccontextmanager
    async def scratch(self, purpose: str) -> AsyncIterator[Path]:
        """The same as `folder`, for an event loop, which it does not hold up."""
        made = self.folder(purpose)
        folder = await to_end(asyncio.to_thread(made.__enter__))
        try:
            yield folder
        except BaseException as error:
            await to_end(asyncio.to_thread(made.__exit__, type(error), error, error.__traceback__))
            raise
        else:
            await to_end(asyncio.to_thread(made.__exit__, None, None, None))

    @contextmanager
    def folder(self, purpose: str) -> Iterator[Path]:
        """A private folder on the home's device, removed at the end."""
        refuse_in_loop("Making a folder")
        parent = self._folder
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-{os.getpid()}-", dir=parent))
        try:
            yield folder
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StorageFull(
                f"No space left while working in {parent}: {error.strerror}.",
                hint="Free space on the device of LMAAS_HOME and try again.",
            ) from error
        finally:
            left.remove(folder)

    async def child(
        self,
        module: str,
        request: object,
        scratch: Path,
        heard: Callable[[bytes], None] | None = None,
        reads: Sequence[Path] = (),
        log: Path | None = None,
    ) -> bytes:
        """What the child says of `request`; `heard` gets the lines that it writes meanwhile.

        It reads `reads` and what is in `scratch`. The end of what it prints is added to `log`.
        """
        stop = threading.Event()
        work = partial(
            self.run_child, module, request, scratch, reads=reads, stop=stop, heard=heard, log=log
        )
        return await to_end(self._in_thread(work), stop)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def run_child(
        self,
        module: str,
        request: object,
        scratch: Path,
        *,
        reads: Sequence[Path] = (),
        memory_bytes: int | None = None,
        work: str = "Compiling",
        stop: threading.Event,
        heard: Callable[[bytes], None] | None = None,
        log: Path | None = None,
    ) -> bytes:
        """The same in this thread, until `stop` is set."""
        try:
            return self._placement.run_child(
                module,
                msgspec.json.encode(request),
                scratch=scratch,
                bounds=ChildBounds(
                    reads=tuple(str(path.absolute()) for path in reads),
                    memory_bytes=memory_bytes or self._settings.compile_memory_bytes,
                    disk_bytes=self._settings.compile_disk_bytes,
                    timeout_s=self._settings.compile_timeout_s,
                    work=work,
                    required=self._settings.isolation == "required",
                ),
                stop=stop,
                heard=heard,
            )
        finally:
            if log is not None:
                with suppress(FileNotFoundError), left.appended(log) as file:
                    file.write(left.tail(scratch / "log", MAX_LOG_BYTES))
