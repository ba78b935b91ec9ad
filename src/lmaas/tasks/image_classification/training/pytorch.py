"""Image classifiers in PyTorch: (N, C, H, W) in, logits (N, classes) out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lmaas.tasks.architectures import Mlp
from lmaas.tasks.image_classification.options import (
    BLOCKS,
    NORM_GROUPS,
    Cnn,
    ResNet18,
    Vit,
    count_patches,
)
from lmaas.training.pytorch.blocks import EncoderBlock, dense, seeded
from lmaas.types import ImageSpec


def build(name: str, options: Any, image: ImageSpec, classes: int, seed: int) -> nn.Module:
    """The network called `name`, weights drawn from `seed`."""
    return seeded(seed, lambda: MAKERS[name](options, image, classes))


class Network(nn.Sequential):  # type: ignore[misc]
    """Layers one after the other."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of (N, C, H, W) pixels."""
        return super().forward(pixels)


def _mlp(options: Mlp, image: ImageSpec, classes: int) -> nn.Module:
    pixels = image.channels * image.height * image.width
    return Network(nn.Flatten(), *dense([pixels, *options.hidden, classes]))


def _cnn(options: Cnn, image: ImageSpec, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    before: int = image.channels
    side = min(image.height, image.width)
    for channels in options.channels:
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
        before, side = channels, side // 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return Network(*layers)


class Residual(nn.Module):  # type: ignore[misc]
    """Two 3 x 3 convolutions, with `inner` channels between them, beside a short cut."""

    def __init__(self, before: int, inner: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(NORM_GROUPS, inner)
        self.second = nn.Conv2d(inner, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            self.short = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False),
                nn.GroupNorm(NORM_GROUPS, channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) to (N, channels, H / stride, W / stride)."""
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.short(x))


def _resnet18(options: ResNet18, image: ImageSpec, classes: int) -> nn.Module:
    before = options.width
    layers: list[nn.Module] = [
        nn.Conv2d(image.channels, before, 3, 1, 1, bias=False),
        nn.GroupNorm(NORM_GROUPS, before),
        nn.ReLU(),
    ]
    for block, inner in enumerate(options.inner):
        stage, place = divmod(block, BLOCKS)
        channels = options.width << stage
        layers.append(Residual(before, inner, channels, 2 if stage and not place else 1))
        before = channels
    return Network(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class VisionTransformer(nn.Module):  # type: ignore[misc]
    """Patches with learned places, encoder blocks, their mean, one dense layer."""

    def __init__(self, options: Vit, image: ImageSpec, classes: int) -> None:
        super().__init__()
        count = count_patches(options, image.height, image.width)
        self.patches = nn.Conv2d(image.channels, options.width, options.patch, options.patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, count, options.width))
        self.blocks = nn.ModuleList(
            EncoderBlock(options.width, options.heads, feed) for feed in options.feed
        )
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of (N, C, H, W) pixels."""
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet18": _resnet18,
    "vit": VisionTransformer,
}
