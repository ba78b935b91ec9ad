"""The way into a worker process: take what it is given, shut yourself in, become the worker.

`python -m lmaas.placement.enter SOCKET JOURNAL CONFINEMENT`. The order matters: a process can be
shut in as a whole only before it starts threads, and the worker's libraries start them when they
are imported. Socket and journal are opened before, as nothing outside can be opened after.
"""

import importlib
import os
import socket
import sys
from pathlib import Path

import msgspec

from lmaas import lean_imports
from lmaas.placement.isolation import Confinement, confine
from lmaas.placement.view import SHARED_MEMORY

WORKER = "lmaas.runtime.worker"


def main(socket_path: str, journal: Path, confinement: str) -> None:
    """Never returns."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.connect(socket_path)
    with journal.open("w+b") as noted:
        wanted = msgspec.json.decode(confinement, type=Confinement)
        missing = confine(wanted)
        # In memory and bounded; where it cannot be had, a folder.
        in_memory = wanted.spare is None or "view" not in missing
        os.environ["TMPDIR"] = SHARED_MEMORY if in_memory else str(wanted.spare)
        importlib.import_module(WORKER).run(connected, noted)


if __name__ == "__main__":
    lean_imports.install()
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
