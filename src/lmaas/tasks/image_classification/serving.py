"""The task `image-classification`: any image file or array in, labels with scores out.

A body that is no JSON is an image file, whatever its header says. A JSON call gives `inputs` as a
base64 image file (or a list of them), as an array in the shape of the model's own input (used as it
is), or, with `parameters.pixels` true, as an array of 0-255 pixels of any size. Answers have the
Hugging Face shape: `[{"label", "score"}]`, best first.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL.Image import Image

from lmaas.codecs import image, json, media, tensor
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors
from lmaas.tasks.image_classification.spec import SPEC, Parameters
from lmaas.tasks.images import batch_of_images, check_count, check_image, files_of, infer_image
from lmaas.tasks.labels import Label, apply, check_function, label_records, show_labels
from lmaas.types import BATCH, JSON, TENSORS, Answer, Payload, Signature


class ImageClassification:
    """Images in, labels with scores out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """The task itself: it needs no files."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """Complete labels and image spec; refuse a model that is not a classifier of images."""
        if len(signature.inputs) != 1:
            raise InvalidInput(
                f"An image classifier has one input; received {len(signature.inputs)}."
            )
        if len(signature.outputs) != 1 or len(signature.outputs[0].shape) != 2:
            shapes = [list(spec.shape) for spec in signature.outputs]
            raise InvalidInput(
                f"An image classifier has one output of shape [batch, classes]; received {shapes}.",
                hint="Publish it with task tensor to serve the raw outputs.",
            )
        if signature.inputs[0].shape[:1] not in ((BATCH,), (1,)):
            raise InvalidInput(
                "An image classifier takes one image or any number; this one runs on batches of "
                f"{signature.inputs[0].shape[0]} alone.",
                hint="Give a sample of one image, or publish it with task tensor.",
            )
        if signature.outputs_are is None:
            raise InvalidInput("outputs_are must be logits or probabilities.", param="outputs_are")
        classes = signature.outputs[0].shape[1]
        labels = signature.labels or tuple(str(i) for i in range(max(classes, 0)))
        if classes >= 0 and len(labels) != classes:
            raise InvalidInput(
                f"The model has {classes} classes; received {len(labels)} labels.", param="labels"
            )
        if not labels or len(set(labels)) != len(labels):
            raise InvalidInput("labels must be given, each once.", param="labels")
        spec = signature.image or infer_image(signature.inputs[0].shape)
        check_image(spec, signature.inputs[0].shape, signature.inputs[0].dtype)
        return msgspec.structs.replace(signature, labels=labels, image=spec)

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Images or arrays to the model's input, one row for each image."""
        if payload.media_type == TENSORS:
            return read_tensors(payload, signature, limits)
        given = payload.parameters
        if payload.media_type != JSON:
            rows, single = [_from_file(payload.body, signature, limits)], True
        else:
            call = json.read_call(payload.body)
            given = given | (call.parameters or {})
            rows, single = _from_json(call.inputs, _parameters(given), signature, limits)
        parameters = _parameters(given) if given else DEFAULTS
        _check_parameters(parameters, signature)
        name = signature.inputs[0].name
        arrays = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)
        return Batch(
            arrays={name: arrays},
            size=len(rows),
            single=single,
            parameters={"top_k": parameters.top_k or TOP, "function": parameters.function_to_apply},
        )

    def batch_of(self, images: Iterable[Image], signature: Signature) -> Batch:
        """See `pipelines.SeesImages`."""
        return batch_of_images(images, signature)

    def classes(
        self, outputs: Tensors, batch: Batch, signature: Signature
    ) -> list[tuple[str, float]]:
        """See `pipelines.Classifies`."""
        assert signature.labels is not None
        scores = _scores(outputs, None, signature)
        return [(signature.labels[row.argmax()], float(row.max())) for row in scores]

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Labels with scores: a list for one image, a list of lists for several."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        assert signature.labels is not None
        scores = _scores(outputs, batch.parameters["function"], signature)
        top = batch.parameters["top_k"]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        results = [
            [Label(signature.labels[i], float(row[i])) for i in order]
            for row, order in zip(scores, best.tolist(), strict=True)
        ]
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities: what a caller sees."""
        return {name: apply(values, None, signature) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy and macro-averaged F1 of the top class against integer `targets`."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=1)
        scores = []
        for label in np.union1d(targets, predicted):
            hits = int(np.sum((predicted == label) & (targets == label)))
            claimed = int(np.sum(predicted == label)) + int(np.sum(targets == label))
            scores.append(2 * hits / claimed)
        return {
            "accuracy": float(np.mean(predicted == targets)),
            "macro_f1": float(np.mean(scores)),
        }

    def shown(self, result: Any) -> Shown:
        """Labels with scores."""
        return show_labels(result)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The image files that the rows name, by paths from `folder`, as base64."""
        return files_of(rows, folder)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The likeliest label and its score."""
        return label_records(result)


def _scores(outputs: Tensors, function: str | None, signature: Signature) -> np.ndarray:
    scores = apply(outputs[signature.outputs[0].name], function, signature)
    if not np.isfinite(scores).all():
        raise LMaaSError("The model's scores hold NaN or infinity for this input.")
    return scores


def _parameters(given: dict[str, Any]) -> Parameters:
    if not given:
        return DEFAULTS
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


def _check_parameters(parameters: Parameters, signature: Signature) -> None:
    if parameters.top_k is not None and parameters.top_k < 1:
        raise InvalidInput(f"top_k must be at least 1; received {parameters.top_k}.", param="top_k")
    check_function(parameters.function_to_apply, signature)


def _from_file(data: bytes, signature: Signature, limits: Limits) -> np.ndarray:
    assert signature.image is not None
    pixels = image.decode(data, signature.image, limits)
    return image.to_array(pixels, signature.image, signature.inputs[0].dtype)


def _from_json(
    inputs: Any, parameters: Parameters, signature: Signature, limits: Limits
) -> tuple[list[np.ndarray], bool]:
    spec = signature.inputs[0]
    assert signature.image is not None
    if isinstance(inputs, str):
        data = media.from_base64(inputs, limits, param="inputs")
        return [_from_file(data, signature, limits)], True
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], str):
        texts = [text for text in inputs if isinstance(text, str)]
        if len(texts) != len(inputs):
            raise InvalidInput("inputs mixes images and other values.", param="inputs")
        check_count(len(texts), signature.image, limits)
        files = (
            media.from_base64(text, limits, param=f"inputs[{index}]")
            for index, text in enumerate(texts)
        )
        return [_from_file(data, signature, limits) for data in files], False
    if parameters.pixels:
        pixels = json.to_array(inputs, "float64", limits, name="inputs")
        return [image.from_numbers(pixels, signature.image, spec.dtype)], True
    array = json.to_array(inputs, spec.dtype, limits, name="inputs")
    single = array.ndim == len(spec.shape) - 1
    if single:
        array = array[np.newaxis]
    tensor.check_shape(array.shape, spec)
    return list(array), single


DEFAULTS = Parameters()
TOP = 5
"""So many labels are told where `top_k` does not say."""
TASK: Task = ImageClassification()
