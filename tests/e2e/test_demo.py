"""The main job, as a user runs it: three frameworks trained, published, served and called."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from lmaas.registry.lock import HomeLock

SNIPPETS = [
    "Call them: curl",
    "Call them: Python",
    "Call them: Python with huggingface_hub",
    "Call them: Python with nothing installed",
    "Publish your own: PyTorch",
    "Publish your own: Keras",
    "Publish your own: TensorFlow",
]
DEMO = [sys.executable, "-m", "lmaas", "demo"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LMAAS_HOME": str(home), "LMAAS_PORT": "0"}


def read_until(stream: IO[str], text: str) -> str:
    seen = []
    for line in stream:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError("".join(seen))


class Demo:
    """`lmaas demo --serve`, and what it printed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.out = home / "out"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*DEMO, "--serve"],
                env=environment(home),
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self.process.stderr
        self.told = read_until(self.process.stderr, "Serving on")

    def snippets(self) -> dict[str, str]:
        parts = re.split(r"^# --- (.*)$", self.out.read_text(), flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("home"))
    yield running
    live = HomeLock.read(running.home)
    assert live
    # As a terminal does at Ctrl-C.
    os.killpg(running.process.pid, signal.SIGINT)
    _, said = running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert "Traceback" not in said
    assert "Traceback" not in (running.home / "server.log").read_text()
    assert HomeLock.read(running.home) is None
    with pytest.raises(ProcessLookupError):
        os.kill(live["pid"], 0)


def test_progress_is_on_stderr_and_only_that(demo: Demo) -> None:
    told = [line for line in demo.told.splitlines() if line.endswith("…") or "Ctrl-C" in line]
    assert [line.split()[0] for line in told] == [
        "Starting", *["Training"] * 3, "Classifying", "Serving",
    ]  # fmt: skip


def test_it_serves_what_it_trained(demo: Demo) -> None:
    table = demo.out.read_text().splitlines()
    assert table[1].split()[:2] == ["framework", "parameters"]
    rows = [line.split() for line in table[2:5]]
    assert [row[0] for row in rows] == ["pytorch", "keras", "tensorflow"]
    for _, parameters, accuracy, served, same, error, precision, *_ in rows:
        assert parameters == f"{784 * 128 + 128 + 128 * 10 + 10:,}"
        assert float(accuracy) >= 0.95
        assert (served, same) == (accuracy, "yes")
        assert float(error) < 1e-4
        assert precision == "f32"


def test_training_is_shown_as_it_goes(demo: Demo) -> None:
    _, *parts = re.split(r"^Training digits-(\w+) …$", demo.told, flags=re.MULTILINE)
    for framework, told in zip(parts[::2], parts[1::2], strict=True):
        losses = re.findall(r"^Step \d+/(\d+): loss [\d.e-]+, valid_loss ([\d.e-]+)", told, re.M)
        assert len(losses) == 12
        assert float(losses[-1][1]) < float(losses[0][1])
        assert f"The model is registered as digits-{framework}:1." in told


@pytest.mark.parametrize(
    "title",
    SNIPPETS,
)
def test_snippets_run_as_pasted(demo: Demo, title: str) -> None:
    if title.endswith("curl") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    runner = ["bash", "-ec"] if title.endswith("curl") else [sys.executable, "-W", "ignore", "-c"]
    snippet = demo.snippets()[title]
    done = subprocess.run(
        [*runner, snippet], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("label" if title.startswith("Call") else "my-") in done.stdout


def test_every_snippet_is_tested(demo: Demo) -> None:
    assert list(demo.snippets()) == SNIPPETS


def test_demo_says_at_once_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [*DEMO, "--port", port, "--json"]
        done = subprocess.run(
            argv, env=environment(tmp_path), capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 1
    told = json.loads(done.stderr)["error"]
    assert told["code"] == "already_running"
    assert port in told["message"]
    assert "--port" in told["hint"]
