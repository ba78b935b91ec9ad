"""face-api's recognition model: weights in u8 beside a JSON manifest, made a PyTorch module.

The network is dlib's ResNet of 29 layers as face-api.js has it: 150 x 150 pixels to 128 numbers.
Nothing of the files is run: their names, shapes and sizes must be those of this network.
"""

import math
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import package
from lmaas.types import UNREADABLE, FaceSpec, ImageSpec, Lineage, Manifest, PushOptions

MANIFEST: Final = "face_recognition_model-weights_manifest.json"
TASK: Final = "face-recognition"
MOST_MANIFEST_BYTES: Final = 1 << 20
LARGEST: Final = 1e6
SIDE: Final = 150
STEM: Final = "conv32_down"
DIMENSIONS: Final = 128
BLOCKS: Final = (
    ("conv32_1", 32, 32), ("conv32_2", 32, 32), ("conv32_3", 32, 32),
    ("conv64_down", 32, 64), ("conv64_1", 64, 64), ("conv64_2", 64, 64), ("conv64_3", 64, 64),
    ("conv128_down", 64, 128), ("conv128_1", 128, 128), ("conv128_2", 128, 128),
    ("conv256_down", 128, 256), ("conv256_1", 256, 256), ("conv256_2", 256, 256),
    ("conv256_down_out", 256, 256),
)  # fmt: skip
"""The residual blocks in their order: name, channels before and after; those called down halve."""
IMAGE: Final = ImageSpec(
    height=SIDE,
    width=SIDE,
    layout="CHW",
    scale=1.0,
    mean=(122.782, 117.001, 104.298),
    std=(255.0,),
)
FACE: Final = FaceSpec(
    dimensions=DIMENSIONS,
    points=((0.321, 0.292), (0.679, 0.292), (0.5, 0.496), (0.352, 0.706), (0.648, 0.706)),
)
"""face-api cuts a square in which eyes and mouth have their middle at (0.5, 0.43) and lie 0.45 of a
side apart; so these are ArcFace's points at that place and scale. Nobody has measured rates."""


class Quantization(msgspec.Struct):
    """A number is `min` and so many times `scale`."""

    dtype: str
    scale: float
    min: float


class Weight(msgspec.Struct):
    """One array of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None


class Group(msgspec.Struct):
    """Arrays one after the other in files one after the other."""

    weights: list[Weight]
    paths: list[str]


def is_folder(path: Path) -> bool:
    """Whether a folder holds face-api's recognition model."""
    return (path / MANIFEST).is_file()


def build(path: Path, options: PushOptions, target: Path) -> Manifest:
    """A package of the model in the folder `path`. Raises ModelRefused, InvalidInput."""
    if options.task not in (None, TASK):
        raise InvalidInput(f"face-api's model is one for {TASK}, not {options.task}.", param="task")
    for field in ("labels", "outputs_are", "detection", "anchors", "dynamic", "signature"):
        if getattr(options, field) is not None:
            raise InvalidInput(f"face-api's model takes no {field}.", param=field)
    model = _network(_weights(path))
    sample = np.random.default_rng(0).normal(0, 0.3, (2, 3, SIDE, SIDE)).astype(np.float32)
    return package.build(
        model,
        name=options.name,
        task=TASK,
        sample=sample,
        folder=target,
        image=options.image or IMAGE,
        face=options.face or FACE,
        card=options.card,
        lineage=Lineage(origin="push", recipe={"weights": "face-api: u8 made float32"}),
    )


def shapes() -> dict[str, tuple[int, ...]]:
    """What the network's arrays are called, and their shapes."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, size: int, before: int, after: int) -> None:
        found[f"{name}/conv/filters"] = (size, size, before, after)
        for part in ("conv/bias", "scale/weights", "scale/biases"):
            found[f"{name}/{part}"] = (after,)

    layer(STEM, 7, 3, 32)
    for name, before, after in BLOCKS:
        layer(f"{name}/conv1", 3, before, after)
        layer(f"{name}/conv2", 3, after, after)
    found["fc"] = (256, DIMENSIONS)
    return found


def _weights(folder: Path) -> dict[str, np.ndarray]:
    path = folder / MANIFEST
    if path.stat().st_size > MOST_MANIFEST_BYTES:
        raise ModelRefused(f"{MANIFEST} is longer than {MOST_MANIFEST_BYTES} bytes.")
    try:
        groups = msgspec.json.decode(path.read_bytes(), type=list[Group])
    except UNREADABLE as error:
        raise ModelRefused(f"{MANIFEST} is no manifest of weights: {error}.") from None
    wanted, found = shapes(), {}
    for group in groups:
        data, offset = _bytes(folder, group), 0
        for weight in group.weights:
            if wanted.get(weight.name) != weight.shape:
                raise ModelRefused(
                    f"{weight.name[:100]} has the shape {list(weight.shape)[:8]}; face-api's "
                    f"network has {list(wanted.get(weight.name, ())) or 'none of that name'}."
                )
            told = weight.quantization
            kind = np.dtype("u1" if told is not None else "<f4")
            if (told.dtype if told is not None else weight.dtype) not in ("uint8", "float32"):
                raise ModelRefused(f"{weight.name} is neither uint8 nor float32.")
            end = offset + math.prod(weight.shape) * kind.itemsize
            values = np.frombuffer(data[offset:end], kind).astype(np.float64)
            offset = end
            if told is not None:
                values = values * told.scale + told.min
            if not (np.abs(values) < LARGEST).all():
                raise ModelRefused(f"{weight.name} has numbers that are none, or no weights.")
            found[weight.name] = values.astype(np.float32).reshape(weight.shape)
        if offset != len(data):
            raise ModelRefused(f"The weights have {len(data)} bytes; expected {offset}.")
    if missing := wanted.keys() - found.keys():
        raise ModelRefused(f"The manifest lacks {len(missing)} arrays, {min(missing)} among them.")
    return found


def _bytes(folder: Path, group: Group) -> bytes:
    """The group's files. Raises ModelRefused for one that is elsewhere, missing, or too long."""
    size = sum(
        math.prod(weight.shape) * (1 if weight.quantization is not None else 4)
        for weight in group.weights
    )
    data = b""
    for name in group.paths:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelRefused(f"{name[:100]!a} is not beside {MANIFEST}.")
        if len(data) + path.stat().st_size > size:
            raise ModelRefused(f"{name[:100]!a} has more bytes than the manifest's {size}.")
        data += path.read_bytes()
    if len(data) != size:
        raise ModelRefused(f"The weights have {len(data)} bytes; the manifest says {size}.")
    return data


def _network(weights: dict[str, np.ndarray]) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional

    def convolution(name: str, stride: int, padding: int) -> nn.Module:
        """A convolution with the scale that follows it multiplied in."""
        scale = weights[f"{name}/scale/weights"]
        filters = weights[f"{name}/conv/filters"] * scale
        bias = weights[f"{name}/conv/bias"] * scale + weights[f"{name}/scale/biases"]
        size, _, before, after = filters.shape
        layer = nn.Conv2d(before, after, size, stride, padding)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(filters.transpose(3, 2, 0, 1).copy()))
            layer.bias.copy_(torch.from_numpy(bias))
        return layer

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self, name: str, before: int, after: int) -> None:
            super().__init__()
            self.down, self.more = "down" in name, after - before
            self.first = convolution(f"{name}/conv1", *((2, 0) if self.down else (1, 1)))
            self.second = convolution(f"{name}/conv2", 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.second(torch.relu(self.first(x)))
            if self.down:
                x = functional.avg_pool2d(x, 2)
                # Without padding, the convolution may give a row and a column less.
                lacking = x.shape[2] - y.shape[2]
                y = functional.pad(y, (0, lacking, 0, lacking))
                x = functional.pad(x, (0, 0, 0, 0, 0, self.more))
            return torch.relu(x + y)

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = convolution(STEM, 2, 0)
            self.blocks = nn.Sequential(*(Block(*block) for block in BLOCKS))
            self.dense = nn.Linear(256, DIMENSIONS, bias=False)
            with torch.no_grad():
                self.dense.weight.copy_(torch.from_numpy(weights["fc"].T.copy()))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = functional.max_pool2d(torch.relu(self.stem(pixels)), 3, 2)
            return self.dense(self.blocks(x).mean((2, 3)))

    return Network().eval()
