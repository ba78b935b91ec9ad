"""The losses of `training.base` on torch tensors, summed over a feed."""

from typing import Any

from lmaas.errors import InvalidInput
from lmaas.training.base import IGNORED, Loss


def summed(loss: Loss, outputs: Any, targets: dict[str, Any]) -> Any:
    """The float32 sum over all samples or labels. Raises InvalidInput for shapes."""
    import torch.nn.functional as F

    outputs = outputs.float()
    if loss.name == "mean-squared-error":
        values = targets["values"]
        if outputs.shape != values.shape:
            raise _misfit(list(outputs.shape), list(values.shape))
        return (outputs - values).square().sum() / values.shape[-1]
    labels = targets["labels"]
    if loss.name in ("next-token", "preference"):
        if outputs.shape[:-1] != labels.shape:
            raise _misfit(list(outputs.shape), list(labels.shape))
        if loss.name == "preference":
            reward = loss.beta * (log_probability(outputs, labels) - targets["reference"])
            preferred, other = reward.chunk(2)
            return -F.logsigmoid(preferred - other).sum()
        outputs, labels = outputs.flatten(0, 1), labels.flatten()
    elif outputs.ndim != 2 or len(outputs) != len(labels):
        raise _misfit(list(outputs.shape), list(labels.shape))
    return F.cross_entropy(
        outputs, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=loss.smoothing
    )


def log_probability(logits: Any, labels: Any) -> Any:
    """(N,): the sum of the log-probabilities of each row's labels (N, T) in its logits."""
    import torch.nn.functional as F

    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return -losses.view_as(labels).sum(1)


def _misfit(outputs: list[int], targets: list[int]) -> InvalidInput:
    return InvalidInput(
        f"The model's outputs {outputs} do not fit the targets {targets}.",
        hint="Train a model whose outputs are logits (or values) for this task.",
        param="model",
    )
