"""Speech recognisers in plain TensorFlow: (N, T, bins) and a mask (N, T) in, logits (N, T / 4,
letters) out.

What is filled up is zero before each convolution, so that it changes nothing.
"""

from typing import Any

import tensorflow as tf

from lmaas.tasks.automatic_speech_recognition.options import ConvCtc
from lmaas.training.tensorflow.blocks import Dense, Draw, LayerNorm


def build(options: ConvCtc, bins: int, letters: int, seed: int) -> Any:
    """The network, weights drawn from `seed`."""
    return ConvCtcNetwork(options, bins, letters, Draw(seed))


class Halving(tf.Module):  # type: ignore[misc]
    """A convolution over three steps with stride 2, filled up by one on both sides."""

    def __init__(self, draw: Draw, before: int, width: int, name: str) -> None:
        super().__init__(name=name)
        self.dense = Dense(draw, 3 * before, width, "dense")

    def __call__(self, x: Any) -> Any:
        """(N, T, before) to (N, T / 2, width)."""
        end = 2 * ((tf.shape(x)[1] + 1) // 2)
        x = tf.pad(x, [[0, 0], [1, 1], [0, 0]])
        # A whole product of three steps side by side is what computers are fast at.
        return self.dense(tf.concat([x[:, at : end + at : 2] for at in range(3)], axis=-1))


class Block(tf.Module):  # type: ignore[misc]
    """A gated dense layer, a depthwise convolution over time and a dense layer, added."""

    def __init__(self, draw: Draw, width: int, inner: int, kernel: int, name: str) -> None:
        super().__init__(name=name)
        self.norm = LayerNorm(width, "norm")
        self.gated = Dense(draw, width, 2 * inner, "gated")
        self.over_time = draw.normal((1, kernel, inner, 1), (3 * kernel) ** -0.5, "over_time")
        self.bias = tf.Variable(tf.zeros(inner), name="bias")
        self.out = Dense(draw, inner, width, "out")

    def __call__(self, x: Any, seen: Any) -> Any:
        """(N, T, width) to the same; `seen` is (N, T, 1)."""
        value, gate = tf.split(self.gated(self.norm(x)), 2, axis=-1)
        y = (value * tf.sigmoid(gate) * seen)[:, None]
        y = tf.nn.depthwise_conv2d(y, self.over_time, [1, 1, 1, 1], "SAME")[:, 0] + self.bias
        return x + self.out(tf.nn.silu(y))


class ConvCtcNetwork(tf.Module):  # type: ignore[misc]
    """Two convolutions of stride 2, blocks, a dense layer."""

    def __init__(self, options: ConvCtc, bins: int, letters: int, draw: Draw) -> None:
        super().__init__()
        width = options.width
        self.first = Halving(draw, bins, width, "first")
        self.second = Halving(draw, width, width, "second")
        self.blocks = [
            Block(draw, width, inner, options.kernel, f"block_{index}")
            for index, inner in enumerate(options.inner)
        ]
        self.norm = LayerNorm(width, "norm")
        self.head = Dense(draw, width, letters, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, features: Any, mask: Any) -> Any:
        """Logits of (N, T, bins) features; `mask` (N, T) is 0 where they are filled up."""
        seen = tf.cast(mask, features.dtype)[:, :, None]
        x = features * seen
        for layer in (self.first, self.second):
            seen = seen[:, ::2]
            x = tf.nn.silu(layer(x)) * seen
        for block in self.blocks:
            x = block(x, seen)
        return self.head(self.norm(x))
