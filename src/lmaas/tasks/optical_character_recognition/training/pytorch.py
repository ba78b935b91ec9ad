"""Readers in PyTorch: (N, C, H, W) in, logits (N, W / 4, classes) out."""

import torch
from torch import nn

from lmaas.tasks.optical_character_recognition.options import (
    KERNEL,
    NORM_GROUPS,
    ROWS,
    CnnCtc,
)
from lmaas.training.pytorch.blocks import seeded
from lmaas.types import ImageSpec


def build(options: CnnCtc, image: ImageSpec, classes: int, seed: int) -> nn.Module:
    """The network, weights drawn from `seed`."""
    return seeded(seed, lambda: CnnCtcNetwork(options, image, classes))


class Conv(nn.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(self, before: int, after: int, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(NORM_GROUPS, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        return torch.relu(self.norm(self.conv(x)))


class Along(nn.Module):  # type: ignore[misc]
    """A convolution over steps, normalised, with ReLU, added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, (1, KERNEL), padding=(0, KERNEL // 2), bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(NORM_GROUPS, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, 1, T) to the same."""
        return x + torch.relu(self.norm(self.conv(x)))


class CnnCtcNetwork(nn.Module):  # type: ignore[misc]
    """See `options.CnnCtc`."""

    def __init__(self, options: CnnCtc, image: ImageSpec, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = options.widths
        self.stem = Conv(image.channels, first, (2, 2))
        self.down = nn.ModuleList(
            Conv(before, after, stride)
            for before, after, stride in (
                (first, second, (2, 2)),
                (second, third, (2, 1)),
                (third, fourth, (2, 1)),
            )
        )
        self.same = nn.ModuleList(Conv(width, width) for width in (second, third, fourth))
        self.column = nn.Conv2d(fourth, options.width, (image.height // ROWS, 1))
        nn.init.kaiming_normal_(self.column.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(NORM_GROUPS, options.width)
        self.along = nn.ModuleList(Along(options.width) for _ in range(options.depth))
        self.head = nn.Linear(options.width, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of (N, C, H, W) pixels."""
        x = self.stem(pixels)
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
        x = torch.relu(self.norm(self.column(x)))
        for each in self.along:
            x = each(x)
        return self.head(x[:, :, 0].transpose(1, 2))
