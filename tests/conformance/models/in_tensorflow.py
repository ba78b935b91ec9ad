"""TensorFlow models of the sweep."""

from typing import Any

import numpy as np
import tensorflow as tf

from conformance.models.case import Case, floats, rows, wholes

X = floats(4, 6)


class Branch(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        if tf.reduce_max(x) > 2:
            return x / 255
        return x


class Halving(tf.Module):  # type: ignore[misc]
    def __call__(self, x: Any) -> Any:
        while tf.reduce_max(tf.abs(x)) > 1:
            x = x / 2
        return x


class Lookup(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        known = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
        self.table = tf.lookup.StaticHashTable(known, 0)

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, text: Any) -> Any:
        return {"number": self.table.lookup(text), "upper": tf.strings.upper(text)}


class Pictures(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, data: Any) -> Any:
        def decode(one: Any) -> Any:
            return tf.cast(tf.image.decode_png(one, channels=1), tf.float32) / 255.0

        return tf.map_fn(decode, data, fn_output_signature=tf.float32)


class Ragged(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, rows: Any) -> Any:
        return tf.reduce_sum(rows, axis=1)


class Hashed(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, ids: Any) -> Any:
        return ids * 2654435761 % 1000


class Checked(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0)]):
            return tf.sqrt(tf.abs(x))


class Scores(tf.Module):  # type: ignore[misc]
    @tf.function  # type: ignore[untyped-decorator]
    def score(self, x: Any) -> Any:
        return x * 2


class State(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.total = tf.Variable(0.0)

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        self.total.assign_add(1.0)
        return x * self.total


WEIGHTS = tf.Variable(floats(6, 2))


@tf.function  # type: ignore[untyped-decorator]
def plain(x: Any) -> Any:
    return x @ WEIGHTS


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 1)).astype(np.uint8)
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def texts(*values: str | bytes) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


CASES = [
    Case("tf: if by AutoGraph", Branch, (X,), rows(6)),
    Case("tf: while by AutoGraph", Halving, (X,), rows(6)),
    Case("tf: texts and a table", Lookup, (texts("a", "b", "q"),),
         ((texts("b"),), (texts("", "größer", "a", "b"),)), small=True),
    Case("tf: decodes images", Pictures, (texts(png(0), png(1)),), ((texts(png(2)),),)),
    Case("tf: ragged rows", Ragged, (tf.ragged.constant([[1.0, 2.0], [3.0]]),)),
    Case("tf: hashes of 64 bits", Hashed, (wholes(0, 2000, 10),),
         ((wholes(0, 1 << 60, 7, seed=1),),)),
    Case("tf: an assertion", Checked, (X,), (rows(6)[0], rows(6)[3])),
    Case("tf: a plain tf.function", lambda: plain, (X,), rows(6)),
    Case("tf: a method", lambda: Scores().score, (X,), rows(6)),
    Case("tf: no __call__", Scores, (X,), refused="model.score"),
    Case("tf: a state", State, (X,), refused="each time"),
]  # fmt: skip
