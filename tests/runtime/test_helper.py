"""A helper process: slow, dead, too large or well, whoever asked gets to know which."""

import contextlib
import gc
import os
import subprocess
import sys
import time

import psutil
import pytest

from lmaas.runtime.language.helper import MAX_FRAME_BYTES, Died, Helper, Slow

BRIEF = {"limit_s": 0.3, "patience_s": 2.0}
MODULE = "helper_for_tests"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def test_it_answers_and_is_bounded() -> None:
    helper = Helper(MODULE, first=b"print:first")
    assert helper.begin() == b"first"
    assert helper.begin() == b"", "it has begun"
    pid = helper.pid
    assert helper.ask(b"print:well", **BRIEF) == b"well"
    large = b"print:" + b"x" * (8 << 20)
    assert helper.ask(large, limit_s=5, patience_s=20) == large[6:]
    assert helper.pid == pid
    with pytest.raises(Slow):
        helper.ask(b"work:", **BRIEF)
    assert helper.pid is None
    with pytest.raises(Died):
        helper.ask(b"die:", **BRIEF)
    with pytest.raises(Died):
        helper.ask(b"length:" + str(MAX_FRAME_BYTES + 1).encode(), **BRIEF)
    assert helper.ask(b"memory:", **BRIEF) == b"no"
    assert helper.ask(b"grow:", **BRIEF) == b"grown"
    assert helper.pid is None, "it makes place for a small one"
    assert helper.ask(b"print:again", **BRIEF) == b"again"
    assert helper.pid != pid


def test_nobody_waits_for_a_busy_machine_for_ever() -> None:
    """A helper that sleeps does no work, and has until the patience is over."""
    helper = Helper(MODULE)
    helper.begin()
    start = time.monotonic()
    with pytest.raises(Slow):
        helper.ask(b"sleep:", limit_s=0.2, patience_s=1.0)
    assert time.monotonic() - start > 0.9


def test_it_ends_with_whoever_started_it() -> None:
    helper = Helper(MODULE)
    helper.begin()
    process = psutil.Process(helper.pid)
    del helper
    gc.collect()
    assert not process.is_running()
    code = "import helper_for_tests as h, os; from lmaas.runtime.language.helper import Helper; "
    code += "x = Helper('helper_for_tests'); x.begin(); print(x.pid, flush=True); os._exit(1)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stdout
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(told)).wait(5)
