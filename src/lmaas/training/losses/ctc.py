"""Connectionist temporal classification (Graves et al., 2006): labels without their places.

Class 0 is the blank. A sample whose labels do not fit into its steps has an infinite loss.
"""

from typing import Any

from lmaas.training.base import IGNORED, Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"logits": "(N, T, V)"}
TARGETS = {
    "labels": "(N, S) int64 from 1 on, -100 after the last of a sample",
    "lengths": "(N,) int64, how many of a sample's T steps count",
}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import torch.nn.functional as F

    logits, labels = outputs["logits"].float(), targets["labels"]
    if logits.ndim != 3 or labels.ndim != 2 or len(logits) != len(labels):
        raise misfit(logits, labels)
    kept = labels != IGNORED
    return F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        labels.masked_fill(~kept, 0),
        targets["lengths"],
        kept.sum(1),
        reduction="sum",
    )


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    logits, labels = tf.cast(outputs["logits"], tf.float32), targets["labels"]
    fits = logits.shape.rank == 3 and labels.shape.rank == 2
    if not fits or not logits.shape[:1].is_compatible_with(labels.shape[:1]):
        raise misfit(logits, labels)
    kept = labels != IGNORED
    lengths = tf.cast(targets["lengths"], tf.int32)
    # Of sparse labels, with the blank as the last class, TensorFlow has a kernel; of dense ones it
    # makes a loop of operations, which takes 20 times as long (measured: docs/log.md).
    places = tf.where(kept)
    numbers = tf.cast(tf.gather_nd(labels, places), tf.int32) - 1
    losses = tf.compat.v1.nn.ctc_loss(
        tf.SparseTensor(places, numbers, tf.shape(labels, tf.int64)),
        tf.concat([logits[..., 1:], logits[..., :1]], axis=-1),
        lengths,
        time_major=False,
        ignore_longer_outputs_than_inputs=True,
    )
    twice = kept[:, 1:] & (labels[:, 1:] == labels[:, :-1])
    least = tf.math.count_nonzero(kept, axis=1, dtype=tf.int32)
    least += tf.math.count_nonzero(twice, axis=1, dtype=tf.int32)
    return tf.reduce_sum(tf.where(least <= lengths, losses, float("inf")))
