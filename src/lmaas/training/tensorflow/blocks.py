"""What plain TensorFlow networks are made of: modules that hold variables and are called."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lmaas.training.tensorflow.precision import conv2d, matmul

EPSILON = 1e-5


class Draw:
    """Initial weights, one after the other from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def normal(self, shape: Sequence[int], scale: float, name: str) -> Any:
        """A variable of normal numbers times `scale`."""
        values = self._random.standard_normal(shape) * scale
        return tf.Variable(values.astype(np.float32), name=name)

    def he(self, shape: Sequence[int], name: str = "kernel") -> Any:
        """He et al.'s initial weights; all axes but the last go in."""
        return self.normal(shape, float((2 / np.prod(shape[:-1])) ** 0.5), name)


class Dense(tf.Module):  # type: ignore[misc]
    """x @ kernel + bias, over the last axis."""

    def __init__(self, draw: Draw, before: int, width: int, name: str) -> None:
        super().__init__(name=name)
        self.kernel = draw.he((before, width))
        self.bias = tf.Variable(tf.zeros(width), name="bias")

    def __call__(self, x: Any) -> Any:
        """(…, before) to (…, width)."""
        return matmul(x, self.kernel) + self.bias


class Stack(tf.Module):  # type: ignore[misc]
    """Dense layers between `sizes`, with ReLU after each."""

    def __init__(self, draw: Draw, sizes: Sequence[int], name: str) -> None:
        super().__init__(name=name)
        self.layers = [
            Dense(draw, before, width, f"dense_{index}")
            for index, (before, width) in enumerate(itertools.pairwise(sizes))
        ]

    def __call__(self, x: Any) -> Any:
        """(N, first) to (N, last)."""
        for layer in self.layers:
            x = tf.nn.relu(layer(x))
        return x


class Conv(tf.Module):  # type: ignore[misc]
    """A square convolution over (N, H, W, C), padded to the same size."""

    def __init__(
        self, draw: Draw, before: int, channels: int, size: int, stride: int, name: str,
        *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        self.stride = stride
        self.kernel = draw.he((size, size, before, channels))
        self.bias = tf.Variable(tf.zeros(channels), name="bias") if bias else None

    def __call__(self, x: Any) -> Any:
        """(N, H, W, before) to (N, H / stride, W / stride, channels)."""
        y = conv2d(x, self.kernel, self.stride)
        return y if self.bias is None else y + self.bias


class GroupNorm(tf.Module):  # type: ignore[misc]
    """Wu and He, 2018, over (N, H, W, C)."""

    def __init__(self, channels: int, groups: int, name: str) -> None:
        super().__init__(name=name)
        self.groups = groups
        self.scale = tf.Variable(tf.ones(channels), name="scale")
        self.shift = tf.Variable(tf.zeros(channels), name="shift")

    def __call__(self, x: Any) -> Any:
        """The same shape, each group of channels of an image at mean 0 and variance 1."""
        _, height, width, channels = x.shape
        y = tf.reshape(x, [-1, height, width, self.groups, channels // self.groups])
        mean, variance = tf.nn.moments(y, [1, 2, 4], keepdims=True)
        y = (y - mean) * tf.math.rsqrt(variance + EPSILON)
        return tf.reshape(y, [-1, height, width, channels]) * self.scale + self.shift


class LayerNorm(tf.Module):  # type: ignore[misc]
    """Ba et al., 2016, over the last axis."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__(name=name)
        self.scale = tf.Variable(tf.ones(width), name="scale")
        self.shift = tf.Variable(tf.zeros(width), name="shift")

    def __call__(self, x: Any) -> Any:
        """The same shape."""
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + EPSILON) * self.scale + self.shift


class EncoderBlock(tf.Module):  # type: ignore[misc]
    """Attention and a part of two dense layers, each normalised before and added after."""

    def __init__(
        self, draw: Draw, length: int, width: int, heads: int, feed: int, name: str
    ) -> None:
        super().__init__(name=name)
        self.length, self.width, self.heads = length, width, heads
        self.before = LayerNorm(width, "before")
        self.attention = Dense(draw, width, 3 * width, "attention")
        self.out = Dense(draw, width, width, "out")
        self.between = LayerNorm(width, "between")
        self.up = Dense(draw, width, feed, "up")
        self.down = Dense(draw, feed, width, "down")

    def __call__(self, x: Any, hidden: Any = None) -> Any:
        """(N, T, W) to the same; `hidden` (N, 1, 1, T), added to scores, is very low where nothing
        is to be looked at.
        """
        size = self.width // self.heads
        parts = self.attention(self.before(x))
        parts = tf.reshape(parts, [-1, self.length, 3, self.heads, size])
        q, k, v = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        scores = matmul(q, k, transpose_b=True) * size**-0.5
        if hidden is not None:
            scores += hidden
        mixed = tf.transpose(matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        x = x + self.out(tf.reshape(mixed, [-1, self.length, self.width]))
        return x + self.down(tf.nn.gelu(self.up(self.between(x))))
