"""What a worker prints reaches the log; the log itself does not reach the worker."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from lmaas.placement import output
from lmaas.placement.output import MINUTE_BYTES, Output


async def printed(code: str) -> None:
    pipe = Output()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=pipe.descriptor, stderr=pipe.descriptor
    )
    pipe.pass_on()
    await process.wait()
    await asyncio.wait_for(asyncio.gather(*output._running), 30)


def test_both_streams_reach_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    asyncio.run(printed("import sys; print('out', flush=True); print('err', file=sys.stderr)"))
    assert capfd.readouterr().err == "out\nerr\n"


def test_the_log_cannot_be_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w+") as log:
        log.write("what was before\n")
        monkeypatch.setattr(sys, "stderr", log)
        asyncio.run(
            printed("import os\nfor fd in 1, 2:\n try: os.ftruncate(fd, 0)\n except OSError: pass")
        )
    assert (tmp_path / "log").read_text() == "what was before\n"


def test_what_is_printed_without_end_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    asyncio.run(printed(f"import os\nfor _ in range(64): os.write(1, b'x' * {MINUTE_BYTES // 8})"))
    told = capfd.readouterr().err
    assert "prints too much" in told
    assert len(told) < MINUTE_BYTES + 2 * output.PIECE_BYTES


def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    with Path("/dev/full").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        asyncio.run(
            printed(
                "import pathlib, time\n"
                "for _ in range(20): print('x', flush=True); time.sleep(0.02)\n"
                f"pathlib.Path({str(done)!r}).touch()"
            )
        )
    assert done.exists()


def test_no_descriptor_is_left() -> None:
    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(printed("pass"))
    assert set(os.listdir("/proc/self/fd")) <= before
