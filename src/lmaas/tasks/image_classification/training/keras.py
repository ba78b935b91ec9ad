"""Image classifiers in Keras: (N, H, W, C) in, logits (N, classes) out."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from lmaas.tasks.architectures import Mlp
from lmaas.tasks.image_classification.options import (
    BLOCKS,
    NORM_GROUPS,
    Cnn,
    ResNet18,
    Vit,
    count_patches,
)
from lmaas.training.keras.blocks import dense, encoder_block, he, places
from lmaas.types import ImageSpec


def build(name: str, options: Any, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    pixels = keras.Input((image.height, image.width, image.channels), name="pixels")
    features = MAKERS[name](pixels, options, image, seeds)
    logits = layers.Dense(classes, kernel_initializer=he(seeds), name="logits")(features)
    return keras.Model(pixels, logits, name=name)


def _mlp(x: Any, options: Mlp, image: ImageSpec, seeds: Iterator[int]) -> Any:
    return dense(layers.Flatten()(x), options.hidden, seeds)


def _conv(x: Any, channels: int, size: int, stride: int, seeds: Iterator[int], **told: Any) -> Any:
    return layers.Conv2D(
        channels, size, stride, padding="same", kernel_initializer=he(seeds), **told
    )(x)


def _cnn(x: Any, options: Cnn, image: ImageSpec, seeds: Iterator[int]) -> Any:
    side = min(image.height, image.width)
    for channels in options.channels:
        x = _conv(x, channels, 3, 1, seeds, activation="relu")
        if side >= 2:
            x = layers.MaxPooling2D(2)(x)
        side //= 2
    return layers.GlobalAveragePooling2D()(x)


def _resnet18(x: Any, options: ResNet18, image: ImageSpec, seeds: Iterator[int]) -> Any:
    def normed(y: Any, channels: int, size: int, stride: int) -> Any:
        convolved = _conv(y, channels, size, stride, seeds, use_bias=False)
        return layers.GroupNormalization(NORM_GROUPS)(convolved)

    before = options.width
    x = layers.ReLU()(normed(x, before, 3, 1))
    for block, inner in enumerate(options.inner):
        stage, place = divmod(block, BLOCKS)
        channels, stride = options.width << stage, 2 if stage and not place else 1
        y = layers.ReLU()(normed(x, inner, 3, stride))
        y = normed(y, channels, 3, 1)
        short = x if before == channels else normed(x, channels, 1, stride)
        x = layers.ReLU()(layers.Add()([y, short]))
        before = channels
    return layers.GlobalAveragePooling2D()(x)


def _vit(x: Any, options: Vit, image: ImageSpec, seeds: Iterator[int]) -> Any:
    count = count_patches(options, image.height, image.width)
    x = _conv(x, options.width, options.patch, options.patch, seeds)
    x = layers.Reshape((count, options.width))(x)
    x = layers.Add()([x, places(x[:, :, 0], count, options.width, seeds)])
    for feed in options.feed:
        x = encoder_block(x, options.width, options.heads, feed, seeds)
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-5)(x))


MAKERS: dict[str, Callable[..., Any]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet18": _resnet18,
    "vit": _vit,
}
