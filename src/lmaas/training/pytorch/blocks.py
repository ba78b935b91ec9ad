"""What PyTorch networks are made of."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def seeded(seed: int, make: Any) -> Any:
    """What `make()` gives, drawn from `seed`; the process's own random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def dense(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers between `sizes`, with ReLU between them."""
    layers: list[nn.Module] = []
    for index, (width, following) in enumerate(itertools.pairwise(sizes)):
        if index:
            layers.append(nn.ReLU())
        layers.append(nn.Linear(width, following))
    return layers


class EncoderBlock(nn.Module):  # type: ignore[misc]
    """Attention and a part of two dense layers, each normalised before and added after."""

    def __init__(self, width: int, heads: int, feed: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, feed), nn.GELU(), nn.Linear(feed, width))

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """(N, T, W) to the same; `seen` (N, 1, 1, T) is False where nothing is to be looked at."""
        n, t, w = x.shape
        parts = self.attention(self.before(x)).reshape(n, t, 3, self.heads, w // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, w))
        return x + self.feed(self.between(x))
