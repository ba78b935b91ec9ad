"""The task `zero-shot-image-classification`: which label's text is nearest to an image?

A JSON call `{"inputs": "<base64>", "parameters": {"candidate_labels": […]}}` is answered by
`[{"label", "score"}]`, best first; a list of images by a list of such lists. Without labels,
`inputs` are texts, or objects with a text or an image, and the answer is their vectors. Source of
the method: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
2021.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import base, text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file
from lmaas.tasks.images import files_of
from lmaas.tasks.labels import apply, best_first, candidates, hypotheses, label_records, show_labels
from lmaas.tasks.zero_shot_image_classification import vectors
from lmaas.tasks.zero_shot_image_classification.spec import SPEC, Parameters
from lmaas.tasks.zero_shot_image_classification.vectors import MAX_IMAGES, PIXELS
from lmaas.types import BATCH, JSON, TENSORS, TEXTS, Answer, Payload, Signature

TEMPLATE: Final = "This is a photo of {}."
HINT: Final = 'Send {"inputs": "<base64>", "parameters": {"candidate_labels": ["a", "b"]}}.'


class ZeroShotImageClassification(text.TextTask):
    """Images and texts in, scores of texts for each image out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return ZeroShotImageClassification(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not compare images with texts."""
        spec, image = signature.language, signature.image
        if spec is None or image is None or signature.batch or spec.context_length < 2:
            raise InvalidInput(
                "A model that compares images with texts needs `language` and `image`, and has no "
                "batch axis.",
                hint="Push the Hugging Face checkpoint: its folder says all of it.",
            )
        if signature.labels is not None:
            raise InvalidInput("This task takes no labels: a call brings its own.", param="labels")
        told = [(t.name, t.dtype, t.shape) for t in signature.inputs]
        shape = (BATCH, 3, image.height, image.width)
        # Where texts are read in one length, that is the longest.
        fixed = [t for t in signature.inputs if t.shape == (BATCH, spec.context_length)]
        texts = (BATCH, spec.context_length if fixed else BATCH)
        wanted = [
            (PIXELS, "float32", shape),
            (text.IDS, "int64", texts),
            (text.MASK, "int64", texts),
        ]
        outputs = [(t.dtype, t.shape) for t in signature.outputs]
        row = ("float32", (BATCH, spec.dimensions))
        # Versions from before there were vectors give scores alone.
        fits = outputs in ([("float32", (BATCH, BATCH))], [("float32", (BATCH, BATCH)), row, row])
        if told != wanted or not fits or image.channels != 3:
            raise InvalidInput(
                f"Expected the inputs {wanted} and the outputs scores [-1, -1] and vectors; got "
                f"{told} and {outputs}."
            )
        are = signature.outputs_are or "logits"
        return msgspec.structs.replace(signature, outputs_are=are)

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Images as pixels, labels as token ids."""
        if payload.media_type == TENSORS:
            return self._tensors(payload, signature, limits)
        if payload.media_type == TEXTS:
            asked = text.read_call(payload.body)
            wanted = vectors.Wanted(
                texts=asked.texts, images=asked.images, dimensions=asked.dimensions, param="input"
            )
            return vectors.read(wanted, self.tokenizer, signature, limits, raw=True)
        if payload.media_type != JSON:
            raise refuse_file(payload, "an image and labels", HINT)
        call = json.read_call(payload.body)
        given = payload.parameters | (call.parameters or {})
        told = _parameters(given)
        if told.candidate_labels is None and told.hypothesis_template is None:
            options = vectors.Options(told.normalize, told.truncate, told.dimensions)
            wanted = vectors.wanted_of(call.inputs, options)
            batch = vectors.read(wanted, self.tokenizer, signature, limits)
            batch.single = not isinstance(call.inputs, list)
            return batch
        for name in ("normalize", "truncate", "dimensions"):
            if given.get(name):
                raise InvalidInput(f"{name} is for vectors, not for scores.", param=name)
        single = isinstance(call.inputs, str)
        files = [call.inputs] if single else call.inputs
        if not isinstance(files, list) or not files or len(files) > MAX_IMAGES:
            raise InvalidInput(
                f"inputs is an image in base64, or a list of up to {MAX_IMAGES}.",
                hint=HINT,
                param="inputs",
            )
        labels = candidates(told.candidate_labels)
        texts = hypotheses(labels, told.hypothesis_template, TEMPLATE)
        if len(labels) > text.MAX_TEXTS:
            raise PayloadTooLarge(
                f"candidate_labels has {len(labels)} labels; at most {text.MAX_TEXTS} are taken.",
                param="candidate_labels",
            )
        assert signature.language is not None
        tokens = self.tokenizer.encode(texts, signature.language, param="candidate_labels")
        longest = max(len(each.ids) for each in tokens)
        if longest > signature.language.context_length:
            raise text.too_long(
                f"A label has {longest} tokens", signature.language, "candidate_labels"
            )
        spec = signature.image
        assert spec is not None
        length = signature.inputs[1].shape[1]
        longest = longest if length < 0 else length
        elements = len(files) * (3 * spec.height * spec.width + len(labels))
        if elements + longest * len(labels) > limits.max_elements:
            raise PayloadTooLarge(
                f"{len(files)} images and {len(labels)} labels make {elements} numbers; at most "
                f"{limits.max_elements} are taken.",
                param="inputs",
            )
        arrays = text.pad(tokens, longest, types=False)
        pixels = [
            self._pixels(file, f"inputs[{index}]", signature, limits)
            for index, file in enumerate(files)
        ]
        return Batch(
            arrays={PIXELS: np.stack(pixels), **arrays},
            size=1,
            single=single,
            row_cost=longest * len(labels),
            parameters={"labels": labels, "tokens": sum(len(each.ids) for each in tokens)},
        )

    def _pixels(self, file: Any, place: str, signature: Signature, limits: Limits) -> np.ndarray:
        if not isinstance(file, str):
            raise InvalidInput(f"{place} must be an image in base64.", hint=HINT, param=place)
        return vectors.pixels_of(file, place, signature, limits)

    def _tensors(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        batch = base.read_tensors(payload, signature, limits)
        spec = signature.language
        assert spec is not None
        ids, mask = batch.arrays[text.IDS], batch.arrays[text.MASK]
        if ids.shape != mask.shape or 0 in (*ids.shape, len(batch.arrays[PIXELS])):
            raise InvalidInput(f"{text.IDS} and {text.MASK} must have one shape, not empty.")
        if ids.shape[1] > spec.context_length:
            raise text.too_long(f"{text.IDS} has {ids.shape[1]} tokens", spec, text.IDS)
        for name, array, below in ((text.IDS, ids, spec.vocabulary_size), (text.MASK, mask, 2)):
            if array.min() < 0 or array.max() >= below:
                raise InvalidInput(f"{name} must be within 0 and {below - 1}.", param=name)
        tokens = int(mask.sum())
        return msgspec.structs.replace(batch, parameters={"tokens": tokens})

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """The labels of each image, best first; or vectors."""
        if "vectors" in batch.parameters:
            return vectors.write(outputs, batch, signature)
        scores = apply(outputs[signature.outputs[0].name], None, signature)
        if not np.isfinite(scores).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        labels = batch.parameters["labels"]
        results = best_first(scores, labels)
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """The probabilities of the labels, and the vectors as they are."""
        scores = signature.outputs[0].name
        return {
            name: apply(values, None, signature) if name == scores and values.size else values
            for name, values in outputs.items()
        }

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy; `targets` (N) are places of labels."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=-1)
        return {"accuracy": float(np.mean(predicted == targets))}

    def shown(self, result: Any) -> Shown:
        """A row for each label."""
        return show_labels(result)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The images of the rows, whose files lie in `folder`."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The best label of each image."""
        return label_records(result)


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


TASK: Task = ZeroShotImageClassification()
