"""Cross-entropy of the tokens that follow. Labels stand under the logits that predict them."""

from typing import Any

from lmaas.training.base import IGNORED, Loss
from lmaas.training.losses.cross_entropy import smoothed
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"logits": "(N, T, V)"}
TARGETS = {"labels": "(N, T) int64, already shifted; -100 where nothing is learned"}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all labels that are not ignored."""
    import torch.nn.functional as F

    logits, labels = outputs["logits"].float(), targets["labels"]
    if logits.shape[:-1] != labels.shape:
        raise misfit(logits, labels)
    return F.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        reduction="sum",
        ignore_index=IGNORED,
        label_smoothing=loss.smoothing,
    )


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all labels that are not ignored."""
    import tensorflow as tf

    logits, labels = tf.cast(outputs["logits"], tf.float32), targets["labels"]
    if logits.shape.rank != 3 or not logits.shape[:-1].is_compatible_with(labels.shape):
        raise misfit(logits, labels)
    labels = tf.reshape(labels, [-1])
    kept = labels != IGNORED
    logits = tf.boolean_mask(tf.reshape(logits, [-1, logits.shape[-1]]), kept)
    return smoothed(loss, logits, tf.boolean_mask(labels, kept))
