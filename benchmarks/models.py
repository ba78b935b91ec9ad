"""The networks that are measured, with seeded weights, and the requests that are sent to them.

Weights go through a safetensors file, so that every server runs the same numbers.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_model, save_model
from torch import nn

SEED = 11
NUM_REQUESTS = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """The basic block of ResNet-18 (He et al., 2016)."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or into != out:
            self.short = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False),
                                       nn.BatchNorm2d(out))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


def make_mlp() -> nn.Module:
    """784-128-10."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def make_resnet18() -> nn.Module:
    """ResNet-18 for 224 x 224 RGB and 1,000 classes; batch statistics from random images."""
    blocks, into = [], 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(into, out, stride), Block(out, out, 1)]
        into = out
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    model = nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)
    )
    pixels = torch.stack([torch.from_numpy(to_array(jpeg(i))) for i in range(8)])
    with torch.no_grad():
        model.train()(pixels)
    return model


class Layer(nn.Module):
    """An encoder layer of BERT-base (Devlin et al., 2019): 12 heads, 768 wide, 3,072 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(768, 3 * 768)
        self.out = nn.Linear(768, 768)
        self.norm1, self.norm2 = nn.LayerNorm(768), nn.LayerNorm(768)
        self.up, self.down = nn.Linear(768, 3072), nn.Linear(3072, 768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, length, _ = x.shape
        q, k, v = self.qkv(x).view(size, length, 3, 12, 64).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(size, length, 768)))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Bert(nn.Module):
    """A classifier of four classes in the shape of BERT-base, called with token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, 768), nn.Embedding(512, 768)
        self.norm = nn.LayerNorm(768)
        self.layers = nn.Sequential(*(Layer() for _ in range(12)))
        self.pool, self.head = nn.Linear(768, 768), nn.Linear(768, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.layers(self.norm(self.words(input_ids) + self.places(places)))
        logits: torch.Tensor = self.head(torch.tanh(self.pool(x[:, 0])))
        return logits


def jpeg(index: int) -> bytes:
    """A 224 x 224 JPEG: smooth random colour, no two alike."""
    rng = np.random.default_rng([SEED, index])
    small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
    file = io.BytesIO()
    small.resize((224, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def to_array(file: bytes) -> np.ndarray:
    """A JPEG as normalised (3, 224, 224) float32, as every server here reads it."""
    with Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    array = (pixels.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(
        STD, np.float32
    )
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def mlp_request(index: int) -> bytes:
    """784 pixels in 0-1 as JSON."""
    pixels = np.random.default_rng([SEED, index]).integers(0, 256, 784) / 255
    return msgspec.json.encode({"inputs": [round(float(p), 4) for p in pixels]})


def bert_request(index: int) -> bytes:
    """128 token ids as JSON."""
    ids = np.random.default_rng([SEED, index]).integers(1000, 30000, 128)
    return msgspec.json.encode({"inputs": ids.tolist()})


class Workload(NamedTuple):
    """A network, its requests, and how a request becomes one sample and an output an answer."""

    make: Callable[[], nn.Module]
    request: Callable[[int], bytes]
    kind: str
    sample: Callable[[bytes], np.ndarray]
    answer: Callable[[np.ndarray], Any]


def _numbers(dtype: Any) -> Callable[[bytes], np.ndarray]:
    return lambda body: np.array(msgspec.json.decode(body)["inputs"], dtype)


def to_labels(logits: np.ndarray) -> list[dict[str, Any]]:
    """The five best classes of one row of logits with their probabilities."""
    shifted = np.exp(logits - logits.max())
    scores = shifted / shifted.sum()
    best = np.argsort(-scores)[:5].tolist()
    return [{"label": str(i), "score": float(scores[i])} for i in best]


def to_tensor(logits: np.ndarray) -> dict[str, Any]:
    """One row of logits as it is."""
    return {"outputs": {"output_0": logits.tolist()}}


JSON, BYTES = "application/json", "application/octet-stream"
WORKLOADS = {
    "mlp": Workload(make_mlp, mlp_request, JSON, _numbers(np.float32), to_labels),
    "resnet18": Workload(make_resnet18, jpeg, BYTES, to_array, to_labels),
    "bert": Workload(Bert, bert_request, JSON, _numbers(np.int64), to_tensor),
}


def prepare(name: str, folder: Path) -> nn.Module:
    """The network in inference mode; its weights are written to `folder` the first time."""
    torch.manual_seed(SEED)
    path = folder / f"{name}.safetensors"
    model = WORKLOADS[name].make()
    if path.exists():
        load_model(model, path)
    else:
        save_model(model, str(path))
    return model.eval()
