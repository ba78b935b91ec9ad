"""ArcFace (Deng et al., 2019): cross-entropy of scaled cosines, the right class's angle widened.

The output has the cosine of the angle between each sample's vector and each class's. Beyond the
angle pi - margin the cosine is lowered by a fixed amount instead, so that it keeps falling. Samples
of a class that is not learned (a label below 0) count nothing.
"""

import math
from typing import Any

from lmaas.training.base import Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"cosines": "(N, C) from -1 to 1"}
TARGETS = {"labels": "(N,) int64 class numbers; below 0: none"}
LEAST = 1e-6
"""Of the sine's square: its root has no slope at 0."""


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import torch
    import torch.nn.functional as F

    cosines, labels = outputs["cosines"].float(), targets["labels"]
    if cosines.ndim != 2 or labels.ndim != 1 or len(cosines) != len(labels):
        raise misfit(cosines, labels)
    learned = labels >= 0
    rows = torch.arange(len(labels), device=labels.device)
    own = labels.clamp(min=0)
    right = cosines[rows, own]
    sines = (1 - right**2).clamp(min=LEAST).sqrt()
    widened = right * math.cos(loss.margin) - sines * math.sin(loss.margin)
    lowered = right - loss.margin * math.sin(loss.margin)
    widened = torch.where(right > -math.cos(loss.margin), widened, lowered)
    is_own = F.one_hot(own, cosines.shape[1]).bool()
    logits = loss.scale * torch.where(is_own, widened[:, None], cosines)
    each = F.cross_entropy(logits, own, reduction="none")
    return (each * learned).sum()


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    cosines, labels = tf.cast(outputs["cosines"], tf.float32), targets["labels"]
    if cosines.shape.rank != 2 or labels.shape.rank != 1:
        raise misfit(cosines, labels)
    if not cosines.shape[:1].is_compatible_with(labels.shape):
        raise misfit(cosines, labels)
    learned = tf.cast(labels >= 0, tf.float32)
    own = tf.maximum(labels, 0)
    is_own = tf.one_hot(own, tf.shape(cosines)[1], dtype=tf.float32)
    right = tf.reduce_sum(cosines * is_own, axis=1)
    sines = tf.sqrt(tf.maximum(1 - right**2, LEAST))
    widened = right * math.cos(loss.margin) - sines * math.sin(loss.margin)
    lowered = right - loss.margin * math.sin(loss.margin)
    widened = tf.where(right > -math.cos(loss.margin), widened, lowered)
    logits = loss.scale * (cosines + is_own * (widened - right)[:, None])
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(own, logits)
    return tf.reduce_sum(each * learned)
