"""Direct preference optimisation (Rafailov et al., 2023, equation 7).

Of N pairs the preferred rows come first, then the others. `beta` is how dear it is to leave the
reference.
"""

from typing import Any

from lmaas.training.base import IGNORED, Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"logits": "(2N, T, V)"}
TARGETS = {
    "labels": "(2N, T) int64, as for next-token",
    "reference": "(2N,) float32, the log-probability of each row's labels in the reference model",
}


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all pairs."""
    import torch.nn.functional as F

    logits, labels = outputs["logits"].float(), targets["labels"]
    if logits.shape[:-1] != labels.shape:
        raise misfit(logits, labels)
    reward = loss.beta * (log_probability(logits, labels) - targets["reference"])
    preferred, other = reward.chunk(2)
    return -F.logsigmoid(preferred - other).sum()


def log_probability(logits: Any, labels: Any) -> Any:
    """(N,): the sum of the log-probabilities of each row's labels (N, T) in its logits."""
    import torch.nn.functional as F

    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return -losses.view_as(labels).sum(1)


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all pairs."""
    import tensorflow as tf

    logits, labels = tf.cast(outputs["logits"], tf.float32), targets["labels"]
    if logits.shape.rank != 3 or not logits.shape[:-1].is_compatible_with(labels.shape):
        raise misfit(logits, labels)
    kept = labels != IGNORED
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(kept, labels, 0), logits)
    told = -tf.reduce_sum(tf.where(kept, losses, 0.0), axis=1)
    reward = loss.beta * (told - targets["reference"])
    preferred, other = tf.split(reward, 2)
    return tf.reduce_sum(tf.nn.softplus(other - preferred))
