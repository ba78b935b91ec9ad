"""The loss that a model gives itself: of each sample a mean, which counts by its objects.

For models that match what they found with what is there, and measure that in their own way.
"""

from typing import Any

from lmaas.training.base import Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"losses": "(N, 1)"}
TARGETS = {"objects": "(N,) float32, how often a sample counts"}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    losses, objects = outputs["losses"].float(), targets["objects"]
    if losses.shape != (len(objects), 1):
        raise misfit(losses, objects)
    return (losses[:, 0] * objects).sum()


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    losses, objects = tf.cast(outputs["losses"], tf.float32), targets["objects"]
    if losses.shape.rank != 2 or objects.shape.rank != 1:
        raise misfit(losses, objects)
    return tf.reduce_sum(losses[:, 0] * objects)
