"""Speech recognisers in PyTorch: (N, T, bins) and a mask (N, T) in, logits (N, T / 4, letters) out.

What is filled up is zero before each convolution, so that it changes nothing.
"""

import torch
from torch import nn

from lmaas.tasks.automatic_speech_recognition.options import ConvCtc
from lmaas.training.pytorch.blocks import seeded


def build(options: ConvCtc, bins: int, letters: int, seed: int) -> nn.Module:
    """The network, weights drawn from `seed`."""
    return seeded(seed, lambda: ConvCtcNetwork(options, bins, letters))


class Block(nn.Module):  # type: ignore[misc]
    """A gated dense layer, a depthwise convolution over time and a dense layer, added."""

    def __init__(self, width: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * inner)
        self.over_time = nn.Conv1d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T, width) to the same; `mask` is (N, T, 1)."""
        value, gate = self.gated(self.norm(x)).chunk(2, dim=-1)
        y = value * torch.sigmoid(gate) * mask
        y = self.over_time(y.transpose(1, 2)).transpose(1, 2)
        return x + self.out(nn.functional.silu(y))


class ConvCtcNetwork(nn.Module):  # type: ignore[misc]
    """Two convolutions of stride 2, blocks, a dense layer."""

    def __init__(self, options: ConvCtc, bins: int, letters: int) -> None:
        super().__init__()
        width = options.width
        self.first = nn.Conv1d(bins, width, 3, 2, 1)
        self.second = nn.Conv1d(width, width, 3, 2, 1)
        self.blocks = nn.ModuleList(Block(width, inner, options.kernel) for inner in options.inner)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, letters)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of (N, T, bins) features; `mask` (N, T) is 0 where they are filled up."""
        seen = mask.to(features.dtype)[:, None, :]
        x = features.transpose(1, 2) * seen
        for layer in (self.first, self.second):
            seen = seen[:, :, ::2]
            x = nn.functional.silu(layer(x)) * seen
        x, seen = x.transpose(1, 2), seen.transpose(1, 2)
        for block in self.blocks:
            x = block(x, seen)
        return self.head(self.norm(x))
