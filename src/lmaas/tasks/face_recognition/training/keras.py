"""Face embedders in Keras: (N, H, W, C) in, vectors (N, dimensions) of length 1 out."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from lmaas.tasks.face_recognition.options import NORM_GROUPS, FaceNet
from lmaas.training.keras.blocks import he
from lmaas.types import ImageSpec

EMBEDDING = "embedding"


def build(options: FaceNet, image: ImageSpec, people: int, seed: int) -> Any:
    """What learns: an embedder and a vector for each person, drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    pixels = keras.Input((image.height, image.width, image.channels), name="pixels")
    stem, *widths = options.widths
    x = _conv(pixels, stem, 2, seeds)
    for width in widths:
        x = _conv(x, width, 2, seeds)
        x = layers.Add()([x, _conv(x, width, 1, seeds)])
    x = layers.Dense(options.dimensions, kernel_initializer=he(seeds))(layers.Flatten()(x))
    vectors = layers.UnitNormalization(name=EMBEDDING, dtype="float32")(x)
    cosines = People(people, next(seeds), name="cosines", dtype="float32")(vectors)
    return keras.Model(pixels, {EMBEDDING: vectors, "cosines": cosines}, name="facenet")


def embedder(model: Any) -> Any:
    """What is served of a model that has learned; layers of Keras's own alone."""
    return keras.Model(model.input, model.get_layer(EMBEDDING).output, name="facenet")


class People(layers.Layer):  # type: ignore[misc]
    """The vectors of the people that are learned by: cosines with all of them."""

    def __init__(self, people: int, seed: int, **told: Any) -> None:
        super().__init__(**told)
        self.people, self.seed = people, seed

    def build(self, shape: Any) -> None:
        """Draw the vectors."""
        draw = keras.initializers.RandomNormal(0.0, 1.0, seed=self.seed)
        self.vectors = self.add_weight(
            shape=(shape[-1], self.people), initializer=draw, name="vectors"
        )

    def call(self, x: Any) -> Any:
        """(N, dimensions) to (N, people)."""
        lengths = ops.sqrt(ops.sum(ops.square(self.vectors), axis=0, keepdims=True))
        return ops.matmul(x, self.vectors / lengths)


def _conv(x: Any, channels: int, stride: int, seeds: Iterator[int]) -> Any:
    # As PyTorch pads: a pixel on each side, whatever the stride.
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(channels, 3, stride, use_bias=False, kernel_initializer=he(seeds))(x)
    return layers.ReLU()(layers.GroupNormalization(NORM_GROUPS, epsilon=1e-5)(x))
