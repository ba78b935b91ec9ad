"""Mean squared error: a sample's loss is the mean over its values."""

from typing import Any

from lmaas.training.base import Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"values": "(N, D)"}
TARGETS = {"values": "(N, D) float32"}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    told, values = outputs["values"].float(), targets["values"]
    if told.shape != values.shape:
        raise misfit(told, values)
    return (told - values).square().sum() / values.shape[-1]


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    told, values = tf.cast(outputs["values"], tf.float32), targets["values"]
    if told.shape.rank != 2 or not told.shape.is_compatible_with(values.shape):
        raise misfit(told, values)
    return tf.reduce_sum(tf.square(told - values)) / values.shape[-1]
