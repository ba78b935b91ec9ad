"""Detectors in TensorFlow: (N, H, W, C) in, boxes and logits (N, h, w, 4 + classes) out."""

from typing import Any

import tensorflow as tf

from lmaas.tasks.object_detection.options import NORM_GROUPS, SIDES, CenterNet
from lmaas.tasks.object_detection.training.start import HEAD_SCALE, HEAT_BIAS
from lmaas.training.tensorflow.blocks import Conv, Draw, GroupNorm
from lmaas.types import ImageSpec


def build(name: str, options: CenterNet, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    return MAKERS[name](options, image, classes, Draw(seed))


class Normed(tf.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(
        self, draw: Draw, before: int, after: int, name: str, *, size: int = 3, stride: int = 1
    ) -> None:
        super().__init__(name=name)
        self.conv = Conv(draw, before, after, size, stride, "conv", bias=False)
        self.norm = GroupNorm(after, NORM_GROUPS, "norm")

    def __call__(self, x: Any) -> Any:
        """(N, H, W, before) to (N, H / stride, W / stride, after)."""
        return tf.nn.relu(self.norm(self.conv(x)))


class CenterNetwork(tf.Module):  # type: ignore[misc]
    """See `options.CenterNet`."""

    def __init__(self, options: CenterNet, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        stem, fine, middle, coarse = options.widths
        self.stem = Normed(draw, image.channels, stem, "stem", stride=2)
        self.down = [
            Normed(draw, before, after, f"down_{after}", stride=2)
            for before, after in ((stem, fine), (fine, middle), (middle, coarse))
        ]
        self.same = [Normed(draw, width, width, f"same_{width}") for width in options.widths[1:]]
        self.narrow = Normed(draw, coarse, middle, "narrow", size=1)
        self.up = Normed(draw, middle, fine, "up")
        self.merge = Normed(draw, fine, options.head, "merge")
        self.last = Normed(draw, options.head, options.head, "last")
        self.boxes = _head(draw, options.head, SIDES, 0.0, "boxes")
        self.head = _head(draw, options.head, classes, HEAT_BIAS, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Boxes and logits of (N, H, W, C) pixels."""
        x = self.stem(pixels)
        levels = []
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
            levels.append(x)
        fine, middle, coarse = levels
        x = _twice(self.narrow(coarse)) + middle
        x = _twice(self.up(x)) + fine
        x = self.last(self.merge(x))
        return tf.concat([self.boxes(x), self.head(x)], -1)


def _head(draw: Draw, before: int, channels: int, bias: float, name: str) -> Conv:
    made = Conv(draw, before, channels, 1, 1, name)
    made.kernel = draw.normal((1, 1, before, channels), HEAD_SCALE, "kernel")
    made.bias = tf.Variable(tf.fill([channels], bias), name="bias")
    return made


def _twice(x: Any) -> Any:
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


MAKERS: dict[str, Any] = {"centernet": CenterNetwork}
