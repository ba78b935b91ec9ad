"""The task `question-answering`: which part of a context answers a question.

A JSON call `{"inputs": {"question", "context"}}` is answered by `{"answer", "score", "start",
"end"}` (a list of them with `top_k` above 1), a list of such inputs by a list. `score` is the
probability that the answer begins where it does times that it ends where it does; places are those
of characters. Source of the method: Devlin et al., BERT, 2018, section 4.2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, softmax, texts_of
from lmaas.tasks.question_answering.spec import SPEC, Parameters
from lmaas.types import BATCH, JSON, TENSORS, Answer, Payload, Signature

ANSWER_TOKENS: Final = 15
"""The longest answer where a call says nothing."""
HINT: Final = 'Send {"inputs": {"question": "…", "context": "…"}}.'


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked, and where the answer stands."""

    question: str
    context: str


class Found(msgspec.Struct, frozen=True):
    """A part of the context: its text, its score, and where its characters begin and end."""

    answer: str
    score: float
    start: int
    end: int


class QuestionAnswering(text.TextTask):
    """Pairs of question and context in, places of answers out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return QuestionAnswering(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not say for each token how likely an answer begins and ends."""
        for field in ("labels", "image", "outputs_are"):
            if getattr(signature, field) is not None:
                raise InvalidInput(f"A model that finds answers takes no {field}.", param=field)
        text.check_inputs(signature)
        outputs = [(t.dtype, t.shape) for t in signature.outputs]
        if outputs != [("float32", (BATCH, BATCH, 2))]:
            raise InvalidInput(
                f"Expected one float32 output of shape [-1, -1, 2]; got {outputs}.",
            )
        return signature

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Each question with its context, to batches padded to the longest."""
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", HINT)
        call = json.read_call(payload.body)
        told = _parameters(payload.parameters | (call.parameters or {}))
        single = not isinstance(call.inputs, list)
        try:
            asked = msgspec.convert([call.inputs] if single else call.inputs, list[Question])
        except msgspec.ValidationError as error:
            raise InvalidInput(f"Bad inputs: {error}.", hint=HINT, param="inputs") from None
        for index, each in enumerate(asked):
            for name in ("question", "context"):
                if not getattr(each, name).strip():
                    raise InvalidInput(f"inputs[{index}].{name} is empty.", param="inputs")
        text.check_texts([each.context for each in asked], param="inputs")
        assert signature.language is not None
        pairs = [(each.question, each.context) for each in asked]
        located = self.tokenizer.locate_second(pairs, signature.language, param="inputs")
        batch = text.batch(
            [each.tokens for each in located],
            signature,
            limits,
            param="inputs",
            one_length=True,
            located=located,
            contexts=[each.context for each in asked],
            told=told,
        )
        batch.single = single
        return batch

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """The answers to each question, best first."""
        logits = text.in_order(outputs[signature.outputs[0].name], batch)
        if not np.isfinite(logits).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        told: Parameters = batch.parameters["told"]
        results: list[Any] = []
        for each, context, rows in zip(
            batch.parameters["located"], batch.parameters["contexts"], logits, strict=True
        ):
            found = answers(each, context, rows[: len(each.spans)], told)
            results.append(found if (told.top_k or 1) > 1 else found[0])
        return Answer(body=msgspec.json.encode(results[0] if batch.single else results))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """The probabilities of beginnings and ends, over the tokens."""
        return {
            name: np.swapaxes(softmax(np.swapaxes(values, 1, 2)), 1, 2)
            for name, values in outputs.items()
        }

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Exact match with `targets` (N, 2), places of the first and last token."""
        predicted = outputs[signature.outputs[0].name].argmax(axis=1)
        return {"exact_match": float(np.mean((predicted == targets).all(axis=1)))}

    def shown(self, result: Any) -> Shown:
        """A row for each answer."""
        rows = [
            (each["answer"], f"{each['score']:.6f}", f"{each['start']}-{each['end']}")
            for each in _flat(result)
        ]
        return Shown(("answer", "score", "place"), rows)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The questions and contexts of the rows."""
        questions, contexts = texts_of(rows, "question"), texts_of(rows, "context")
        return [
            {"question": question, "context": context}
            for question, context in zip(questions, contexts, strict=True)
        ]

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The best answer to each question."""
        return [dict(each[0] if isinstance(each, list) else each) for each in result]


def answers(each: text.Second, context: str, logits: np.ndarray, told: Parameters) -> list[Found]:
    """The best parts of a context, from logits (tokens, 2) of its beginning and its end.

    The first token, which stands for "no answer", is counted, and no answer itself.
    """
    inside = np.array(each.inside)
    inside[0] = True
    start, end = softmax(np.where(inside[:, None], logits, -1e4).T)
    nothing = float(start[0] * end[0])
    start[0] = end[0] = 0
    most = min(told.max_answer_len or ANSWER_TOKENS, len(start))
    # A row for each length of an answer less one, a column for each beginning.
    scores = np.zeros((most, len(start)), np.float32)
    for more in range(most):
        whole = inside[: len(start) - more] & inside[more:]
        scores[more, : len(whole)] = start[: len(whole)] * end[more:] * whole
    wanted = told.top_k or 1
    best = np.argsort(-scores, axis=None, kind="stable")[: wanted * OVERLAP]
    found: list[Found] = []
    if told.handle_impossible_answer:
        found.append(Found("", nothing, 0, 0))
    places: set[tuple[int, int]] = set()
    for more, first in zip(*np.unravel_index(best, scores.shape), strict=True):
        if not scores[more, first]:
            continue
        place = each.spans[first][0], each.spans[first + more][1]
        if place in places:
            continue  # other tokens of the same words
        places.add(place)
        begin, over = place
        found.append(Found(context[begin:over], float(scores[more, first]), begin, over))
    found.sort(key=lambda one: -one.score)
    return found[:wanted] or [Found("", nothing, 0, 0)]


OVERLAP: Final = 8
"""Places that are looked at for each answer, as several may be in the same words."""


def _flat(result: Any) -> list[dict[str, Any]]:
    if isinstance(result, dict):
        return [result]
    return [each for one in result for each in _flat(one)]


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


TASK: Task = QuestionAnswering()
