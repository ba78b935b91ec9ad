"""What an encoder-decoder transformer is, as data, and how its weights are called.

This is the one form that checkpoints are read into and that trained models are exported to. It has
no torch in it: weights are numpy arrays.

Names of weights; `S` is `encoder` or `decoder`, `i` a layer's number from 0 on. Matrices are (out,
in), as in PyTorch's `Linear`. What has no `bias` has none.

    S.embedding                      (tokens, width); of a source of tokens, and of the decoder
    S.positions                      (most, width): added to the token or frame at each place
    S.relative                       (2 M + 1, heads): added to attention at distance -M … M, key's
                                     place minus query's; farther ones count as the farthest
    S.embedding_norm.weight, .bias   after positions are added
    S.layers.i.self.query|key|value|out.weight, .bias
    S.layers.i.self.norm.weight, .bias
    S.layers.i.feed.in|gate|out.weight, .bias       `gate` only where `gated`
    S.layers.i.feed.norm.weight, .bias
    S.norm.weight, .bias             after the last layer
    decoder.layers.i.cross.query|key|value|out.weight, .bias, and .norm
    encoder.convolution.0|1.weight (out, in, 3), .bias      of a source of sound: strides 1 and 2
    bridge.weight, .bias             between encoder and cross attention, where the widths differ
    head.weight (tokens, width), head.bias                  `decoder.embedding` where left out
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.types import Record

Weights = Mapping[str, np.ndarray]
"""Arrays by name, float32 or float16."""
Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh"]


class Stack(Record, frozen=True, kw_only=True):
    """One of the two halves. `head_width` is that of a head of attention.

    `norm_first`: normalised before each part (and, with `S.norm`, at the end) instead of after it.
    """

    width: int
    layers: int
    heads: int
    head_width: int
    norm_first: bool = False
    embedding_scale: float = 1.0


class Network(Record, frozen=True, kw_only=True):
    """An encoder-decoder. `norm` is layer normalisation or that by the root mean square alone.

    `attention_scale` None is one by the root of `head_width`. `head_scale` is what the last vectors
    are multiplied with before the head. `frames` are the frames of sound that the encoder reads,
    always so many; None: as many as there are tokens. `alignment` are (layer, head) pairs of the
    decoder whose attention says which part of the source a token is about.
    """

    source: Literal["tokens", "audio", "image"]
    vocabulary: int
    encoder: Stack
    decoder: Stack
    activation: Activation = "relu"
    gated: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-5
    attention_scale: float | None = None
    head_scale: float = 1.0
    mel_bins: int = 80
    frames: int | None = None
    alignment: tuple[tuple[int, int], ...] = ()


def sinusoids(most: int, width: int) -> np.ndarray:
    """Positions (most, width) of Vaswani et al. 2017: sines in the first half, cosines in the
    second."""
    place = np.arange(most)[:, None]
    step = 1 / np.power(10_000.0, 2 * (np.arange(width) // 2) / width)
    angles = place * step
    table = np.empty((most, width), np.float32)
    half = (width + 1) // 2
    table[:, :half] = np.sin(angles[:, 0::2])
    table[:, half:] = np.cos(angles[:, 1::2])
    return table


def require(weights: Weights, name: str, *shape: int) -> np.ndarray:
    """A weight that must be there in this shape (-1: any size). Raises ModelRefused."""
    if name not in weights:
        raise ModelRefused(f"The network has no weight {name!r}.")
    found = weights[name]
    if len(found.shape) != len(shape) or any(
        want not in (-1, size) for want, size in zip(shape, found.shape, strict=True)
    ):
        raise ModelRefused(f"The weight {name!r} has the shape {found.shape}; expected {shape}.")
    return found
