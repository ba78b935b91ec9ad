"""Detectors of the DETR kind: from a Hugging Face checkpoint to a package.

Images are stretched to the one size that the checkpoint was made for, as its boxes are shares of an
image's sides. Runs in a sandboxed child.
"""

import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint, package, refuse_checkpoint
from lmaas.types import DetectionSpec, ImageSpec, Lineage, Manifest, PushOptions

SAMPLE: Final = 2
"""So many random images are the sample."""
PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")
LARGEST: Final = 2048
MULTIPLE: Final = 32


class Known(NamedTuple):
    """How an architecture scores its queries, and whether it asks for a mask of pixels."""

    detection: DetectionSpec
    masked: bool = False


def _spec(**told: Any) -> DetectionSpec:
    return DetectionSpec(head="queries", outputs=("boxes", "logits"), **told)


ARCHITECTURES: Final = {
    "YolosForObjectDetection": Known(_spec(scores="softmax", background="last")),
    "DetrForObjectDetection": Known(_spec(scores="softmax", background="last"), masked=True),
    "DFineForObjectDetection": Known(_spec(scores="sigmoid")),
    "RTDetrForObjectDetection": Known(_spec(scores="sigmoid")),
    "RTDetrV2ForObjectDetection": Known(_spec(scores="sigmoid")),
}


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    from transformers import AutoModelForObjectDetection

    architecture = checkpoint.architecture_of(checkpoint.read_config(folder))
    if architecture not in ARCHITECTURES:
        raise ModelRefused(
            f"{architecture} is not served as a detector; served are {', '.join(ARCHITECTURES)}."
        )
    known = ARCHITECTURES[architecture]
    model = checkpoint.load_model(AutoModelForObjectDetection, folder, torch.float32)
    image = image_of(folder, model.config)
    pixels = np.random.default_rng(0).standard_normal((SAMPLE, 3, image.height, image.width))
    made = target / "made"
    manifest = package.build(
        wrapped(model, masked=known.masked),
        name=options.name,
        task=options.task or "object-detection",
        sample=pixels.astype(np.float32),
        folder=made,
        labels=labels_of(model.config),
        image=image,
        detection=known.detection,
        card=options.card,
        lineage=Lineage(origin="push"),
    )
    # The checkpoint's own files are the source, and not what of them lies in memory.
    shutil.rmtree(made / "source")
    for path in made.iterdir():
        shutil.move(path, target / path.name)
    made.rmdir()
    return manifest


def wrapped(model: Any, *, masked: bool) -> Any:
    """The model as a module from pixels (N, 3, H, W) to its queries' boxes and logits."""
    import torch

    class Detector(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> dict[str, Any]:
            more = {}
            if masked:
                more["pixel_mask"] = torch.ones_like(pixels[:, 0], dtype=torch.int64)
            told = self.model(pixel_values=pixels, **more)
            return {"boxes": told.pred_boxes, "logits": told.logits}

    return Detector().eval()


def labels_of(config: Any) -> tuple[str, ...]:
    """The classes in the order of the scores; names that stand there twice get their number."""
    told = [str(config.id2label[number]) for number in sorted(config.id2label)]
    return tuple(
        name if told.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(told)
    )


def image_of(folder: Path, config: Any) -> ImageSpec:
    """How the checkpoint's processor makes an image the input. Raises ModelRefused."""
    told = _processor(folder)
    height, width = _size(told, config)
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ModelRefused(f"Images of {height} x {width} are not read; at most {LARGEST}.")
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    try:
        if told.get("do_normalize", True):
            mean = tuple(map(float, told.get("image_mean", (0.485, 0.456, 0.406))))
            std = tuple(map(float, told.get("image_std", (0.229, 0.224, 0.225))))
        scale = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    except (TypeError, ValueError):
        raise ModelRefused("The processor's means, deviations or factor are no numbers.") from None
    return ImageSpec(height=height, width=width, resize="stretch", scale=scale, mean=mean, std=std)


def _processor(folder: Path) -> dict[str, Any]:
    for name in PROCESSORS:
        if (folder / name).is_file():
            told = refuse_checkpoint.read_json(folder / name, refuse_checkpoint.MAX_CONFIG_BYTES)
            inner = told.get("image_processor", told)
            if isinstance(inner, dict):
                return inner
    raise ModelRefused(
        f"The checkpoint does not say how images are read: expected {PROCESSORS[0]}.",
        hint="Save its image processor beside it.",
    )


def _size(told: dict[str, Any], config: Any) -> tuple[int, int]:
    """Height and width. A processor that keeps proportions gets its short side by 4 : 3."""
    own = getattr(config, "image_size", None)
    if isinstance(own, list | tuple) and len(own) == 2:
        return int(own[0]), int(own[1])
    size = told.get("size")
    try:
        found = msgspec.convert(size, dict[str, int])
    except msgspec.ValidationError:
        raise ModelRefused(
            f"The processor's size is {size!a}; expected height and width."
        ) from None
    if {"height", "width"} <= found.keys():
        return found["height"], found["width"]
    short = found.get("shortest_edge")
    if short is None:
        raise ModelRefused(f"The processor's size is {size!a}; expected height and width.")
    long = min(short * 4 // 3, found.get("longest_edge", LARGEST))
    return short, max(MULTIPLE, long // MULTIPLE * MULTIPLE)
