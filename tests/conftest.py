"""What all tests share."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from lmaas.aside import GUARD
from servers import Running, publish_digits, publish_language, publish_pictures, serving

# Servers of tests fail where their event loop would wait for the database or for files.
os.environ[GUARD] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a script puts into the background. Processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST: Final = (
    "e2e/test_recipes.py", "e2e/test_demo.py", "conformance/test_engines.py",
    "e2e/test_language_attacks.py", "conformance/test_frameworks.py", "e2e/test_fine_tuning.py",
    "jobs/test_bad_input.py", "training/test_problems.py", "fuzz/test_http.py",
    "conformance/test_learners.py", "serving/test_vllm.py", "e2e/test_embeddings.py",
)  # fmt: skip
"""Files that begin first: one of them begun last would keep one core busy and leave the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they were."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


Make = Callable[[Path], object]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """What takes a while to make, once a run: `once(name, make)` is the folder that `make` filled.

    The run's folder has those of pytest-xdist's processes, which share what one of them made. It
    is not to be changed: copy it.
    """
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent

    def made(name: str, make: Make) -> Path:
        done, unfinished = run / f"{name}-made", run / f"{name}-unfinished"
        with (run / f"{name}-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(done)
        return done

    return made


def copied(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what tests share."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copied") / "home"))


@pytest.fixture(scope="session")
def digits_home(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home with the model `digits`; not to be changed."""
    return copied(once("digits", publish_digits), tmp_path_factory)


@pytest.fixture(scope="session")
def language_home(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home with the language model `tiny`; not to be changed."""
    return copied(once("language", publish_language), tmp_path_factory)


@pytest.fixture(scope="session")
def language(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    """A server with the language model `tiny`, which tests share."""
    with serving(copied(language_home, tmp_path_factory)) as running:
        yield running


@pytest.fixture(scope="session")
def eyes_made(once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny LLaVA, `eyes`, and a `home` that has it; not to be changed."""
    return copied(once("eyes", publish_pictures), tmp_path_factory)


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory, eyes_made: Path) -> Iterator[Running]:
    """A server with the model `eyes`, which is shown images; tests share it."""
    with serving(copied(eyes_made / "home", tmp_path_factory)) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, digits_home: Path) -> Iterator[Running]:
    """A server that tests share; what they publish has names of their own."""
    home = copied(digits_home, tmp_path_factory)
    with serving(home, max_body_bytes=1_000_000, allowed_origins="https://app.example") as running:
        yield running
