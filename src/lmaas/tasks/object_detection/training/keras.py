"""Detectors in Keras: (N, H, W, C) in, boxes and logits of each cell (N, h, w, 4 + classes) out."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from lmaas.tasks.object_detection.options import NORM_GROUPS, SIDES, CenterNet
from lmaas.tasks.object_detection.training.start import HEAD_SCALE, HEAT_BIAS
from lmaas.training.keras.blocks import he
from lmaas.types import ImageSpec


def build(name: str, options: CenterNet, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    assert name == "centernet", name
    seeds = itertools.count(seed * 4096)
    pixels = keras.Input((image.height, image.width, image.channels), name="pixels")
    stem, *widths = options.widths
    x = _conv(pixels, stem, 3, 2, seeds)
    levels = []
    for width in widths:
        x = _conv(x, width, 3, 2, seeds)
        x = layers.Add()([x, _conv(x, width, 3, 1, seeds)])
        levels.append(x)
    fine, middle, coarse = levels
    x = layers.UpSampling2D(2)(_conv(coarse, widths[1], 1, 1, seeds))
    x = layers.Add()([x, middle])
    x = layers.UpSampling2D(2)(_conv(x, widths[0], 3, 1, seeds))
    x = layers.Add()([x, fine])
    x = _conv(_conv(x, options.head, 3, 1, seeds), options.head, 3, 1, seeds)
    boxes = _head(x, SIDES, 0.0, "boxes", seeds)
    heat = _head(x, classes, HEAT_BIAS, "heat", seeds)
    return keras.Model(pixels, layers.Concatenate(name="centers")([boxes, heat]), name=name)


def _head(x: Any, channels: int, bias: float, name: str, seeds: Iterator[int]) -> Any:
    return layers.Conv2D(
        channels,
        1,
        kernel_initializer=keras.initializers.RandomNormal(0.0, HEAD_SCALE, seed=next(seeds)),
        bias_initializer=keras.initializers.Constant(bias),
        name=name,
    )(x)


def _conv(x: Any, channels: int, size: int, stride: int, seeds: Iterator[int]) -> Any:
    x = layers.Conv2D(
        channels, size, stride, padding="same", use_bias=False, kernel_initializer=he(seeds)
    )(x)
    return layers.ReLU()(layers.GroupNormalization(NORM_GROUPS, epsilon=1e-5)(x))
