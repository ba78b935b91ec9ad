"""What both readers of sound files have in common."""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from lmaas.errors import ConfigError, InvalidInput

BLOCK_FRAMES = 1 << 18
"""Samples of each channel that are decoded at once."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened sound file. `frames` are the samples of a channel, None where nobody can tell.

    `blocks` decodes it, once: mono float32 arrays (samples,), the mean of the channels.
    """

    sample_rate: int
    channels: int
    frames: int | None
    blocks: Callable[[], Iterator[np.ndarray]]


def damaged(error: object) -> InvalidInput:
    """What tells that a file begins well and cannot be read."""
    told = str(error).strip().rstrip(".")
    return InvalidInput(f"The sound is damaged: {told}." if told else "The sound is damaged.")


def missing(library: str) -> ConfigError:
    """What tells that this installation reads no sound."""
    return ConfigError(
        f"Reading this sound needs {library}, which is not installed.",
        hint="pip install 'lmaas[audio]'",
    )
