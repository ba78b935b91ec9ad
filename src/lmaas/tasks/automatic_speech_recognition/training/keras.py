"""Speech recognisers in Keras: (N, T, bins) and a mask (N, T) in, logits (N, T / 4, letters) out.

What is filled up is zero before each convolution, so that it changes nothing. Convolutions of
stride 2 are filled up by one on both sides: Keras's own "same" depends on the length.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from lmaas.tasks.automatic_speech_recognition.options import ConvCtc
from lmaas.training.keras.blocks import he


def build(options: ConvCtc, bins: int, letters: int, seed: int) -> Any:
    """The network, weights drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    features = keras.Input((None, bins), name="features")
    mask = keras.Input((None,), dtype="int64", name="mask")
    seen = ops.expand_dims(ops.cast(mask, "float32"), -1)
    x = layers.Multiply()([features, seen])
    for _ in range(2):
        x = layers.ZeroPadding1D(1)(x)
        x = layers.Conv1D(options.width, 3, 2, activation="silu", kernel_initializer=he(seeds))(x)
        seen = seen[:, ::2]
        x = layers.Multiply()([x, seen])
    for inner in options.inner:
        x = _block(x, seen, inner, options, seeds)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    logits = layers.Dense(letters, kernel_initializer=_glorot(seeds), name="logits")(x)
    return keras.Model({"features": features, "mask": mask}, logits, name="conv_ctc")


def _block(x: Any, seen: Any, inner: int, options: ConvCtc, seeds: Iterator[int]) -> Any:
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    value = layers.Dense(inner, kernel_initializer=_glorot(seeds))(y)
    gate = layers.Dense(inner, activation="sigmoid", kernel_initializer=_glorot(seeds))(y)
    y = layers.Multiply()([value, gate])
    y = layers.Multiply()([y, seen])
    over_time = layers.DepthwiseConv1D(
        options.kernel,
        padding="same",
        activation="silu",
        depthwise_initializer=keras.initializers.RandomUniform(
            -(options.kernel**-0.5), options.kernel**-0.5, seed=next(seeds)
        ),
    )
    y = layers.Dense(options.width, kernel_initializer=_glorot(seeds))(over_time(y))
    return layers.Add()([x, y])


def _glorot(seeds: Iterator[int]) -> Any:
    return keras.initializers.GlorotUniform(seed=next(seeds))
