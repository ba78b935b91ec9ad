"""Keras models of the sweep, on the backend of the process."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from conformance.models.case import Case, floats, rows, wholes

layers = keras.layers
X = floats(4, 6)
SEQUENCE = floats(3, 10, 6)
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


class Noise(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


class Two(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, left: Any, right: Any) -> Any:
        return self.dense(left + right)


def chain(*parts: Callable[[], Any]) -> Callable[[], Any]:
    """A Sequential, made when it is asked for."""

    def make() -> Any:
        keras.utils.set_random_seed(0)
        return keras.Sequential([part() for part in parts])

    return make


def mixed(policy: str) -> Callable[[], Any]:
    def make() -> Any:
        keras.config.set_dtype_policy(policy)
        try:
            return keras.Sequential([keras.Input((6,)), layers.Dense(32, "relu"), layers.Dense(3)])
        finally:
            keras.config.set_dtype_policy("float32")

    return make


def lookup() -> Any:
    given = keras.Input((1,), dtype="string")
    return keras.Model(given, layers.StringLookup(vocabulary=["a", "b", "c"])(given))


def vectorised() -> Any:
    layer = layers.TextVectorization(max_tokens=20, output_sequence_length=5)
    layer.adapt(["the cat sat", "a dog ran"])
    given = keras.Input((1,), dtype="string")
    return keras.Model(given, layers.Dense(2)(layers.Embedding(20, 3)(layer(given))))


def attending() -> Any:
    given = keras.Input((None, 8))
    return keras.Model(given, layers.MultiHeadAttention(2, 4)(given, given))


def of(*shape: int | None, **more: Any) -> Callable[[], Any]:
    return lambda: keras.Input(shape, **more)


def words(*values: str) -> np.ndarray:
    return np.array([[value] for value in values], object)


FRESH = ((floats(1, 10, 6, seed=1),), (floats(5, 10, 6, seed=2, scale=9.0),))
CASES = [
    Case("keras: LSTM", chain(of(10, 6), lambda: layers.LSTM(5), lambda: layers.Dense(2)),
         (SEQUENCE,), FRESH, small=True),
    Case("keras: LSTM over any time", chain(of(None, 6), lambda: layers.LSTM(5)), (SEQUENCE,),
         (*FRESH, (floats(2, 17, 6, seed=3),))),
    Case("keras: GRU", chain(of(10, 6), lambda: layers.GRU(5, return_sequences=True)),
         (SEQUENCE,), FRESH),
    Case("keras: Bidirectional", chain(of(10, 6), lambda: layers.Bidirectional(layers.LSTM(5))),
         (SEQUENCE,), FRESH),
    Case("keras: Masking", chain(of(10, 6), layers.Masking, lambda: layers.LSTM(5)), (SEQUENCE,),
         (*FRESH, (np.zeros((2, 10, 6), np.float32),))),
    Case("keras: mask_zero", chain(of(10, dtype="int32"),
         lambda: layers.Embedding(20, 6, mask_zero=True), lambda: layers.LSTM(5)),
         (wholes(0, 19, 4, 10).astype(np.int32),),
         ((np.array([[3, 4, 0, 0, 0, 0, 0, 0, 0, 0], [1] * 10], np.int32),),)),
    Case("keras: ConvLSTM2D", chain(of(3, 8, 8, 2), lambda: layers.ConvLSTM2D(4, 3),
         layers.Flatten), (floats(2, 3, 8, 8, 2),), ((floats(1, 3, 8, 8, 2, seed=1),),)),
    Case("keras: TimeDistributed", chain(of(3, 8, 2),
         lambda: layers.TimeDistributed(layers.Conv1D(4, 3)), layers.Flatten),
         (floats(2, 3, 8, 2),), ((floats(5, 3, 8, 2, seed=1),),)),
    Case("keras: a stateful RNN", chain(
         lambda: keras.Input(batch_shape=(3, 10, 6)), lambda: layers.LSTM(5, stateful=True)),
         (SEQUENCE,), refused="each time"),
    Case("keras: Discretization", chain(of(6), lambda: layers.Discretization([-1.0, 0.0, 1.0])),
         (X,), rows(6)),
    Case("keras: random numbers", chain(of(6), lambda: layers.Dense(3), Noise), (X,)),
    Case("keras: mixed_float16", mixed("mixed_float16"), (X,), rows(6)),
    Case("keras: mixed_bfloat16", mixed("mixed_bfloat16"), (X,), rows(6)),
    Case("keras: two arguments", Two, (X, X * 2),
         ((floats(3, 6, seed=1), floats(3, 6, seed=2)),)),
    Case("keras: attention over any time", attending, (floats(2, 5, 8),),
         ((floats(1, 9, 8, seed=1),), (floats(3, 2, 8, seed=2),))),
    Case("keras: images of any size", chain(of(None, None, 3),
         lambda: layers.Conv2D(4, 3, padding="same"), lambda: layers.Conv2D(1, 1)),
         (floats(2, 16, 16, 3),), ((floats(1, 9, 21, 3, seed=1),),)),
    Case("keras: convolution", chain(of(12, 12, 1), lambda: layers.Conv2D(4, 3),
         layers.BatchNormalization, layers.ReLU, layers.GlobalAveragePooling2D,
         lambda: layers.Dense(3, "softmax")), (floats(2, 12, 12, 1),),
         ((floats(5, 12, 12, 1, seed=1),),)),
]  # fmt: skip
if ON_TENSORFLOW:
    CASES += [
        Case("keras: Hashing", chain(of(6, dtype="int64"), lambda: layers.Hashing(10)),
             (wholes(0, 99, 4, 6),), ((wholes(0, 1 << 50, 3, 6, seed=1),),)),
        Case("keras: StringLookup", lookup, (words("a", "b", "z"),),
             ((words("c"),), (words("", "a", "größer"),)), small=True),
        Case("keras: TextVectorization", vectorised, (words("the cat", "dog"),),
             ((words("A DOG ran!", "the the the the the the the"),),)),
    ]  # fmt: skip
