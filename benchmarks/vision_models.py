"""What `benchmarks.vision` measures: a detector as ONNX and its images, a LLaVA and its questions.

Weights are seeded; the detector's last bias is set so that images have a few objects each, because
an answer without boxes costs nobody anything.
"""

import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from benchmarks import checkpoints

SEED: Final = 11
LABELS: Final = ("ellipse", "rectangle", "triangle")
STRIDE: Final = 4
THRESHOLD: Final = 0.3
OBJECTS: Final = 6
"""So many objects an image has, on average."""
LARGEST_LOG: Final = 16.0


class Shape(NamedTuple):
    """A detector's input, and the images that it is sent, in pixels."""

    side: int
    width: int
    height: int


SHAPES: Final = {"small": Shape(96, 160, 120), "large": Shape(320, 640, 480)}


def photo(index: int, width: int, height: int) -> bytes:
    """A JPEG: smooth random colour with a few shapes, no two alike."""
    rng = np.random.default_rng([SEED, index])
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for number in range(5):
        left, top = rng.integers(0, [width * 3 // 4, height * 3 // 4]).tolist()
        box = (left, top, left + width // 5, top + height // 4)
        fill = tuple(rng.integers(0, 256, 3).tolist())
        (pen.ellipse if number % 2 else pen.rectangle)(box, fill)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def letterboxed(file: bytes, side: int) -> tuple[np.ndarray, float, float, float]:
    """(3, side, side) float32 from 0 to 1; the scale, and what was added on the left and above."""
    with Image.open(io.BytesIO(file)) as image:
        whole = image.convert("RGB")
    scale = min(side / whole.width, side / whole.height)
    width, height = round(whole.width * scale), round(whole.height * scale)
    left, top = (side - width) // 2, (side - height) // 2
    square = Image.new("RGB", (side, side), (114, 114, 114))
    square.paste(whole.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    pixels = np.asarray(square).astype(np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), scale, left, top


def decoded(
    grid: np.ndarray, scale: float, left: float, top: float, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """The objects of one image's grid (h, w, 4 + C), in numpy: peaks of the heat maps."""
    scores = 1 / (1 + np.exp(-grid[..., 4:]))
    padded = np.pad(scores, ((1, 1), (1, 1), (0, 0)))
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    most = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    y, x, kind = np.nonzero((scores >= THRESHOLD) & (scores >= most))
    order = np.argsort(-scores[y, x, kind])[:100]
    y, x, kind = y[order], x[order], kind[order]
    raw = grid[y, x, :4]
    half = np.exp(np.minimum(raw[:, :2], LARGEST_LOG)) / 2
    middle = np.stack([x, y], axis=1) + raw[:, 2:]
    boxes = np.concatenate([middle - half, middle + half], axis=1) * STRIDE
    boxes = (boxes - [left, top, left, top]) / scale
    boxes = np.clip(boxes, 0, [*size, *size])
    return [
        {
            "label": LABELS[number],
            "score": float(scores[row, column, number]),
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box.tolist(), strict=True)),
        }
        for row, column, number, box in zip(
            y.tolist(), x.tolist(), kind.tolist(), boxes, strict=True
        )
    ]


def make_detector(shape: Shape, path: Path) -> None:
    """Write our detector's network as ONNX: pixels (N, 3, side, side) to centers (N, h, w, 7)."""
    import torch

    from lmaas.tasks.object_detection.options import CenterNet
    from lmaas.tasks.object_detection.training.pytorch import build
    from lmaas.types import ImageSpec

    side = shape.side
    image = ImageSpec(height=side, width=side, channels=3, layout="CHW")
    network = build("centernet", CenterNet(), image, len(LABELS), SEED).eval()
    pixels = torch.from_numpy(
        np.stack([letterboxed(photo(i, shape.width, shape.height), side)[0] for i in range(8)])
    )
    with torch.no_grad():
        # Sides of about a sixth of the image; a heat that is higher in some places than in others.
        network.boxes.bias[:2] = float(np.log(side / STRIDE / 6))
        network.heat.weight *= 30
        network.heat.bias.zero_()
        heat = network(pixels)[..., len(network.boxes.bias) :]
        peaks = torch.nn.functional.max_pool2d(heat.permute(0, 3, 1, 2), 3, 1, 1)
        flat = heat.permute(0, 3, 1, 2)[heat.permute(0, 3, 1, 2) >= peaks]
        least = flat.sort(descending=True).values[OBJECTS * len(pixels)]
        network.heat.bias.fill_(float(np.log(THRESHOLD / (1 - THRESHOLD)) - least))
        torch.onnx.export(
            network,
            (pixels[:2],),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["centers"],
            dynamic_axes={"pixels": {0: "n"}, "centers": {0: "n"}},
            opset_version=18,
        )


CROP: Final = 96
"""Side of the classifier's input in pixels."""
KINDS: Final = ("dull", "dark", "striped", "bright")


def make_classifier(path: Path) -> None:
    """Write our classifier's network as ONNX: pixels (N, 3, 96, 96) to logits (N, 4)."""
    import torch

    from lmaas.tasks.image_classification.options import Cnn
    from lmaas.tasks.image_classification.training.pytorch import build
    from lmaas.types import ImageSpec

    image = ImageSpec(height=CROP, width=CROP, channels=3)
    options = Cnn(channels=(32, 64, 128, 256))
    network = build("cnn", options, image, len(KINDS), SEED).eval()
    boxes = [(x, y, x + 120, y + 120) for x in range(0, 480, 160) for y in (0, 200)]
    pixels = torch.from_numpy(crops_of(photo(0, 640, 480), boxes))
    with torch.no_grad():
        # As if it had learned: classes that differ from crop to crop, most of them surely.
        logits = network(pixels)
        last = network[-1]
        last.weight /= logits.std(dim=0)[:, None] / 3
        last.bias.copy_(last.bias * 0 - (network(pixels) - last.bias).mean(dim=0))
        torch.onnx.export(
            network,
            (pixels[:2],),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "n"}, "logits": {0: "n"}},
            opset_version=18,
        )


def crops_of(file: bytes, boxes: Sequence[tuple[float, ...]]) -> np.ndarray:
    """(n, 3, 96, 96) float32 from 0 to 1: what the boxes hold, whole pixels, stretched."""
    with Image.open(io.BytesIO(file)) as image:
        whole = image.convert("RGB")
    crops = []
    for left, top, right, bottom in boxes:
        x, y = min(int(left), whole.width - 1), min(int(top), whole.height - 1)
        end = max(x + 1, math.ceil(right)), max(y + 1, math.ceil(bottom))
        part = whole.crop((x, y, min(end[0], whole.width), min(end[1], whole.height)))
        crops.append(np.asarray(part.resize((CROP, CROP), Image.Resampling.BILINEAR)))
    pixels = np.stack(crops).astype(np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def named(
    file: bytes, found: list[dict[str, Any]], classify: Callable[[np.ndarray], np.ndarray]
) -> list[dict[str, Any]]:
    """What was found, with the classifier's label, in the shape of our answer."""
    if not found:
        return []
    logits = classify(crops_of(file, [tuple(each["box"].values()) for each in found]))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    told = [
        {
            "label": KINDS[row.argmax()],
            "score": each["score"] * float(row.max()),
            "box": each["box"],
            "detected": {"label": each["label"], "score": each["score"]},
        }
        for each, row in zip(found, shares, strict=True)
    ]
    return sorted(told, key=_score, reverse=True)


def _score(each: dict[str, Any]) -> float:
    return float(each["score"])


TEMPLATE: Final = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}
{%- if part.type == "image" %}<image>{% else %}{{ part.text }}{% endif %}
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
VISION: Final = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 16,
    "projection_dim": 256,
}
TEXT: Final = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}


def make_chat(folder: Path) -> Path:
    """Write a LLaVA: a CLIP tower for 196 tokens an image, a Llama of 40 million weights."""
    import torch
    from tokenizers import AddedToken
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokens = checkpoints.tokenizer()
    tokens.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    torch.manual_seed(SEED)
    places = (VISION["image_size"] // VISION["patch_size"]) ** 2
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(
            vocab_size=len(tokens),
            bos_token_id=None,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            tie_word_embeddings=False,
            **TEXT,
        ),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=places,
    )
    network = LlavaForConditionalGeneration(config)
    network.generation_config.eos_token_id = tokens.eos_token_id
    network.generation_config.pad_token_id = tokens.pad_token_id
    network.eval().save_pretrained(folder)
    side = VISION["image_size"]
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokens,
        patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def questions(count: int, model: str, tokens: int) -> list[bytes]:
    """Bodies of chat completions, each about an image that no other has."""
    return [
        msgspec.json.encode(
            {
                "model": model,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "messages": [{"role": "user", "content": list(_asked(index))}],
            }
        )
        for index in range(count)
    ]


def _asked(index: int) -> Sequence[dict[str, Any]]:
    data = base64.b64encode(photo(1000 + index, 320, 240)).decode()
    url = f"data:image/jpeg;base64,{data}"
    return {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": " bado geku"}
