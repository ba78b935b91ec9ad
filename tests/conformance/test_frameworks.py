"""Every framework passes the kit; Keras on each of its backends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import framework_kit as kit


@pytest.fixture(params=["pytorch", "keras", "tensorflow", "onnx", "lightgbm", "stack"])
def example(request: pytest.FixtureRequest, tmp_path: Path) -> kit.Example:
    if request.param == "onnx":
        return kit.onnx(tmp_path / "files")
    made: kit.Example = getattr(kit, request.param)()
    return made


def test_round_trip(example: kit.Example, tmp_path: Path) -> None:
    kit.check_round_trip(example, tmp_path)


def test_export(example: kit.Example, tmp_path: Path) -> None:
    kit.check_export(example, tmp_path)


def test_bad_samples(example: kit.Example, tmp_path: Path) -> None:
    kit.check_bad_samples(example, tmp_path)


def test_keras_on_torch(tmp_path: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    argv = [sys.executable, "-W", "ignore", kit.__file__, "keras", str(tmp_path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch passes\n"


def test_keras_learns_on_torch() -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "keras"]
    done = subprocess.run(
        [*argv, str(Path(__file__).with_name("test_learners.py"))],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
