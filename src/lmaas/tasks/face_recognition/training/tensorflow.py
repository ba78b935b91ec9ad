"""Face embedders in TensorFlow: (N, H, W, C) in, vectors (N, dimensions) of length 1 out."""

from typing import Any

import tensorflow as tf

from lmaas.tasks.face_recognition.options import NORM_GROUPS, STRIDE, FaceNet
from lmaas.training.tensorflow.blocks import Conv, Dense, Draw, GroupNorm
from lmaas.types import ImageSpec


def build(options: FaceNet, image: ImageSpec, people: int, seed: int) -> Any:
    """What learns: an embedder and a vector for each person, drawn from `seed`."""
    draw = Draw(seed)
    return Learned(draw, Embedder(options, image, draw), people, options.dimensions)


def embedder(model: Any) -> Any:
    """What is served of a model that has learned."""
    return model.embedder


class Normed(tf.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(self, draw: Draw, before: int, after: int, name: str, stride: int = 1) -> None:
        super().__init__(name=name)
        self.conv = Conv(draw, before, after, 3, stride, "conv", bias=False)
        self.norm = GroupNorm(after, NORM_GROUPS, "norm")

    def __call__(self, x: Any) -> Any:
        """(N, H, W, before) to (N, H / stride, W / stride, after)."""
        return tf.nn.relu(self.norm(self.conv(x)))


class Embedder(tf.Module):  # type: ignore[misc]
    """See `options.FaceNet`."""

    def __init__(self, options: FaceNet, image: ImageSpec, draw: Draw) -> None:
        super().__init__()
        stem, *widths = options.widths
        self.stem = Normed(draw, image.channels, stem, "stem", 2)
        before = stem
        self.down, self.same = [], []
        for place, width in enumerate(widths):
            self.down.append(Normed(draw, before, width, f"down_{place}", 2))
            self.same.append(Normed(draw, width, width, f"same_{place}"))
            before = width
        self.cells = (image.height // STRIDE) * (image.width // STRIDE) * before
        self.dense = Dense(draw, self.cells, options.dimensions, "dense")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> Any:
        """Vectors of (N, H, W, C) pixels."""
        x = self.stem(pixels)
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
        x = self.dense(tf.reshape(x, [-1, self.cells]))
        return tf.math.l2_normalize(x, axis=1, epsilon=1e-12)


class Learned(tf.Module):  # type: ignore[misc]
    """An embedder, and the vectors of the people that it learns by."""

    def __init__(self, draw: Draw, embedder: Embedder, people: int, dimensions: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.people = draw.normal((dimensions, people), 1.0, "people")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, pixels: Any) -> dict[str, Any]:
        """Vectors, and their cosines with all people's."""
        vectors = self.embedder(pixels)
        people = tf.math.l2_normalize(self.people, axis=0)
        return {"embedding": vectors, "cosines": tf.matmul(vectors, people)}
