"""The task `text-ranking`: a query and documents in, how relevant each document is out.

A call of the door `/v1/rerank` is answered by one raw float32 number for each document. A JSON call
`{"inputs": {"query": …, "documents": […]}}` is answered by `[{"index", "score"}]`, best first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.tasks import text
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, texts_of
from lmaas.tasks.text_ranking.spec import SPEC
from lmaas.types import JSON, TENSORS, TEXTS, Answer, Payload, Signature


class Ranking(msgspec.Struct, forbid_unknown_fields=True):
    """Documents to be ranked by what `query` asks."""

    query: str
    documents: list[str]


class Scored(msgspec.Struct, frozen=True):
    """A document by its place in the request, and its relevance from 0 to 1."""

    index: int
    score: float


class TextRanking(text.TextTask):
    """Pairs of query and document in, relevance out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return TextRanking(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not give one score for each pair."""
        text.check_signature(signature, 1)
        return signature

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Each document with the query before it, to padded batches."""
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        if payload.media_type == TEXTS:
            call = text.read_call(payload.body)
            return self._batch(call.query, call.texts, signature, limits, raw=True)
        if payload.media_type != JSON:
            hint = 'Send {"inputs": {"query": "…", "documents": ["…"]}}.'
            raise refuse_file(payload, "text", hint)
        body = json.read_call(payload.body)
        for name in (*(body.parameters or ()), *payload.parameters):
            raise InvalidInput(f"Parameter {name!r} is not supported by this task.", param=name)
        try:
            ranking = msgspec.convert(body.inputs, Ranking)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"Bad inputs: {error}.", param="inputs") from None
        return self._batch(ranking.query, ranking.documents, signature, limits, raw=False)

    def _batch(
        self, query: str | None, documents: Any, signature: Signature, limits: Limits, *, raw: bool
    ) -> Batch:
        if not query:
            raise InvalidInput("query is empty.", param="query")
        assert signature.language is not None
        known = text.check_texts(documents, param="documents", allow_empty=True)
        pairs = [(query, document) for document in known]
        tokens = self.tokenizer.encode(pairs, signature.language, param="documents")
        return text.batch(tokens, signature, limits, param="documents", raw=raw)

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """Relevance from 0 to 1: raw numbers for our own doors, JSON for the others."""
        scores = relevance(text.in_order(outputs[signature.outputs[0].name], batch))[:, 0]
        if not np.isfinite(scores).all():
            raise LMaaSError("The model's scores hold NaN or infinity for this input.")
        if batch.parameters["raw"]:
            return Answer(body=scores.tobytes())
        best = np.argsort(-scores, kind="stable").tolist()
        return Answer(body=msgspec.json.encode([Scored(i, float(scores[i])) for i in best]))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Relevance: what a caller sees."""
        return {name: relevance(values) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Normalised discounted cumulative gain of one query's documents; `targets` are gains.

        Jarvelin and Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002.
        """
        scores = outputs[signature.outputs[0].name][:, 0]
        discount = 1 / np.log2(np.arange(2, len(scores) + 2))
        gained = float((targets[np.argsort(-scores, kind="stable")] * discount).sum())
        best = float((np.sort(targets)[::-1] * discount).sum())
        return {"ndcg": gained / best if best else 0.0}

    def shown(self, result: Any) -> Shown:
        """The documents by their places, best first."""
        rows = [(str(each["index"]), f"{each['score']:.6f}") for each in result]
        return Shown(("document", "score"), rows)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """A query and its documents: the rows have one query."""
        query, *_ = texts_of(rows, "query")
        return {"query": query, "documents": texts_of(rows, "document")}

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The relevance of each document, in the order of the rows."""
        by_place = sorted(result, key=lambda each: each["index"])
        return [{"score": each["score"]} for each in by_place]


def relevance(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in float32."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype("<f4")


TASK: Task = TextRanking()
