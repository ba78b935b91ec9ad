"""Networks over rows of numbers in PyTorch: (N, features) in, (N, outputs) out."""

import torch
from torch import nn

from lmaas.tasks.architectures import Mlp
from lmaas.training.pytorch.blocks import dense, seeded


class Network(nn.Sequential):  # type: ignore[misc]
    """Layers one after the other."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Outputs of (N, F) features."""
        return super().forward(features)


def build(name: str, options: Mlp, features: int, outputs: int, seed: int) -> nn.Module:
    """The network called `name`, weights drawn from `seed`."""
    return seeded(seed, lambda: Network(*dense([features, *options.hidden, outputs])))
