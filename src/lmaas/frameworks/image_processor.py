"""How a checkpoint turns images into pixels: what its files say, and which of it is honoured."""

import importlib
import re
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint, refuse_checkpoint

PREPROCESSOR: Final = "preprocessor_config.json"
PROCESSORS: Final = {
    f"{kind}ImageProcessor": f"transformers.models.{place}.image_processing_pil_{place}:"
    f"{kind}ImageProcessorPil"
    for kind, place in (
        ("CLIP", "clip"),
        ("Llava", "llava"),
        ("LlavaNext", "llava_next"),
        ("Siglip", "siglip"),
    )
}
"""What turns images into pixels, and where transformers has it on Pillow."""
TILED: Final = "image_grid_pinpoints"
"""What a processor has that cuts images into tiles; its `do_pad` is about batches."""
LARGEST_SIDE: Final = 4096
WIDEST_CROP: Final = 8
"""Largest side of what is kept of an image, by its short side before."""
CONNECT: Final = (
    "Serve it with vLLM or another server, and connect that: `lmaas models connect` takes any "
    "OpenAI-compatible service."
)


class Shape(NamedTuple):
    """What an image becomes; the fields' meaning is that of `types.VisionSpec`."""

    height: int
    width: int
    resize: Literal["stretch", "crop"]
    short_side: int
    pad: bool
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_processor(folder: Path) -> Any:
    """What turns images into pixels, as transformers has it on Pillow. Raises ModelRefused."""
    told = _processor_config(folder)
    named = str(told.get("image_processor_type") or told.get("feature_extractor_type") or "")
    kind = re.sub("(Fast|Pil)$", "", named).replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSORS:
        raise ModelRefused(
            f"Images for this model are made ready by {named[:100] or 'nothing that is named'}; "
            f"known are {', '.join(PROCESSORS)}.",
            hint=CONNECT,
        )
    module, _, name = PROCESSORS[kind].partition(":")
    try:
        return getattr(importlib.import_module(module), name).from_dict(told)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a config that lies fails in any way it likes
        raise ModelRefused(
            f"The image processor cannot be loaded: {checkpoint.short(error)}."
        ) from None


def _processor_config(folder: Path) -> dict[str, Any]:
    """Its settings: a file of their own, or since transformers 5 a part of the processor's."""
    for name in (PREPROCESSOR, "processor_config.json"):
        if (folder / name).is_file():
            told = refuse_checkpoint.read_json(folder / name, refuse_checkpoint.MAX_CONFIG_BYTES)
            told = told.get("image_processor", told)
            if isinstance(told, dict) and ("image_processor_type" in told or name == PREPROCESSOR):
                return told
    raise ModelRefused(
        f"The checkpoint does not say how images become pixels: expected {PREPROCESSOR} or "
        "processor_config.json."
    )


def shape_of(processor: Any) -> Shape:
    """What it makes of an image. Raises ModelRefused for settings that are not honoured."""
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if getattr(processor, name, None) is not True:
            raise ModelRefused(f"The image processor has {name} off, which is not supported.")
    size, crop = _size(processor.size), _size(getattr(processor, "crop_size", None))
    short = size.get("shortest_edge", 0)
    if set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ModelRefused(f"The image processor scales to {size}, which is not supported.")
    if getattr(processor, "do_center_crop", False):
        if set(crop) != {"height", "width"}:
            raise ModelRefused(f"The image processor crops to {crop}, which is not supported.")
        height, width = crop["height"], crop["width"]
    elif short:
        raise ModelRefused("The image processor keeps images of any shape: expected a crop.")
    else:
        height, width = size["height"], size["width"]
    if not short and (size["height"], size["width"]) != (height, width):
        raise ModelRefused(f"The image processor scales to {size} and then crops to {crop}.")
    if not 1 <= max(height, width, short) <= LARGEST_SIDE or (
        short and max(height, width) > WIDEST_CROP * short
    ):
        raise ModelRefused(f"The image processor scales to {size} and crops to {crop}.")
    mean, std = (_three(processor, name) for name in ("image_mean", "image_std"))
    return Shape(
        height,
        width,
        "crop" if short else "stretch",
        short,
        bool(getattr(processor, "do_pad", False)) and not hasattr(processor, TILED),
        int(processor.resample),
        float(processor.rescale_factor),
        mean,
        std,
    )


def _size(value: Any) -> dict[str, int]:
    """The settings of a size that are set."""
    if value is None:
        return {}
    names = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    found = {name: getattr(value, name, None) for name in names}
    return {name: int(number) for name, number in found.items() if number}


def _three(processor: Any, name: str) -> tuple[float, float, float]:
    told = getattr(processor, name)
    values = tuple(told) if isinstance(told, list | tuple) else (told,) * 3
    if len(values) != 3:
        raise ModelRefused(f"The image processor's {name} has {len(values)} numbers; expected 3.")
    red, green, blue = map(float, values)
    return red, green, blue
