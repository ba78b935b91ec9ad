"""Matrix products and convolutions in bfloat16, where that is asked for.

TensorFlow has no such switch but one for the whole process. Weights stay float32; what is
multiplied is rounded, and what comes out is float32 again.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from lmaas.errors import InvalidInput

_rounded: ContextVar[list[Any] | None] = ContextVar("rounded", default=None)
"""What was rounded so far; None where nothing is to be."""


@contextlib.contextmanager
def multiplying_in_bf16() -> Iterator[None]:
    """Trace a network's call in here. Raises InvalidInput for one that does without this module."""
    found: list[Any] = []
    token = _rounded.set(found)
    try:
        yield
    finally:
        _rounded.reset(token)
    if not found:
        raise InvalidInput(
            "Of TensorFlow's models only those of LMaaS's own layers compute in bf16.",
            hint='Take the precision "f32".',
            param="precision",
        )


def in_bf16() -> bool:
    """Whether products are in bfloat16 here."""
    return _rounded.get() is not None


def matmul(a: Any, b: Any, *, transpose_b: bool = False) -> Any:
    """`tf.linalg.matmul`."""
    return _as(a, tf.linalg.matmul(_round(a), _round(b), transpose_b=transpose_b))


def conv2d(x: Any, kernel: Any, stride: int | tuple[int, int]) -> Any:
    """`tf.nn.conv2d`, padded to the same size; `stride` is one for both axes, or one for each."""
    return _as(x, tf.nn.conv2d(_round(x), _round(kernel), stride, "SAME"))


def _round(x: Any) -> Any:
    rounded = _rounded.get()
    if rounded is None:
        return x
    rounded.append(tf.bfloat16)
    return tf.cast(x, tf.bfloat16)


def _as(like: Any, y: Any) -> Any:
    return y if _rounded.get() is None else tf.cast(y, like.dtype)
