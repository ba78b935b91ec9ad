"""The task `text-classification`: texts in, labels with scores out.

A JSON call `{"inputs": "a text"}` or a list of texts is answered in the Hugging Face shape: for
each text `[{"label", "score"}]`, best first. A text longer than the model reads is refused, or cut
where `parameters.truncation` is true.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, softmax, texts_of
from lmaas.tasks.labels import Label, apply, check_function, label_records, show_labels
from lmaas.tasks.text_classification.spec import SPEC, Parameters
from lmaas.types import BATCH, JSON, TENSORS, Answer, LanguageSpec, Payload, Signature


class TextClassification(text.TextTask):
    """Texts in, labels with scores out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return TextClassification(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not give one score for each label and text."""
        spec, labels = signature.language, signature.labels
        if signature.image is not None:
            raise InvalidInput("A model that reads text takes no image.", param="image")
        if (
            spec is None
            or not signature.batch
            or min(spec.context_length, spec.vocabulary_size) < 1
        ):
            raise InvalidInput("A text classifier needs `language` and a free batch axis.")
        shape = (BATCH, spec.context_length)
        given = [(t.name, t.dtype, t.shape) for t in signature.inputs]
        if given != [(text.IDS, "int64", shape), (text.MASK, "int64", shape)]:
            raise InvalidInput(
                f"Expected the int64 inputs {text.IDS} and {text.MASK} of shape {list(shape)}; "
                f"received {given}."
            )
        if not labels or len(set(labels)) != len(labels):
            raise InvalidInput("labels must be given, each once.", param="labels")
        outputs = [(t.dtype, t.shape) for t in signature.outputs]
        if outputs != [("float32", (BATCH, len(labels)))]:
            raise InvalidInput(
                f"Expected one float32 output of shape [-1, {len(labels)}]; got {outputs}.",
                param="labels",
            )
        if signature.outputs_are is None:
            raise InvalidInput("outputs_are must be logits or probabilities.", param="outputs_are")
        return signature

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Texts to rows of token ids, all of the model's length."""
        assert signature.language is not None
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
        call = json.read_call(payload.body)
        parameters = _parameters(payload.parameters | (call.parameters or {}))
        check_function(parameters.function_to_apply, signature)
        single = isinstance(call.inputs, str)
        texts = text.check_texts([call.inputs] if single else call.inputs, param="inputs")
        length = signature.language.context_length
        if len(texts) * length > limits.max_elements:
            raise PayloadTooLarge(
                f"{len(texts)} texts make {len(texts) * length} tokens; at most "
                f"{limits.max_elements} are accepted.",
                param="inputs",
            )
        rows = encode(self.tokenizer, texts, signature.language, cut=bool(parameters.truncation))
        return Batch(
            arrays=rows,
            size=len(texts),
            single=single,
            parameters={
                "top_k": parameters.top_k,
                "function": parameters.function_to_apply,
                "tokens": int(rows[text.MASK].sum()),
            },
        )

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """A list of labels with scores for each text."""
        assert signature.labels is not None
        scores = apply(outputs[signature.outputs[0].name], batch.parameters["function"], signature)
        if not np.isfinite(scores).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        best = np.argsort(-scores, axis=1, kind="stable")[:, : batch.parameters["top_k"]]
        results = [
            [Label(signature.labels[i], float(row[i])) for i in order]
            for row, order in zip(scores, best.tolist(), strict=True)
        ]
        return Answer(body=msgspec.json.encode(results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities: what a caller sees."""
        if signature.outputs_are == "probabilities":
            return outputs
        return {name: softmax(values) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy of the likeliest label against integer `targets`."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=1)
        return {"accuracy": float(np.mean(predicted == targets))}

    def shown(self, result: Any) -> Shown:
        """Labels with scores."""
        return show_labels(result)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts of the rows."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The likeliest label and its score."""
        return label_records(result)


def encode(
    tokenizer: text.Tokenizer, texts: list[str], spec: LanguageSpec, *, cut: bool
) -> Tensors:
    """Token ids and mask, (N, context length) int64 each, the same in training and serving.

    Raises ContextLengthExceeded for a text that is too long, unless it may be `cut`.
    """
    length = spec.context_length
    if cut:
        texts = [each[: text.CHARS_PER_TOKEN * length] for each in texts]
    tokens = tokenizer.encode(texts, spec, param="inputs")
    for index, each in enumerate(tokens):
        if len(each.ids) > length and not cut:
            raise ContextLengthExceeded(
                f"inputs[{index}] has {len(each.ids)} tokens; the model takes at most {length}.",
                hint='Split the text, or send "parameters": {"truncation": true}.',
                param="inputs",
            )
        if not len(each.ids):
            raise InvalidInput(f"inputs[{index}] has no tokens.", param="inputs")
    return text.pad([text.Tokens(each.ids[:length]) for each in tokens], length, types=False)


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        parameters = msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None
    if parameters.top_k is not None and parameters.top_k < 1:
        raise InvalidInput(f"top_k must be at least 1; received {parameters.top_k}.", param="top_k")
    return parameters


TASK: Task = TextClassification()
