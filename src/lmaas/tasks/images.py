"""What tasks whose samples are images share: what an input takes, and files that rows name."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from PIL.Image import Image

from lmaas.codecs import image, json, media
from lmaas.codecs.image import Placement
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.tasks.base import Batch, texts_of
from lmaas.types import BATCH, JSON, TENSORS, ImageSpec, Payload, Signature

ANCHORS_FILE: Final = "anchors.safetensors"
"""Beside a detector whose head needs it: the tensor `anchors`, (A, 4) as cx, cy, w, h in shares."""
MAX_FILE_BYTES: Final = 256 << 20
"""How long an image that a row names may be."""


def infer_image(shape: tuple[int, ...]) -> ImageSpec:
    """The image spec that an input of `shape` (batch axis first) most plausibly has.

    Pixels are scaled to 0-1. Raises InvalidInput when the shape does not say height and width.
    """
    rest = shape[1:]
    if BATCH not in rest:
        if len(rest) == 1 and math.isqrt(rest[0]) ** 2 == rest[0]:
            side = math.isqrt(rest[0])
            return ImageSpec(height=side, width=side, channels=1, layout="flat")
        if len(rest) == 2:
            return ImageSpec(height=rest[0], width=rest[1], channels=1, layout="HW")
        if len(rest) == 3 and rest[2] in (1, 3):
            channels: Literal[1, 3] = 1 if rest[2] == 1 else 3
            return ImageSpec(height=rest[0], width=rest[1], channels=channels, layout="HWC")
        if len(rest) == 3 and rest[0] in (1, 3):
            channels = 1 if rest[0] == 1 else 3
            return ImageSpec(height=rest[1], width=rest[2], channels=channels, layout="CHW")
    raise InvalidInput(
        f"Cannot tell height, width and channels from the input shape {list(shape)}.",
        hint="Give image=ImageSpec(height=…, width=…, channels=…, layout=…).",
        param="image",
    )


def sample_shape(spec: ImageSpec) -> tuple[int, ...]:
    """The shape of one sample (no batch axis) that `spec` describes."""
    return {
        "HWC": (spec.height, spec.width, spec.channels),
        "CHW": (spec.channels, spec.height, spec.width),
        "HW": (spec.height, spec.width),
        "flat": (spec.height * spec.width * spec.channels,),
    }[spec.layout]


def check_image(spec: ImageSpec, shape: tuple[int, ...], dtype: str) -> None:
    """Raise InvalidInput where what an image becomes is not an input of this shape and dtype."""
    if spec.height < 1 or spec.width < 1 or (spec.layout == "HW" and spec.channels != 1):
        raise InvalidInput(f"This image spec describes no image: {spec}.", param="image")
    expected = sample_shape(spec)
    fits = len(shape) == len(expected) + 1 and all(
        have in (want, BATCH) for have, want in zip(shape[1:], expected, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"The image spec gives samples of shape {list(expected)}; the model's input is "
            f"{list(shape)}.",
            param="image",
        )
    for name in ("mean", "std"):
        values = getattr(spec, name)
        if len(values) not in (1, spec.channels) or not all(map(math.isfinite, values)):
            raise InvalidInput(
                f"image.{name} needs 1 or {spec.channels} finite numbers; received {values}."
            )
    if 0 in spec.std:
        raise InvalidInput("image.std must not be zero.", param="image")
    if dtype == "string":
        raise InvalidInput("A model of images takes numbers, not texts.")
    if np.dtype(dtype).kind != "f" and (
        spec.scale != 1 or any(spec.mean) or any(std != 1 for std in spec.std)
    ):
        raise InvalidInput(
            f"A model with {dtype} input takes pixels as they are: give scale 1, mean 0, std 1.",
            param="image",
        )


def check_count(images: int, spec: ImageSpec, limits: Limits) -> None:
    """Bound what images become, which small files do not tell. Raises PayloadTooLarge."""
    elements = images * spec.height * spec.width * spec.channels
    if elements > limits.max_elements:
        raise PayloadTooLarge(
            f"inputs has {images} images, which become {elements} elements; at most "
            f"{limits.max_elements} are accepted.",
            hint="Send them in several requests.",
            param="inputs",
        )


class ImagesCall(NamedTuple):
    """Files of images that a request brought, decoded: upright, "RGB", in their own sizes."""

    images: list[Image]
    single: bool
    parameters: dict[str, Any]


def read_images(payload: Payload, limits: Limits, *, most: int) -> ImagesCall:
    """A request to a model that looks at whole images: a file, or JSON with base64 ones.

    At most `most` images, with together no more pixels than one may have. Raises InvalidInput,
    PayloadTooLarge before anything is decoded.
    """
    if payload.media_type == TENSORS:
        raise InvalidInput(
            "This model takes files of images, and no tensors.",
            hint="POST a file to /models/NAME, or base64 as inputs.",
        )
    if payload.media_type != JSON:
        found = image.decode_whole(payload.body, limits)
        return ImagesCall([found], True, payload.parameters)
    call = json.read_call(payload.body)
    single = isinstance(call.inputs, str)
    texts = [call.inputs] if single else call.inputs
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise InvalidInput(
            "inputs must be a file of an image as base64, or a list of them.", param="inputs"
        )
    if len(texts) > most:
        raise PayloadTooLarge(
            f"inputs has {len(texts)} images; at most {most} are taken.",
            hint="Send them in several requests.",
            param="inputs",
        )
    pixels, heads = 0, []
    for index, text in enumerate(texts):
        data = media.from_base64(text, limits, param="inputs" if single else f"inputs[{index}]")
        pixels += math.prod(image.open_bounded(data, limits).size)
        heads.append(data)
    if pixels > limits.max_image_pixels:
        raise PayloadTooLarge(
            f"The images have {pixels} pixels; at most {limits.max_image_pixels} are decoded for "
            "one request.",
            hint="Scale them down before sending, or send them in several requests.",
            param="inputs",
        )
    images = [image.decode_whole(data, limits) for data in heads]
    return ImagesCall(images, single, payload.parameters | (call.parameters or {}))


def batch_of_images(images: Iterable[Image], signature: Signature) -> Batch:
    """Decoded images as a model takes them, a row for each; see `pipelines.SeesImages`.

    The batch's parameters have `placements`, where in its row each image lies.
    """
    spec, dtype = signature.image, signature.inputs[0].dtype
    assert spec is not None
    arrays, placements = [], []
    for each in images:
        arrays.append(image.to_array(image.in_channels(each, spec), spec, dtype))
        placements.append(Placement.of(each.size, spec))
    return batch_of_arrays(arrays, signature, parameters={"placements": placements})


def batch_of_arrays(
    arrays: Sequence[np.ndarray],
    signature: Signature,
    *,
    single: bool = False,
    parameters: dict[str, Any] | None = None,
) -> Batch:
    """Samples without a batch axis as one batch; as one after another, where the model takes one
    at a time."""
    entry, told = signature.inputs[0], parameters or {}
    rows = [array[np.newaxis] for array in arrays]
    if len(rows) == 1:
        return Batch(arrays={entry.name: rows[0]}, size=1, single=single, parameters=told)
    if signature.batch and entry.shape[0] == BATCH:
        whole = {entry.name: np.concatenate(rows)}
        return Batch(arrays=whole, size=len(rows), single=single, parameters=told)
    parts = tuple(Batch(arrays={entry.name: row}, size=1) for row in rows)
    return Batch(arrays={}, size=len(rows), single=single, parameters=told, parts=parts)


def files_of(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """The image files that rows name in the field `image`, by paths from `folder`, as base64.

    Raises InvalidInput naming the row.
    """
    found = []
    for index, path in enumerate(texts_of(rows, "image")):
        try:
            file = folder / path
            usual = file.is_file() and file.stat().st_size <= MAX_FILE_BYTES
            data = file.read_bytes() if usual else b""
        except (OSError, ValueError) as error:
            told = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(f"inputs[{index}]: {path[:200]!r}: {told}.") from None
        if not image.is_image(data):
            # What is sent away is nothing but images, whatever a file of rows names.
            raise InvalidInput(f"inputs[{index}]: {path[:200]!r} is no file of an image.")
        found.append(base64.b64encode(data).decode())
    return found
