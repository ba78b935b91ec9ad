"""The task `image-to-text`: images in, a text for each out.

A body that is no JSON is an image file. A JSON call gives `inputs` as base64, or as a list of such.
Answers have the Hugging Face shape, `[{"generated_text"}]`, one for each image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import image, json, media
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.runtime.sequence.calls import Conversation, SequenceCall, SequenceTask
from lmaas.tasks.base import Batch, Shown, Tensors
from lmaas.tasks.generate_parameters import GenerateParameters
from lmaas.tasks.image_to_text.spec import SPEC, Parameters
from lmaas.tasks.images import check_count, check_image, files_of
from lmaas.tasks.sequence_decoding import decoding_of, refuse, write_all
from lmaas.tasks.sequence_text import SequenceTokenizer
from lmaas.types import JSON, TENSORS, Answer, ImageSpec, Payload, Signature

MAX_IMAGES: Final = 64


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """The Hugging Face request."""

    inputs: Any
    parameters: Parameters | None = None


class Generated(msgspec.Struct, frozen=True):
    """One answer."""

    generated_text: str


class ImageToText:
    """Images in, texts out."""

    spec = SPEC

    def __init__(self, tokenizer: SequenceTokenizer | None = None) -> None:
        self._tokenizer = tokenizer

    def bind(self, folder: Path) -> "ImageToText":
        """This task with the tokenizer in `folder`."""
        return ImageToText(SequenceTokenizer(folder))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not read images and write tokens."""
        spec, told = signature.sequence, signature.image
        if spec is None or spec.source != "image" or told is None or told.layout != "CHW":
            raise InvalidInput(
                "An image-to-text model needs `sequence` with images as its source, and `image` "
                "with the layout CHW.",
                hint="Push the Hugging Face checkpoint: its folder says all of it.",
            )
        check_image(told, (1, told.channels, told.height, told.width), "float32")
        return signature

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Answer one request body; all its images are read at once."""
        assert signature.sequence is not None
        assert signature.image is not None
        sources, parameters = _read(payload, signature.image, limits)
        asked = parameters.generate_parameters or GenerateParameters()
        if parameters.max_new_tokens is not None:
            if asked.max_new_tokens not in (None, parameters.max_new_tokens):
                refuse("max_new_tokens", "generate_parameters says another number")
            asked = msgspec.structs.replace(asked, max_new_tokens=parameters.max_new_tokens)
        decoding = decoding_of(asked, signature.sequence)
        if payload.count_only:
            return Answer(body=b"")
        written = yield from write_all(
            [
                SequenceCall(tag=index, source=source, decoding=decoding)
                for index, source in enumerate(sources)
            ]
        )
        assert self._tokenizer is not None
        best = [each.candidates[0].tokens for each in written]
        texts = [Generated(self._tokenizer.decode(tokens)) for tokens in best]
        return Answer(body=msgspec.json.encode(texts), new_tokens=sum(map(len, best)))

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Refuse: requests are answered in conversation."""
        raise InvalidInput("An image-to-text model is not called with arrays.")

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Refuse, as `read` does."""
        raise InvalidInput("An image-to-text model is not called with arrays.")

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """What is compared as it is."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Share of texts `outputs["text"]` that are those of `targets`."""
        return {"exact": float(np.mean(outputs["text"] == targets))}

    def shown(self, result: Any) -> Shown:
        """The texts, a line each."""
        return Shown((), [(each["generated_text"],) for each in result])

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The image files that the rows name, by paths from `folder`, as base64."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The text of each image."""
        return [{"text": each["generated_text"]} for each in result]


def _read(payload: Payload, spec: ImageSpec, limits: Limits) -> tuple[list[np.ndarray], Parameters]:
    """Images as arrays (3, height, width), and what the call sets. Raises InvalidInput."""
    if payload.media_type == TENSORS:
        raise InvalidInput("An image-to-text model takes image files, no tensors.")
    if payload.media_type != JSON:
        return [_pixels(payload.body, spec, limits)], Parameters()
    call = json.read(payload.body, Call)
    texts = [call.inputs] if isinstance(call.inputs, str) else call.inputs
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_IMAGES:
        raise InvalidInput(
            f"inputs must be an image as base64, or a list of 1 to {MAX_IMAGES}.", param="inputs"
        )
    check_count(len(texts), spec, limits)
    sources = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(
                f"inputs[{index}] must be base64; received {type(text).__name__}.", param="inputs"
            )
        data = media.from_base64(text, limits, param=f"inputs[{index}]")
        sources.append(_pixels(data, spec, limits))
    return sources, call.parameters or Parameters()


def _pixels(data: bytes, spec: ImageSpec, limits: Limits) -> np.ndarray:
    return image.to_array(image.decode(data, spec, limits), spec, "float32")


TASK: SequenceTask = ImageToText()
