"""Vectors of images and texts, which lie in one space: an image is near the texts that fit it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import image as images
from lmaas.codecs import media
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Tensors
from lmaas.types import Answer, Signature

PIXELS: Final = "pixel_values"
MAX_IMAGES: Final = 32
LEAST_TOKENS: Final = 2
HINT: Final = (
    'For the scores of labels, send {"inputs": "<base64>", "parameters": {"candidate_labels": '
    '["a", "b"]}}; for vectors texts, or [{"image": "<base64>"}, {"text": "…"}].'
)


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """A text, or an image in base64."""

    text: str | None = None
    image: str | None = None


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """What a call for vectors may set; `normalize` is always so."""

    normalize: bool | None = None
    truncate: bool | None = False
    dimensions: int | None = None


class Wanted(msgspec.Struct, kw_only=True):
    """What vectors are wanted of: texts in their order, and images by their place among all.

    `param` is what the caller calls the inputs.
    """

    texts: Sequence[str | tuple[int, ...]]
    images: Mapping[int, str]
    dimensions: int | None
    param: str


def wanted_of(inputs: Any, told: Options) -> Wanted:
    """What a JSON call asks for. Raises InvalidInput."""
    if told.truncate:
        raise InvalidInput("truncate is not supported: texts are never cut.", param="truncate")
    if told.normalize is False:
        raise InvalidInput("This model's vectors always have length 1.", param="normalize")
    try:
        given = msgspec.convert(
            inputs if isinstance(inputs, list) else [inputs], list[str | Item], strict=True
        )
    except msgspec.ValidationError as error:
        raise InvalidInput(f"Bad inputs: {error}.", hint=HINT, param="inputs") from None
    texts, shown = [], {}
    for place, each in enumerate(given):
        item = Item(text=each) if isinstance(each, str) else each
        if (item.text is None) == (item.image is None):
            raise InvalidInput(
                f"inputs[{place}] must have a text or an image.", hint=HINT, param="inputs"
            )
        if item.image is not None:
            shown[place] = item.image
        else:
            texts.append(item.text or "")
    return Wanted(texts=texts, images=shown, dimensions=told.dimensions, param="inputs")


def read(
    wanted: Wanted, tokenizer: text.Tokenizer, signature: Signature, limits: Limits, **told: Any
) -> Batch:
    """One run of the model, of which one tower may have nothing to do. Raises InvalidInput."""
    spec, image, param = signature.language, signature.image, wanted.param
    assert spec is not None
    assert image is not None
    if len(signature.outputs) == 1:
        raise InvalidInput(
            "This version gives scores alone, and no vectors.",
            hint="Push the checkpoint again: a new version gives both.",
            param="model",
        )
    _check(wanted, signature)
    plain = [each for each in wanted.texts if isinstance(each, str)]
    try:
        tokens = tokenizer.encode(plain, spec, param=param)
        for each in tokens:
            if len(each.ids) > spec.context_length:
                raise text.too_long(f"A text has {len(each.ids)} tokens", spec, param)
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(
            error.message, hint=f"{error.hint} {HINT}", param=param
        ) from None
    length = signature.inputs[1].shape[1]
    if length < 0:
        length = max([LEAST_TOKENS, *(len(each.ids) for each in tokens)])
    elements = len(wanted.images) * 3 * image.height * image.width + length * len(tokens)
    if elements > limits.max_elements:
        raise PayloadTooLarge(
            f"{param} makes {elements} numbers; at most {limits.max_elements} are taken.",
            param=param,
        )
    pixels = np.zeros((len(wanted.images), 3, image.height, image.width), np.float32)
    for row, (place, file) in zip(pixels, sorted(wanted.images.items()), strict=True):
        row[:] = pixels_of(file, f"{param}[{place}]", signature, limits)
    count = len(wanted.images) + len(tokens)
    texts = [place for place in range(count) if place not in wanted.images]
    return Batch(
        arrays={PIXELS: pixels, **text.pad(tokens, length, types=False)},
        size=1,
        row_cost=length * len(tokens),
        parameters={
            "vectors": [sorted(wanted.images), texts],
            "dimensions": wanted.dimensions,
            "tokens": sum(len(each.ids) for each in tokens),
            **told,
        },
    )


def _check(wanted: Wanted, signature: Signature) -> None:
    spec, param = signature.language, wanted.param
    assert spec is not None
    if not wanted.texts and not wanted.images:
        raise InvalidInput(f"{param} is empty.", param=param)
    if any(not isinstance(each, str) for each in wanted.texts):
        raise InvalidInput("This model takes texts and images, no token ids.", param=param)
    if any(not each for each in wanted.texts):
        raise InvalidInput(f"A text of {param} is empty.", param=param)
    if len(wanted.images) > MAX_IMAGES or len(wanted.texts) > text.MAX_TEXTS:
        raise PayloadTooLarge(
            f"{param} has {len(wanted.images)} images and {len(wanted.texts)} texts; at most "
            f"{MAX_IMAGES} and {text.MAX_TEXTS} are taken at once.",
            param=param,
        )
    most = spec.dimensions or 0
    if wanted.dimensions is not None and not 1 <= wanted.dimensions <= most:
        raise InvalidInput(
            f"dimensions must be within 1 and {most}; received {wanted.dimensions}.",
            param="dimensions",
        )


def pixels_of(file: str, place: str, signature: Signature, limits: Limits) -> np.ndarray:
    """An image in base64 as the model takes it. Raises InvalidInput, PayloadTooLarge."""
    assert signature.image is not None
    data = media.from_base64(file, limits, param=place)
    try:
        return images.to_array(images.decode_whole(data, limits), signature.image, "float32")
    except (InvalidInput, PayloadTooLarge) as error:
        raise type(error)(f"{place}: {error.message}", hint=error.hint, param=place) from None


def write(outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
    """Raw float32 numbers for our own doors, nested lists as JSON for the others."""
    told = batch.parameters
    shown, texts = told["vectors"]
    names = [tensor.name for tensor in signature.outputs[1:]]
    width = outputs[names[0]].shape[1]
    rows = np.empty((len(shown) + len(texts), width), "<f4")
    rows[shown], rows[texts] = (outputs[name] for name in names)
    if not np.isfinite(rows).all():
        raise LMaaSError("The model's vectors hold NaN or infinity for this input.")
    if told["dimensions"] is not None and told["dimensions"] < width:
        rows = rows[:, : told["dimensions"]]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.ascontiguousarray(rows / np.maximum(lengths, 1e-12), "<f4")
    if told.get("raw"):
        return Answer(body=rows.tobytes())
    return Answer(body=msgspec.json.encode(rows[0].tolist() if batch.single else rows.tolist()))
