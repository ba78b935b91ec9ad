"""One server a home, whatever becomes of the one before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmaas.errors import AlreadyRunning
from lmaas.registry.lock import HomeLock

HOLD = (
    "import pathlib, sys, time; from lmaas.registry.lock import HomeLock\n"
    "with HomeLock(pathlib.Path(sys.argv[1])) as lock:\n"
    " lock.write({'url': 'http://127.0.0.1:1'}); print('held', flush=True); time.sleep(60)"
)


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    assert HomeLock.read(tmp_path) is None
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
    assert HomeLock.read(tmp_path) == {"pid": holder.pid, "url": "http://127.0.0.1:1"}
    with pytest.raises(AlreadyRunning, match=rf"process {holder.pid} at http://127.0.0.1:1"):
        HomeLock(tmp_path).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert HomeLock.read(tmp_path) is None
    with HomeLock(tmp_path):
        assert HomeLock.read(tmp_path) == {"pid": os.getpid()}
    assert HomeLock.read(tmp_path) is None
