"""Image classifiers in plain TensorFlow: (N, H, W, C) in, logits (N, classes) out."""

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lmaas.tasks.architectures import Mlp
from lmaas.tasks.image_classification.options import (
    BLOCKS,
    NORM_GROUPS,
    Cnn,
    ResNet18,
    Vit,
    count_patches,
)
from lmaas.training.tensorflow.blocks import (
    Conv,
    Dense,
    Draw,
    EncoderBlock,
    GroupNorm,
    LayerNorm,
    Stack,
)
from lmaas.types import ImageSpec


def build(name: str, options: Any, image: ImageSpec, classes: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    return MAKERS[name](options, image, classes, Draw(seed))


class MlpNetwork(tf.Module):  # type: ignore[misc]
    """Dense layers over all pixels."""

    def __init__(self, options: Mlp, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        self.pixels = image.height * image.width * image.channels
        sizes = [self.pixels, *options.hidden]
        self.stack = Stack(draw, sizes, "stack")
        self.head = Dense(draw, sizes[-1], classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Logits of (N, H, W, C) pixels."""
        return self.head(self.stack(tf.reshape(pixels, [-1, self.pixels])))


class CnnNetwork(tf.Module):  # type: ignore[misc]
    """Convolutions, each halving the image; their mean; one dense layer."""

    def __init__(self, options: Cnn, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        self.side = min(image.height, image.width)
        sizes = [image.channels, *options.channels]
        self.convs = [
            Conv(draw, before, after, 3, 1, f"conv_{index}")
            for index, (before, after) in enumerate(itertools.pairwise(sizes))
        ]
        self.head = Dense(draw, sizes[-1], classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Logits of (N, H, W, C) pixels."""
        x, side = pixels, self.side
        for conv in self.convs:
            x = tf.nn.relu(conv(x))
            if side >= 2:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            side //= 2
        return self.head(tf.reduce_mean(x, [1, 2]))


class Residual(tf.Module):  # type: ignore[misc]
    """Two 3 x 3 convolutions, with `inner` channels between them, beside a short cut."""

    def __init__(
        self, draw: Draw, before: int, inner: int, channels: int, stride: int, name: str
    ) -> None:
        super().__init__(name=name)
        self.first = Conv(draw, before, inner, 3, stride, "first", bias=False)
        self.first_norm = GroupNorm(inner, NORM_GROUPS, "first_norm")
        self.second = Conv(draw, inner, channels, 3, 1, "second", bias=False)
        self.second_norm = GroupNorm(channels, NORM_GROUPS, "second_norm")
        self.short = self.short_norm = None
        if stride != 1 or before != channels:
            self.short = Conv(draw, before, channels, 1, stride, "short", bias=False)
            self.short_norm = GroupNorm(channels, NORM_GROUPS, "short_norm")

    def __call__(self, x: Any) -> Any:
        """(N, H, W, before) to (N, H / stride, W / stride, channels)."""
        y = tf.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.short is not None and self.short_norm is not None:
            x = self.short_norm(self.short(x))
        return tf.nn.relu(y + x)


class ResNetNetwork(tf.Module):  # type: ignore[misc]
    """He et al., 2015, for small images, normalised by group."""

    def __init__(self, options: ResNet18, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        before = options.width
        self.stem = Conv(draw, image.channels, before, 3, 1, "stem", bias=False)
        self.stem_norm = GroupNorm(before, NORM_GROUPS, "stem_norm")
        self.blocks = []
        for block, inner in enumerate(options.inner):
            stage, place = divmod(block, BLOCKS)
            channels, stride = options.width << stage, 2 if stage and not place else 1
            name = f"stage_{stage}_{place}"
            self.blocks.append(Residual(draw, before, inner, channels, stride, name))
            before = channels
        self.head = Dense(draw, before, classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Logits of (N, H, W, C) pixels."""
        x = tf.nn.relu(self.stem_norm(self.stem(pixels)))
        for block in self.blocks:
            x = block(x)
        return self.head(tf.reduce_mean(x, [1, 2]))


class VitNetwork(tf.Module):  # type: ignore[misc]
    """Patches with learned places, encoder blocks, their mean, one dense layer."""

    def __init__(self, options: Vit, image: ImageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        self.count = count_patches(options, image.height, image.width)
        self.width = options.width
        size = options.patch
        self.patches = Conv(draw, image.channels, options.width, size, size, "patches")
        self.places = draw.normal((1, self.count, options.width), 0.02, "places")
        self.blocks = [
            EncoderBlock(draw, self.count, options.width, options.heads, feed, f"block_{index}")
            for index, feed in enumerate(options.feed)
        ]
        self.norm = LayerNorm(options.width, "norm")
        self.head = Dense(draw, options.width, classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Logits of (N, H, W, C) pixels."""
        x = tf.reshape(self.patches(pixels), [-1, self.count, self.width]) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(tf.reduce_mean(self.norm(x), 1))


MAKERS: dict[str, Callable[..., Any]] = {
    "mlp": MlpNetwork,
    "cnn": CnnNetwork,
    "resnet18": ResNetNetwork,
    "vit": VitNetwork,
}
