"""Checkpoints that hear: Whisper's kind writes token by token, others give scores of letters."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from lmaas.frameworks import checkpoint
from lmaas.types import Manifest, PushOptions

BUILDERS: Final = {"WhisperForConditionalGeneration": "lmaas.frameworks.sequence.checkpoint"}
"""By architecture; all others are CTC models."""
OTHERS: Final = "lmaas.frameworks.ctc"


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package of the checkpoint in `folder`. Raises what the builder of its kind raises."""
    architecture = checkpoint.architecture_of(checkpoint.read_config(folder))
    module = importlib.import_module(BUILDERS.get(architecture, OTHERS))
    return cast(Callable[[Path, PushOptions, Path], Manifest], module.build)(
        folder, options, target
    )
