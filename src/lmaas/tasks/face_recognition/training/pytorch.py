"""Face embedders in PyTorch: (N, C, H, W) in, vectors (N, dimensions) of length 1 out."""

import torch
from torch import nn

from lmaas.tasks.face_recognition.options import NORM_GROUPS, STRIDE, FaceNet
from lmaas.training.pytorch.blocks import seeded
from lmaas.types import ImageSpec


def build(options: FaceNet, image: ImageSpec, people: int, seed: int) -> nn.Module:
    """What learns: an embedder and a vector for each person, drawn from `seed`."""
    return seeded(seed, lambda: Learned(Embedder(options, image), people, options.dimensions))


def embedder(model: nn.Module) -> nn.Module:
    """What is served of a model that has learned."""
    return model.embedder


class Conv(nn.Module):  # type: ignore[misc]
    """A convolution, normalised, with ReLU."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(NORM_GROUPS, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        return torch.relu(self.norm(self.conv(x)))


class Embedder(nn.Module):  # type: ignore[misc]
    """See `options.FaceNet`."""

    def __init__(self, options: FaceNet, image: ImageSpec) -> None:
        super().__init__()
        stem, *widths = options.widths
        self.stem = Conv(image.channels, stem, 2)
        before = stem
        self.down, self.same = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.down.append(Conv(before, width, 2))
            self.same.append(Conv(width, width))
            before = width
        cells = (image.height // STRIDE) * (image.width // STRIDE)
        self.dense = nn.Linear(cells * before, options.dimensions)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors of (N, C, H, W) pixels."""
        x = self.stem(pixels)
        for down, same in zip(self.down, self.same, strict=True):
            x = down(x)
            x = x + same(x)
        return nn.functional.normalize(self.dense(x.flatten(1)).float(), dim=1, eps=1e-6)


class Learned(nn.Module):  # type: ignore[misc]
    """An embedder, and the vectors of the people that it learns by."""

    def __init__(self, embedder: Embedder, people: int, dimensions: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.people = nn.Parameter(torch.randn(people, dimensions))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Vectors, and their cosines with all people's."""
        vectors = self.embedder(pixels)
        people = nn.functional.normalize(self.people.float(), dim=1)
        return {"embedding": vectors, "cosines": vectors @ people.T}
