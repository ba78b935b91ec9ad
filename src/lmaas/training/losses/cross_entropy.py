"""Cross-entropy of classes. Targets are class numbers, or probabilities.

`smoothing` moves that share of each target to all classes evenly (Szegedy et al., 2016).
"""

from typing import Any

from lmaas.training.base import Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"logits": "(N, C)"}
TARGETS = {"labels": "(N,) int64 class numbers, or (N, C) float32 probabilities"}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import torch.nn.functional as F

    logits, labels = outputs["logits"].float(), targets["labels"]
    if logits.ndim != 2 or len(logits) != len(labels):
        raise misfit(logits, labels)
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=loss.smoothing)


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    logits, labels = tf.cast(outputs["logits"], tf.float32), targets["labels"]
    if logits.shape.rank != 2 or not _fits(logits, labels):
        raise misfit(logits, labels)
    return smoothed(loss, logits, labels)


def smoothed(loss: Loss, logits: Any, labels: Any) -> Any:
    """The sum over rows of TensorFlow's logits (N, C)."""
    import tensorflow as tf

    if labels.shape.rank == 2:
        entropies = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    else:
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    total = (1 - loss.smoothing) * tf.reduce_sum(entropies)
    if loss.smoothing:
        total -= loss.smoothing * tf.reduce_sum(tf.nn.log_softmax(logits)) / logits.shape[-1]
    return total


def _fits(logits: Any, labels: Any) -> bool:
    """Whether labels are numbers or probabilities of as many rows and classes."""
    import tensorflow as tf

    rows = tf.TensorShape([*logits.shape[:1]] if labels.shape.rank == 1 else logits.shape)
    return bool(rows.is_compatible_with(labels.shape))
