"""Readers in plain TensorFlow: (N, H, W, C) in, logits (N, W / 4, classes) out."""

from typing import Any

import tensorflow as tf

from lmaas.tasks.optical_character_recognition.options import (
    COLUMNS,
    KERNEL,
    NORM_GROUPS,
    ROWS,
    CnnCtc,
)
from lmaas.training.tensorflow.blocks import Dense, Draw, GroupNorm
from lmaas.training.tensorflow.precision import conv2d
from lmaas.types import ImageSpec

STRIDES = ((2, 2), (2, 1), (2, 1))


def build(options: CnnCtc, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network, weights drawn from `seed`."""
    return CnnCtcNetwork(options, image, classes, Draw(seed))


class Normed(tf.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(
        self,
        draw: Draw,
        before: int,
        after: int,
        name: str,
        *,
        size: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(name=name)
        self.stride = stride
        self.kernel = draw.he((*size, before, after))
        self.norm = GroupNorm(after, NORM_GROUPS, "norm")

    def __call__(self, x: Any) -> Any:
        """(N, H, W, before) to (N, H / stride, W / stride, after)."""
        return tf.nn.relu(self.norm(conv2d(x, self.kernel, self.stride)))


class CnnCtcNetwork(tf.Module):  # type: ignore[misc]
    """See `options.CnnCtc`."""

    def __init__(self, options: CnnCtc, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        first, *widths = options.widths
        self.steps, self.rows = image.width // COLUMNS, image.height // ROWS
        self.stem = Normed(draw, image.channels, first, "stem", stride=(2, 2))
        self.down = [
            Normed(draw, before, after, f"down_{number}", stride=stride)
            for number, (before, after, stride) in enumerate(
                zip(options.widths, widths, STRIDES, strict=False)
            )
        ]
        self.same = [
            Normed(draw, width, width, f"same_{number}") for number, width in enumerate(widths)
        ]
        self.column = Dense(draw, self.rows * widths[-1], options.width, "column")
        self.norm = GroupNorm(options.width, NORM_GROUPS, "norm")
        self.along = [
            Normed(draw, options.width, options.width, f"along_{number}", size=(1, KERNEL))
            for number in range(options.depth)
        ]
        self.head = Dense(draw, options.width, classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Logits of (N, H, W, C) pixels."""
        x = self.stem(pixels)
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
        x = tf.transpose(x, [0, 2, 1, 3])
        # In two axes: oneDNN's product of four with two, normalised, ends the process at some batch
        # sizes (TensorFlow 2.21; docs/log.md).
        x = self.column(tf.reshape(x, [-1, self.rows * x.shape[-1]]))
        x = tf.reshape(x, [-1, 1, self.steps, x.shape[-1]])
        x = tf.nn.relu(self.norm(x))
        for each in self.along:
            x = x + each(x)
        return self.head(x[:, 0])
