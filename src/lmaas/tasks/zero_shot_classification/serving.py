"""The task `zero-shot-classification`: does a text entail "This example is LABEL."?

A JSON call `{"inputs": "a text", "parameters": {"candidate_labels": […]}}` is answered by
`[{"label", "score"}]`, best first; a list of texts by a list of such lists. Source of the method:
Yin, Hay and Roth, Benchmarking Zero-shot Text Classification, 2019.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, softmax, texts_of
from lmaas.tasks.labels import best_first, candidates, hypotheses, label_records, show_labels
from lmaas.tasks.zero_shot_classification.spec import SPEC, Parameters
from lmaas.types import BATCH, JSON, TENSORS, Answer, Payload, Signature

TEMPLATE: Final = "This example is {}."
ENTAILS: Final = "entail"
"""How the label that a hypothesis follows begins, in whatever case."""


class ZeroShotClassification(text.TextTask):
    """Pairs of text and hypothesis in, scores of labels out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return ZeroShotClassification(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not say for a pair of texts whether one entails the other."""
        if signature.image is not None:
            raise InvalidInput("A model that reads text takes no image.", param="image")
        text.check_inputs(signature)
        labels = signature.labels or ()
        if sum(map(_entails, labels)) != 1 or len(set(labels)) != len(labels) or len(labels) < 2:
            raise InvalidInput(
                f"One of the labels begins with {ENTAILS}; received {list(labels)}.", param="labels"
            )
        outputs = [(t.dtype, t.shape) for t in signature.outputs]
        if outputs != [("float32", (BATCH, len(labels)))]:
            raise InvalidInput(
                f"Expected one float32 output of shape [-1, {len(labels)}]; got {outputs}.",
                param="labels",
            )
        if signature.outputs_are not in (None, "logits"):
            raise InvalidInput("outputs_are must be logits.", param="outputs_are")
        return msgspec.structs.replace(signature, outputs_are="logits")

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Each text with each label's hypothesis, to padded batches."""
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(
                payload, "text",
                'Send {"inputs": "a text", "parameters": {"candidate_labels": ["a", "b"]}}.',
            )  # fmt: skip
        call = json.read_call(payload.body)
        told = _parameters(payload.parameters | (call.parameters or {}))
        single = isinstance(call.inputs, str)
        texts = text.check_texts([call.inputs] if single else call.inputs, param="inputs")
        labels = candidates(told.candidate_labels)
        texts_of_labels = hypotheses(labels, told.hypothesis_template, TEMPLATE)
        if len(texts) * len(labels) > text.MAX_TEXTS:
            raise PayloadTooLarge(
                f"{len(texts)} texts with {len(labels)} labels make {len(texts) * len(labels)} "
                f"pairs; at most {text.MAX_TEXTS} are read at once.",
                param="candidate_labels",
            )
        assert signature.language is not None
        pairs = [(each, made) for each in texts for made in texts_of_labels]
        tokens = self.tokenizer.encode(pairs, signature.language, param="inputs")
        batch = text.batch(
            tokens, signature, limits, param="inputs", labels=labels, apart=bool(told.multi_label)
        )
        batch.single = single
        return batch

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """The labels of each text, best first."""
        logits = text.in_order(outputs[signature.outputs[0].name], batch)
        if not np.isfinite(logits).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        labels = batch.parameters["labels"]
        scores = scores_of(
            logits.reshape(-1, len(labels), logits.shape[-1]),
            signature.labels or (),
            apart=batch.parameters["apart"],
        )
        results = best_first(scores, labels)
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """The probabilities of the relations."""
        return {name: softmax(values) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy of the relation of pairs; `targets` (N) are places of labels."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=-1)
        return {"accuracy": float(np.mean(predicted == targets))}

    def shown(self, result: Any) -> Shown:
        """A row for each label."""
        return show_labels(result)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts of the rows."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The best label of each text."""
        return label_records(result)


def scores_of(logits: np.ndarray, relations: Sequence[str], *, apart: bool) -> np.ndarray:
    """Scores (texts, labels) from logits (texts, labels, relations).

    All labels of a text together have 1; `apart`, or for one label alone, each is compared with the
    relation that says the opposite: the first one, or the last where entailment is first.
    """
    entails = next(place for place, name in enumerate(relations) if _entails(name))
    if not apart and logits.shape[1] > 1:
        return softmax(logits[:, :, entails])
    opposite = -1 if entails == 0 else 0
    return softmax(logits[:, :, [opposite, entails]])[:, :, 1]


def _entails(label: str) -> bool:
    return label.lower().startswith(ENTAILS)


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


TASK: Task = ZeroShotClassification()
