"""Networks over rows of numbers in Keras: (N, features) in, (N, outputs) out."""

import itertools
from typing import Any

import keras
from keras import layers

from lmaas.tasks.architectures import Mlp
from lmaas.training.keras.blocks import dense, he


def build(name: str, options: Mlp, features: int, outputs: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    rows = keras.Input((features,), name="features")
    hidden = dense(rows, options.hidden, seeds)
    given = layers.Dense(outputs, kernel_initializer=he(seeds), name="outputs")(hidden)
    return keras.Model(rows, given, name=name)
