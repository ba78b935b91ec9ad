"""What a job's events look like on a terminal: a live bar with the numbers of the run."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lmaas.cli import main
from lmaas.config import Settings
from lmaas.job import JobEvent
from lmaas.jobs.claims import Claims
from lmaas.jobs.store import Jobs
from lmaas.service import Service
from lmaas.types import TENANT

RECIPE: dict[str, Any] = {"task": "tabular", "data": {"train": "a.csv"}}
NUMBERS = {
    "step": 30, "total_steps": 100, "epoch": 2, "train_loss": 0.25, "learning_rate": 0.001,
    "samples_per_s": 16.0, "valid_loss": 0.4, "valid_accuracy": 0.875,
}  # fmt: skip
RESOLVED: dict[str, Any] = {"recipe": {**RECIPE, "batch_size": 8}}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo terminal that keeps what is written to it."""

    def __init__(self, columns: int) -> None:
        self._read, written = os.openpty()
        fcntl.ioctl(written, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.file = os.fdopen(written, "w", encoding="utf-8")
        self._content = b""
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def _drain(self) -> None:
        while True:
            try:
                piece = os.read(self._read, 65_536)
            except OSError:
                return
            self._content += piece

    def text(self) -> str:
        """All that was shown, once nobody writes any more."""
        self.file.close()
        self._reader.join(10)
        os.close(self._read)
        return ESCAPES.sub("", self._content.decode("utf-8"))


@pytest.fixture
def paused(tmp_path: Path) -> str:
    """The id of a job of the home `tmp_path` that has told its numbers and is paused."""
    with closing(Service(Settings(home=str(tmp_path)))) as service:
        job = Jobs(service.registry.database).add(TENANT, "key", "train", "a", RECIPE)
        claims = Claims(service.registry.database)
        taken = claims.claim("runner", 1)
        assert taken is not None
        told = [
            JobEvent(type="resolved", message="All [auto] gone.", created_at=0, data=RESOLVED),
            JobEvent(type="metrics", message="Step 30/100", created_at=1, data=NUMBERS),
            JobEvent(type="checkpoint", message="Checkpoint.", created_at=2, data={"step": 30}),
        ]
        claims.write(taken[0], told)
        event = JobEvent(type="message", message="The job is paused.", created_at=3)
        claims.release(taken[0], "paused", event)
        return job.id


@pytest.mark.parametrize("columns", [60, 200])
def test_a_bar_with_numbers_and_the_time_left(
    tmp_path: Path,
    paused: str,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.file)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(tmp_path), "jobs", "watch", paused])
    shown = terminal.text()
    assert ended.value.code == 0
    for told in ("All [auto] gone.", "The job is paused.", " 30/100 ", "0:00:35 left", "━━━━"):
        assert told in shown, shown
    for told in ("loss 0.25", "lr 0.001", "samples/s 16", "loss (valid) 0.4", "accuracy (valid)"):
        assert told in shown, shown
    assert "paused" in capsys.readouterr().out


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, paused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--home", str(tmp_path), "jobs", "watch", paused])
    assert capsys.readouterr().err.splitlines()[-4:] == [
        "All [auto] gone.", "Step 30/100", "Checkpoint.", "The job is paused.",
    ]  # fmt: skip
