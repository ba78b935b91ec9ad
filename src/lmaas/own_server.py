"""A server of one's own for tests and notebooks: `with lmaas.local() as client:`."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lmaas.client import Client
from lmaas.config import load_settings
from lmaas.errors import Unavailable
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT

START_TIMEOUT_S = 30.0


@contextmanager
def local(home: str | Path | None = None) -> Iterator[Client]:
    """Run `lmaas serve` on a free port of loopback for the time of the block.

    `home` is a new temporary folder unless given; the client has an admin key. Raises
    Unavailable with the end of the server's log when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="lmaas-", ignore_cleanup_errors=True) as scratch:
        folder = Path(home or scratch).absolute()
        with closing(Service(load_settings({"home": str(folder)}))) as service:
            record, key = service.create_key(TENANT, "lmaas.local", ("admin", "call"))
            argv = [sys.executable, "-m", "lmaas", "--home", str(folder), "serve", "--port", "0"]
            log = Path(scratch) / "server.log"
            with log.open("wb") as file:
                process = subprocess.Popen(argv, stdout=file, stderr=file)
            try:
                with Client(wait_for_url(process, folder, log), key) as client:
                    yield client
            finally:
                process.terminate()
                process.wait()
                service.revoke_key(TENANT, record.id)


def wait_for_url(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    """The address of the server of `home` that `process` starts.

    Raises Unavailable with the end of `log` when it does not start.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        live = HomeLock.read(home)
        if live and "url" in live and live["pid"] == process.pid:
            return str(live["url"])
        time.sleep(0.02)
    raise Unavailable(
        f"The server did not start: {log.read_text('utf-8', 'replace')[-2000:].strip()}"
    )
