"""Detectors of transformers in training: with an image's objects they give their own loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint, detector
from lmaas.training.pytorch.blocks import seeded


class Tuned(nn.Module):  # type: ignore[misc]
    """A checkpoint's model, which matches its queries with objects by itself."""

    def __init__(self, model: Any, *, masked: bool) -> None:
        super().__init__()
        self.model = model
        self.masked = masked

    def forward(
        self, pixels: torch.Tensor, classes: torch.Tensor, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Boxes and logits of (N, 3, H, W) pixels, and `losses` (N, 1), each the loss of the batch.

        `classes` (N, most) are -1 where there is no object, `boxes` (N, most, 4) are shares of the
        image's sides: the middle, width and height.
        """
        told = [
            {"class_labels": kinds[kinds >= 0], "boxes": places[kinds >= 0]}
            for kinds, places in zip(classes, boxes, strict=True)
        ]
        more = {"pixel_mask": torch.ones_like(pixels[:, 0], dtype=torch.int64)}
        out = self.model(pixel_values=pixels, labels=told, **(more if self.masked else {}))
        losses = out.loss.reshape(1, 1).expand(len(pixels), 1)
        return {"boxes": out.pred_boxes, "logits": out.logits, "losses": losses}


def load(source: Path, labels: Sequence[str], seed: int, *, masked: bool) -> Tuned:
    """The checkpoint in `source` for these classes, in float32; what depends on how many there are
    is drawn from `seed`, where they are others than the checkpoint's.

    Raises InvalidInput for a checkpoint of which no class can be changed.
    """
    from transformers import AutoModelForObjectDetection

    given = checkpoint.load_model(AutoModelForObjectDetection, source, torch.float32)
    config = given.config
    before = detector.labels_of(config)
    if before == tuple(labels):
        return Tuned(given, masked=masked)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    model = seeded(seed, lambda: AutoModelForObjectDetection.from_config(config))
    weights, own = given.state_dict(), model.state_dict()
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    # One row more where a class stands for no object.
    counts = {(len(before) + more, len(labels) + more) for more in (0, 1)}
    for name in own.keys() - fitting.keys():
        if name not in weights or (len(weights[name]), len(own[name])) not in counts:
            raise InvalidInput(
                f"The base model's {name} is not made for other classes.",
                hint=f"Learn its own classes: {', '.join(before[:20])}.",
                param="model.base",
            )
    return Tuned(model, masked=masked)
