"""Readers in Keras: (N, H, W, C) in, logits (N, W / 4, classes) out."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from lmaas.tasks.optical_character_recognition.options import (
    KERNEL,
    NORM_GROUPS,
    ROWS,
    CnnCtc,
)
from lmaas.training.keras.blocks import he
from lmaas.types import ImageSpec

STRIDES = ((2, 2), (2, 1), (2, 1))


def build(options: CnnCtc, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network, weights drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    pixels = keras.Input((image.height, image.width, image.channels), name="pixels")
    first, *widths = options.widths
    x = _conv(pixels, first, (2, 2), seeds)
    for width, stride in zip(widths, STRIDES, strict=True):
        x = _conv(x, width, stride, seeds)
        x = layers.Add()([x, _conv(x, width, (1, 1), seeds)])
    rows = image.height // ROWS
    x = layers.Conv2D(options.width, (rows, 1), kernel_initializer=he(seeds))(x)
    x = _normed(x)
    for _ in range(options.depth):
        y = layers.Conv2D(
            options.width, (1, KERNEL), padding="same", use_bias=False,
            kernel_initializer=he(seeds),
        )(x)  # fmt: skip
        x = layers.Add()([x, _normed(y)])
    x = layers.Reshape((image.width // 4, options.width))(x)
    glorot = keras.initializers.GlorotUniform(seed=next(seeds))
    logits = layers.Dense(classes, kernel_initializer=glorot, name="logits")(x)
    return keras.Model(pixels, logits, name="cnn_ctc")


def _conv(x: Any, channels: int, stride: tuple[int, int], seeds: Iterator[int]) -> Any:
    # Filled up by one on each side: Keras's own "same" is another one where the stride is 2.
    x = layers.ZeroPadding2D(1)(x)
    return _normed(
        layers.Conv2D(channels, 3, stride, use_bias=False, kernel_initializer=he(seeds))(x)
    )


def _normed(x: Any) -> Any:
    return layers.ReLU()(layers.GroupNormalization(NORM_GROUPS, epsilon=1e-5)(x))
