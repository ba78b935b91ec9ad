"""Where a run can be taken up again: whole folders, each with the digests of its files.

A checkpoint appears by one rename, after everything in it is on the disk; a torn or damaged one is
passed over. Knows no framework: a learner writes its own files.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.job import CHECKPOINTS_FOLDER, checkpoint_folder
from lmaas.training.base import Learner
from lmaas.training.early_stopping import Watch
from lmaas.training.schedule import Plateau

STATE: Final = "state.json"
DIGESTS: Final = "digests.json"
BEST: Final = "best.safetensors"
SYSTEM_ERROR: Final = re.compile(r"os error (\d+)")


class State(msgspec.Struct, kw_only=True):
    """Where a run is after `step` steps. `evaluations` are the metrics so far, by step; `sizes` the
    widths of a network that was made smaller.
    """

    step: int = 0
    watch: Watch = msgspec.field(default_factory=Watch)
    plateau: Plateau = msgspec.field(default_factory=Plateau)
    evaluations: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}


def write(
    folder: Path, learner: Learner, state: State, best: dict[str, np.ndarray] | None, *, keep: int
) -> Path:
    """Write a checkpoint below `folder` and remove all but the `keep` newest. Raises OSError."""
    parent = folder / CHECKPOINTS_FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    made = parent / checkpoint_folder(state.step)
    scratch = parent / f".{made.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        learner.save(scratch)
        if best is not None:
            from safetensors.numpy import save_file

            save_file({n: np.ascontiguousarray(w) for n, w in best.items()}, scratch / BEST)
        (scratch / STATE).write_bytes(msgspec.json.encode(state))
        digests = {path.name: _digest(path) for path in sorted(scratch.iterdir())}
        (scratch / DIGESTS).write_bytes(msgspec.json.encode(digests))
        for path in scratch.iterdir():
            _sync(path)
        _sync(scratch)
        if made.exists():
            shutil.rmtree(made)
        scratch.rename(made)
        _sync(parent)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if code := system_error(error):
            raise OSError(code, os.strerror(code)) from error
        raise
    for old in sorted(parent.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return made


def newest(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` that is whole."""
    for path in sorted((folder / CHECKPOINTS_FOLDER).glob("step-*"), reverse=True):
        if _whole(path):
            return path
    return None


def read(path: Path, learner: Learner) -> tuple[State, dict[str, np.ndarray] | None]:
    """Put `learner` where the checkpoint is; the state, and the best weights so far."""
    learner.load(path)
    best = None
    if (path / BEST).exists():
        from safetensors.numpy import load_file

        best = load_file(path / BEST)
    return state_of(path), best


def state_of(path: Path) -> State:
    """Where the checkpoint is."""
    return msgspec.json.decode((path / STATE).read_bytes(), type=State)


def _whole(path: Path) -> bool:
    try:
        digests = msgspec.json.decode((path / DIGESTS).read_bytes(), type=dict[str, str])
        return all(_digest(path / name) == digest for name, digest in digests.items())
    except (OSError, msgspec.DecodeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def system_error(error: BaseException) -> int | None:
    """What the system said no with, where safetensors only tells it in words."""
    from safetensors import SafetensorError

    found = SYSTEM_ERROR.search(str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
