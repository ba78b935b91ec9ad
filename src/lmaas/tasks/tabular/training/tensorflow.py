"""Networks over rows of numbers in plain TensorFlow: (N, features) in, (N, outputs) out."""

from typing import Any

import tensorflow as tf

from lmaas.tasks.architectures import Mlp
from lmaas.training.tensorflow.blocks import Dense, Draw, Stack


def build(name: str, options: Mlp, features: int, outputs: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    return Network(options, features, outputs, Draw(seed))


class Network(tf.Module):  # type: ignore[misc]
    """Dense layers."""

    def __init__(self, options: Mlp, features: int, outputs: int, draw: Draw) -> None:
        super().__init__()
        sizes = [features, *options.hidden]
        self.stack = Stack(draw, sizes, "stack")
        self.head = Dense(draw, sizes[-1], outputs, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, features: Any) -> Any:
        """Outputs of (N, F) features."""
        return self.head(self.stack(features))
