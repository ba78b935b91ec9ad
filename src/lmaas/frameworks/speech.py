"""Checkpoints that hear: Whisper's kind writes token by token, others give scores of letters."""

from pathlib import Path

from lmaas.frameworks import checkpoint
from lmaas.types import Manifest, PushOptions

WHISPER = "WhisperForConditionalGeneration"


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package of the checkpoint in `folder`. Raises what the builder of its kind raises."""
    if checkpoint.architecture_of(checkpoint.read_config(folder)) == WHISPER:
        from lmaas.frameworks.sequence import checkpoint as sequence

        return sequence.build(folder, options, target)
    from lmaas.frameworks import ctc

    return ctc.build(folder, options, target)
