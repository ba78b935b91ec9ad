"""Detectors in PyTorch: (N, C, H, W) in, boxes and logits (N, h, w, 4 + classes) out."""

from typing import Any

import torch
from torch import nn

from lmaas.tasks.object_detection.options import NORM_GROUPS, SIDES, CenterNet
from lmaas.tasks.object_detection.training.start import HEAD_SCALE, HEAT_BIAS
from lmaas.training.pytorch.blocks import seeded
from lmaas.types import ImageSpec


def build(name: str, options: CenterNet, image: ImageSpec, classes: int, seed: int) -> nn.Module:
    """The network called `name`, weights drawn from `seed`."""
    return seeded(seed, lambda: MAKERS[name](options, image, classes))


class Conv(nn.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(self, before: int, after: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(NORM_GROUPS, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        return torch.relu(self.norm(self.conv(x)))


class CenterNetwork(nn.Module):  # type: ignore[misc]
    """See `options.CenterNet`."""

    def __init__(self, options: CenterNet, image: ImageSpec, classes: int) -> None:
        super().__init__()
        stem, fine, middle, coarse = options.widths
        self.stem = Conv(image.channels, stem, stride=2)
        self.down = nn.ModuleList(
            Conv(before, after, stride=2)
            for before, after in ((stem, fine), (fine, middle), (middle, coarse))
        )
        self.same = nn.ModuleList(Conv(width, width) for width in (fine, middle, coarse))
        self.narrow = Conv(coarse, middle, 1)
        self.up = Conv(middle, fine)
        self.merge = Conv(fine, options.head)
        self.last = Conv(options.head, options.head)
        self.boxes = nn.Conv2d(options.head, SIDES, 1)
        self.heat = nn.Conv2d(options.head, classes, 1)
        for layer, bias in ((self.boxes, 0.0), (self.heat, HEAT_BIAS)):
            nn.init.normal_(layer.weight, std=HEAD_SCALE)
            nn.init.constant_(layer.bias, bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Boxes and logits of (N, C, H, W) pixels."""
        x = self.stem(pixels)
        levels = []
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
            levels.append(x)
        fine, middle, coarse = levels
        x = _twice(self.narrow(coarse)) + middle
        x = _twice(self.up(x)) + fine
        x = self.last(self.merge(x))
        return torch.cat([self.boxes(x), self.heat(x)], 1).permute(0, 2, 3, 1)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


MAKERS: dict[str, Any] = {"centernet": CenterNetwork}
