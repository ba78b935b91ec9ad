"""The task `token-classification`: texts in, labels of their tokens out.

A JSON call `{"inputs": "a text"}` is answered in the Hugging Face shape: for each token whose label
is not ignored `{"entity", "score", "index", "word", "start", "end"}`; with `aggregation_strategy`
"simple" for each run of tokens of one entity `{"entity_group", "score", "word", "start", "end"}`.
A list of texts is answered by a list of such lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, softmax, texts_of
from lmaas.tasks.token_classification.spec import SPEC, Parameters
from lmaas.types import BATCH, JSON, TENSORS, Answer, Payload, Signature

IGNORED: Final = ("O",)
"""The labels that are left out where a call names none."""


class Entity(msgspec.Struct, frozen=True):
    """A token with its likeliest label; `index` is its place among the tokens, `start` and `end`
    are those of its characters.
    """

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class Group(msgspec.Struct, frozen=True):
    """Neighbouring tokens of one entity; `score` is their mean."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class TokenClassification(text.TextTask):
    """Texts in, labels of their tokens out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return TokenClassification(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not give one score for each label and token."""
        if signature.image is not None:
            raise InvalidInput("A model that reads text takes no image.", param="image")
        text.check_inputs(signature)
        labels = signature.labels
        if not labels or len(set(labels)) != len(labels):
            raise InvalidInput("labels must be given, each once.", param="labels")
        outputs = [(t.dtype, t.shape) for t in signature.outputs]
        if outputs != [("float32", (BATCH, BATCH, len(labels)))]:
            raise InvalidInput(
                f"Expected one float32 output of shape [-1, -1, {len(labels)}]; got {outputs}.",
                param="labels",
            )
        if signature.outputs_are is None:
            raise InvalidInput("outputs_are must be logits or probabilities.", param="outputs_are")
        return signature

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Texts to rows of token ids, all padded to the longest."""
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
        call = json.read_call(payload.body)
        parameters = _parameters(payload.parameters | (call.parameters or {}))
        single = isinstance(call.inputs, str)
        texts = text.check_texts([call.inputs] if single else call.inputs, param="inputs")
        assert signature.language is not None
        located = self.tokenizer.locate(texts, signature.language, param="inputs")
        batch = text.batch(
            [each.tokens for each in located],
            signature,
            limits,
            param="inputs",
            one_length=True,
            located=located,
            groups=parameters.aggregation_strategy == "simple",
            # A set: a caller may name many, and each token is looked for.
            ignored=frozenset(
                IGNORED if parameters.ignore_labels is None else parameters.ignore_labels
            ),
        )
        longest = max(len(each.words) for each in located)
        scores = len(texts) * longest * signature.outputs[0].shape[-1]
        if scores > limits.max_elements:
            raise PayloadTooLarge(
                f"{len(texts)} texts of {longest} tokens make {scores} scores; at most "
                f"{limits.max_elements} are given.",
                param="inputs",
            )
        batch.single = single
        return batch

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """A list of entities, or one for each of several texts."""
        scores = _probabilities(text.in_order(outputs[signature.outputs[0].name], batch), signature)
        if not np.isfinite(scores).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        told = batch.parameters
        results: list[list[Any]] = []
        for each, rows in zip(told["located"], scores, strict=True):
            entities: list[Any] = list(_entities(each, rows, signature))
            if told["groups"]:
                found = [self._group(group) for group in _together(entities)]
                results.append([g for g in found if g.entity_group not in told["ignored"]])
            else:
                results.append([e for e in entities if e.entity not in told["ignored"]])
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def _group(self, entities: Sequence[Entity]) -> Group:
        return Group(
            entities[0].entity.split("-", 1)[-1],
            float(np.mean([each.score for each in entities])),
            self.tokenizer.joined([each.word for each in entities]),
            entities[0].start,
            entities[-1].end,
        )

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities: what a caller sees."""
        return {name: _probabilities(values, signature) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Accuracy against integer `targets` (N, tokens); below 0 a token does not count."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=-1)
        counted = targets >= 0
        return {"accuracy": float(np.mean(predicted[counted] == targets[counted]))}

    def shown(self, result: Any) -> Shown:
        """A row for each entity."""
        several = bool(result) and isinstance(result[0], list)
        rows = [
            (
                *([str(index)] if several else []),
                str(each.get("entity", each.get("entity_group"))),
                f"{each['score']:.6f}",
                each["word"],
                f"{each['start']}-{each['end']}",
            )
            for index, entities in enumerate(result if several else [result])
            for each in entities
        ]
        return Shown((*(["input"] if several else []), "entity", "score", "word", "place"), rows)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts of the rows."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The entities of each text."""
        return [{"entities": entities} for entities in result]


def _entities(each: text.Located, scores: np.ndarray, signature: Signature) -> Iterator[Entity]:
    """The tokens of a text that the model did not add, each with its likeliest label."""
    assert signature.labels is not None
    for index, (word, (start, end), added) in enumerate(
        zip(each.words, each.spans, each.added, strict=True)
    ):
        if not added:
            best = int(scores[index].argmax())
            score = float(scores[index, best])
            yield Entity(signature.labels[best], score, index, word, start, end)


def _together(entities: Sequence[Entity]) -> Iterator[list[Entity]]:
    """Runs of one entity: "B-" begins a new one, and so does another name."""
    run = list(entities[:1])
    for before, each in pairwise(entities):
        if _name(each) != _name(before) or each.entity.startswith("B-"):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def _name(entity: Entity) -> str:
    return entity.entity[2:] if entity.entity.startswith(("B-", "I-")) else entity.entity


def _probabilities(values: np.ndarray, signature: Signature) -> np.ndarray:
    return values if signature.outputs_are == "probabilities" else softmax(values)


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


TASK: Task = TokenClassification()
