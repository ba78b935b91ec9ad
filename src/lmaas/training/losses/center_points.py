"""Objects as points (Zhou et al., 2019): a focal loss on heat maps of centres, and L1 on boxes.

The output has for each cell the 4 numbers of a box, then the C logits of its classes. The focal
loss is that of Law and Deng (2018) with alpha 2 and beta 4; boxes are learned where `mask` says. An
image's sum is divided by its objects, whose weights in `mask` are one each; at least by one.
"""

from typing import Any

from lmaas.training.base import Loss
from lmaas.training.losses.fitting import misfit

OUTPUTS = {"centers": "(N, h, w, 4 + C)"}
TARGETS = {
    "heat": "(N, h, w, C) float32 from 0 to 1, 1 at a centre",
    "boxes": "(N, h, w, 4) float32",
    "mask": "(N, h, w) float32, the weights of cells that learn a box",
}
ALPHA, BETA = 2, 4


def pytorch(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import torch
    import torch.nn.functional as F

    grid, heat, boxes, mask = outputs["centers"].float(), *(targets[name] for name in TARGETS)
    classes = heat.shape[-1]
    if grid.ndim != 4 or heat.ndim != 4 or grid.shape != (*heat.shape[:3], 4 + classes):
        raise misfit(grid, heat)
    sides, logits = grid[..., :4], grid[..., 4:]
    here = (heat == 1).to(logits.dtype)
    # log p and log (1 - p) of a logit, without the loss of small ones.
    found, missed = F.logsigmoid(logits), F.logsigmoid(-logits)
    right = (1 - torch.sigmoid(logits)) ** ALPHA * found * here
    wrong = torch.sigmoid(logits) ** ALPHA * missed * (1 - heat) ** BETA * (1 - here)
    apart = (sides - boxes).abs() * mask[..., None]
    objects = mask.sum((1, 2)).clamp(min=1)
    each = apart.sum((1, 2, 3)) - (right + wrong).sum((1, 2, 3))
    return (each / objects).sum()


def tensorflow(loss: Loss, outputs: dict[str, Any], targets: dict[str, Any]) -> Any:
    """The sum over all samples."""
    import tensorflow as tf

    grid, heat, boxes, mask = (
        tf.cast(outputs["centers"], tf.float32),
        *(targets[name] for name in TARGETS),
    )
    if grid.shape.rank != 4 or heat.shape.rank != 4:
        raise misfit(grid, heat)
    classes = heat.shape[-1]
    if not grid.shape.is_compatible_with((*heat.shape[:3], 4 + classes)):
        raise misfit(grid, heat)
    sides, logits = grid[..., :4], grid[..., 4:]
    here = tf.cast(heat == 1, tf.float32)
    found, missed = tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
    right = (1 - tf.sigmoid(logits)) ** ALPHA * found * here
    wrong = tf.sigmoid(logits) ** ALPHA * missed * (1 - heat) ** BETA * (1 - here)
    apart = tf.abs(sides - boxes) * mask[..., None]
    objects = tf.maximum(tf.reduce_sum(mask, [1, 2]), 1.0)
    each = tf.reduce_sum(apart, [1, 2, 3]) - tf.reduce_sum(right + wrong, [1, 2, 3])
    return tf.reduce_sum(each / objects)
