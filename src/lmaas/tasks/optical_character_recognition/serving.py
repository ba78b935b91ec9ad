"""The task `optical-character-recognition`: an image of a line in, its text out.

A body that is no JSON is an image file, whatever its header says. A JSON call gives `inputs` as
base64, or as a list of such. Answers are `[{"text", "score", "characters": [scores]}]`, a list of
such lists for several images. A pipeline finds the lines first, and says where they are (see
`pipeline`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs import tensor
from lmaas.codecs.limits import Limits
from lmaas.codecs.marks import Mark
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.tasks.base import Batch, Shown, Tensors, read_tensors
from lmaas.tasks.images import check_image, files_of, infer_image, read_images
from lmaas.tasks.labels import Box
from lmaas.tasks.optical_character_recognition import lattice, lines, pipeline, score
from lmaas.tasks.optical_character_recognition.answers import body_of, texts_of_image
from lmaas.tasks.optical_character_recognition.lattice import Reading, automaton_of
from lmaas.tasks.optical_character_recognition.parameters import pattern_of, read_parameters
from lmaas.tasks.optical_character_recognition.spec import SPEC
from lmaas.tasks.pipelines import BoundPart, Conversation, PipelineTask
from lmaas.types import BATCH, TENSORS, Answer, Part, Payload, Signature

MOST_IMAGES: Final = 64
MOST_WIDTH: Final = 8192
HINT: Final = (
    "Give the characters by class number, without the blank: --characters FILE (one a line), or "
    'reading=ReadingSpec(characters=("0", "1", …)).'
)


class OpticalCharacterRecognition:
    """Lines in, texts out."""

    spec = SPEC

    def bind(self, folder: Path) -> "OpticalCharacterRecognition":
        """The signature says all."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """Complete the image; refuse a model that is no reader."""
        spec = signature.reading
        if spec is None:
            raise InvalidInput("A reader's characters must be said.", hint=HINT, param="reading")
        if signature.labels is not None:
            raise InvalidInput("A reader has characters, and no labels.", hint=HINT, param="labels")
        if not spec.characters or len(set(spec.characters)) != len(spec.characters):
            raise InvalidInput("characters must be given, each once.", param="reading")
        if "" in spec.characters:
            raise InvalidInput("A character must not be empty.", param="reading")
        shapes = [list(each.shape) for each in (*signature.inputs, *signature.outputs)]
        if len(signature.inputs) != 1 or len(signature.outputs) != 1:
            raise InvalidInput(f"A reader has one input and one output; received {shapes}.")
        entry, end = signature.inputs[0], signature.outputs[0]
        if len(end.shape) != 3 or end.dtype == "string" or entry.shape[:1] not in ((BATCH,), (1,)):
            raise InvalidInput(
                f"A reader gives (images, steps, classes) for images; received {shapes}."
            )
        classes = len(spec.characters) + 1
        if end.shape[2] != classes:
            raise InvalidInput(
                f"The model tells {end.shape[2]} classes apart; received {len(spec.characters)} "
                "characters, which are one less with the blank.",
                hint=HINT,
                param="reading",
            )
        image = signature.image or infer_image(entry.shape)
        check_image(image, entry.shape, entry.dtype)
        if image.layout not in ("CHW", "HWC") or image.width > MOST_WIDTH:
            raise InvalidInput(
                f"A reader takes images of rows, columns and channels, up to {MOST_WIDTH} pixels "
                "wide.",
                param="image",
            )
        whole = msgspec.structs.replace(
            signature, image=image, outputs_are=signature.outputs_are or "logits"
        )
        if lines.is_wide(whole) and image.resize != "line":
            raise InvalidInput(
                "The model's width is free: images keep their proportion.",
                hint='Give the image "resize": "line", and as width the most.',
                param="image",
            )
        if spec.pattern:
            self._check_pattern(spec.pattern, whole)
        return whole

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Images to the model's input, one row for each."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        call = read_images(payload, limits, most=MOST_IMAGES)
        parameters = read_parameters(call.parameters)
        if parameters.detection_threshold is not None:
            raise InvalidInput(
                "detection_threshold cannot be honoured: a reader reads one line, and finds none.",
                hint="Make a pipeline of a detector and this reader.",
                param="detection_threshold",
            )
        pattern = pattern_of(parameters, signature)
        if pattern:
            self._check_pattern(pattern, signature)
        widest = max(lines.width_of(each.size, signature) for each in call.images)
        assert signature.image is not None
        elements = len(call.images) * widest * signature.image.height * signature.image.channels
        if elements > limits.max_elements:
            raise PayloadTooLarge(
                f"inputs has {len(call.images)} images, which become {elements} elements; at most "
                f"{limits.max_elements} are accepted.",
                hint="Send them in several requests.",
                param="inputs",
            )
        batch = lines.batch_of(call.images, signature, single=call.single)
        batch.parameters = {
            "pattern": pattern,
            "threshold": parameters.threshold or 0.0,
            "as_text": parameters.as_text,
        }
        return batch

    def _check_pattern(self, pattern: str, signature: Signature) -> None:
        assert signature.reading is not None
        wanted = automaton_of(signature.reading, pattern)
        steps = signature.outputs[0].shape[1]
        if steps != BATCH and wanted.least > steps:
            raise InvalidInput(
                f"The pattern's shortest text has {wanted.least} characters; this model reads up "
                f"to {steps}.",
                param="pattern",
            )

    def batch_of(self, images: Iterable[Image], signature: Signature) -> Batch:
        """See `pipelines.SeesImages`."""
        return lines.batch_of(images, signature)

    def readings(self, outputs: Tensors, signature: Signature, pattern: str) -> list[Reading]:
        """The text of each image of a batch, of the form that `pattern` says ("" any)."""
        spec = signature.reading
        assert spec is not None
        wanted = automaton_of(spec, pattern) if pattern else None
        scores = lattice.probabilities(outputs[signature.outputs[0].name], signature)
        return [lattice.read(row, spec, wanted) for row in scores]

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Texts: a list of one for one image, a list of lists for several."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        told = batch.parameters
        found = [
            [each._asdict()] if each.score >= told["threshold"] else []
            for each in self.readings(outputs, signature, told["pattern"])
        ]
        return body_of(found, single=batch.single, as_text=told["as_text"])

    def check_parts(self, parts: Mapping[str, Part]) -> Signature:
        """See `pipelines.PipelineTask`."""
        return pipeline.check_parts(parts)

    def converse(
        self,
        payload: Payload,
        parts: Mapping[str, BoundPart],
        signature: Signature,
        limits: Limits,
    ) -> Conversation:
        """See `pipelines.PipelineTask`."""
        return pipeline.converse(payload, parts, limits)

    def drawn(self) -> Payload:
        """See `pipelines.PipelineTask`."""
        return pipeline.drawn()

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities: what decides about characters."""
        return {name: lattice.probabilities(v, signature) for name, v in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """`exact` and `cer` against characters by class (N, S), below 0 after the last."""
        spec = signature.reading
        assert spec is not None
        first = lattice.first_of(spec)
        tally = score.Tally()
        for each, numbers in zip(self.readings(outputs, signature, ""), targets, strict=True):
            there = "".join(spec.characters[n - first] for n in numbers[numbers >= 0].tolist())
            tally.add(each.text, there)
        return tally.result()

    def shown(self, result: Any) -> Shown:
        """A line for each text, and one for an image without any."""
        if result and isinstance(result[0], dict) and "generated_text" in result[0]:
            return Shown((), [(each["generated_text"],) for each in result])
        several = bool(result) and isinstance(result[0], list)
        every = result if several else [result]
        placed = any("box" in each for image in every for each in image)
        rows: list[tuple[str, ...]] = []
        for index, found in enumerate(every):
            which = (str(index),) if several else ()
            for each in found:
                place = [each["box"][side] for side in Box.__struct_fields__] if placed else []
                rows.append(
                    (*which, each["text"], f"{each['score']:.4f}", *(f"{n:.1f}" for n in place))
                )
            if not found:
                rows.append((*which, "nothing found", "", *[""] * (4 if placed else 0)))
        columns = ("text", "score", *(Box.__struct_fields__ if placed else ()))
        return Shown((*(["input"] if several else []), *columns), rows)

    def marks(self, result: Any) -> list[Mark]:
        """The places of a pipeline's texts; of a reader's alone there are none."""
        return [
            Mark(
                tuple(each["box"][side] for side in Box.__struct_fields__),
                each["text"],
                "text",
            )
            for each in result
            if "box" in each
        ]

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The image files that the rows name, by paths from `folder`, as base64."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The text of each image, and how sure it is; of several texts, the least sure."""
        return [
            {
                "text": texts_of_image(found),
                "score": min((each["score"] for each in found), default=0.0),
            }
            for found in result
        ]


TASK: Final[PipelineTask] = OpticalCharacterRecognition()
