"""The losses of `training.base` on TensorFlow's tensors, summed over a feed."""

from typing import Any

import tensorflow as tf

from lmaas.errors import InvalidInput
from lmaas.training.base import IGNORED, Loss


def summed(loss: Loss, outputs: Any, targets: dict[str, Any]) -> Any:
    """The float32 sum over all samples or labels. Raises InvalidInput for shapes."""
    outputs = tf.cast(outputs, tf.float32)
    if loss.name == "mean-squared-error":
        values = targets["values"]
        if outputs.shape.rank != 2 or not outputs.shape.is_compatible_with(values.shape):
            raise _misfit(outputs, values)
        return tf.reduce_sum(tf.square(outputs - values)) / values.shape[-1]
    labels = targets["labels"]
    if loss.name == "next-token":
        if outputs.shape.rank != 3 or not outputs.shape[:-1].is_compatible_with(labels.shape):
            raise _misfit(outputs, labels)
        outputs = tf.reshape(outputs, [-1, outputs.shape[-1]])
        labels = tf.reshape(labels, [-1])
        outputs = tf.boolean_mask(outputs, labels != IGNORED)
        labels = tf.boolean_mask(labels, labels != IGNORED)
    elif outputs.shape.rank != 2 or not _fits(outputs, labels):
        raise _misfit(outputs, labels)
    kept = 1 - loss.smoothing
    if labels.shape.rank == 2:
        entropies = tf.nn.softmax_cross_entropy_with_logits(labels, outputs)
    else:
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
    total = kept * tf.reduce_sum(entropies)
    if loss.smoothing:
        total -= loss.smoothing * tf.reduce_sum(tf.nn.log_softmax(outputs)) / outputs.shape[-1]
    return total


def _fits(outputs: Any, labels: Any) -> bool:
    """Whether labels are numbers or probabilities of as many rows and classes."""
    rows = tf.TensorShape([*outputs.shape[:1]] if labels.shape.rank == 1 else outputs.shape)
    return bool(rows.is_compatible_with(labels.shape))


def _misfit(outputs: Any, targets: Any) -> InvalidInput:
    return InvalidInput(
        f"The model's outputs {outputs.shape} do not fit the targets {targets.shape}.",
        hint="Train a model whose outputs are logits (or values) for this task.",
        param="model",
    )
