"""What all tests share."""

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmaas.aside import GUARD
from servers import Running, publish_digits, publish_language, serving

# Servers of tests fail where their event loop would wait for the database or for files.
os.environ[GUARD] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a script puts into the background. Processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the model `digits`; not to be changed."""
    home = tmp_path_factory.mktemp("digits")
    publish_digits(home)
    return home


@pytest.fixture(scope="session")
def language_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the language model `tiny`; not to be changed."""
    # It takes a while to make: once a run, whose folder has those of pytest-xdist's processes.
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    made, home = run / "language-made", tmp_path_factory.mktemp("language") / "home"
    with (run / "language-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            publish_language(run / "language-new")
            (run / "language-new").rename(made)
    shutil.copytree(made, home)
    return home


@pytest.fixture(scope="session")
def language(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    """A server with the language model `tiny`, which tests share."""
    home = tmp_path_factory.mktemp("language-server") / "home"
    shutil.copytree(language_home, home)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that tests share; what they publish has names of their own."""
    home = tmp_path_factory.mktemp("home")
    publish_digits(home)
    with serving(home, max_body_bytes=1_000_000, allowed_origins="https://app.example") as running:
        yield running
