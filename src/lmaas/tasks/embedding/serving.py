"""The task `embedding`: texts in, one vector each out.

A call of the door `/v1/embeddings` is answered by raw float32 numbers, row after row. A JSON call
has the Hugging Face shapes: `inputs` a text or a list of texts gives their vectors; `inputs` with
`source_sentence` and `sentences` gives the cosine similarity of each sentence to the source.
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
from lmaas.tasks.embedding.spec import SPEC, Parameters
from lmaas.types import JSON, TENSORS, TEXTS, Answer, LanguageSpec, Payload, Signature, TextsCall


class JsonCall(msgspec.Struct, forbid_unknown_fields=True):
    """The Hugging Face request for vectors or similarities."""

    inputs: Any
    parameters: Parameters | None = None
    normalize: bool | None = None
    truncate: bool | None = False
    dimensions: int | None = None


class Similarity(msgspec.Struct, forbid_unknown_fields=True):
    """Sentences to be compared with another."""

    source_sentence: str
    sentences: list[str]


class Embedding(text.TextTask):
    """Texts in, vectors out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizer in `folder`."""
        return Embedding(text.Tokenizer(folder / "tokenizer.json"))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not give one vector for each text."""
        spec = signature.language
        if spec is None or spec.dimensions is None or spec.pooling is None or spec.dimensions < 1:
            raise InvalidInput("An embedding model needs its dimensions and pooling.")
        text.check_signature(signature, spec.dimensions)
        return signature

    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Texts or token ids to padded batches."""
        if payload.media_type == TENSORS:
            return text.read_tensors(payload, signature, limits)
        assert signature.language is not None
        spec = signature.language
        if payload.media_type == TEXTS:
            call = text.read_call(payload.body)
            tokens = self._tokens(call, spec)
            check_dimensions(call.dimensions, spec)
            return text.batch(
                tokens, signature, limits, param="input", raw=True, dimensions=call.dimensions
            )
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
        return self._read_json(payload, signature, limits)

    def _tokens(self, call: TextsCall, spec: LanguageSpec) -> list[text.Tokens]:
        texts = [given for given in call.texts if isinstance(given, str)]
        found = iter(self.tokenizer.encode(texts, spec, param="input"))
        tokens = []
        for index, given in enumerate(call.texts):
            if isinstance(given, str):
                tokens.append(next(found))
                continue
            if any(not 0 <= token < spec.vocabulary_size for token in given):
                raise InvalidInput(
                    f"input[{index}] has token ids outside 0 to {spec.vocabulary_size - 1}.",
                    param="input",
                )
            tokens.append(text.Tokens(given))
        return tokens

    def _read_json(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        assert signature.language is not None
        spec = signature.language
        call = json.read(payload.body, JsonCall)
        for name in payload.parameters:
            raise InvalidInput(f"Parameter {name!r} is not supported by this task.", param=name)
        given = call.parameters or Parameters(call.normalize, call.truncate, call.dimensions)
        if given.truncate:
            raise InvalidInput("truncate is not supported: texts are never cut.", param="truncate")
        if given.normalize is False and spec.normalize:
            raise InvalidInput("This model's vectors always have length 1.", param="normalize")
        check_dimensions(given.dimensions, spec)
        similar = isinstance(call.inputs, dict)
        if similar:
            pair = _similarity(call.inputs)
            texts: Any = [pair.source_sentence, *pair.sentences]
        else:
            texts = [call.inputs] if isinstance(call.inputs, str) else call.inputs
        known = text.check_texts(texts, param="inputs")
        batch = text.batch(
            self.tokenizer.encode(known, spec, param="inputs"),
            signature,
            limits,
            param="inputs",
            similar=similar,
            dimensions=given.dimensions,
            normalize=bool(given.normalize),
        )
        batch.single = isinstance(call.inputs, str)
        return batch

    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """Raw numbers for our own doors; nested lists or similarities as JSON for the others."""
        told = batch.parameters
        rows = text.in_order(outputs[signature.outputs[0].name], batch)
        if not np.isfinite(rows).all():
            raise LMaaSError("The model's vectors hold NaN or infinity for this input.")
        dimensions = told["dimensions"]
        if dimensions is not None and dimensions < rows.shape[1]:
            rows = unit(rows[:, :dimensions])
        elif told.get("normalize"):
            rows = unit(rows)
        if told.get("raw"):
            return Answer(body=rows.tobytes())
        if told["similar"]:
            vectors = unit(rows)
            value: Any = (vectors[1:] @ vectors[0]).tolist()
        else:
            value = rows[0].tolist() if batch.single else rows.tolist()
        return Answer(body=msgspec.json.encode(value))

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Vectors are compared as they are."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Mean cosine similarity of the vectors to those in `targets`."""
        vectors = outputs[signature.outputs[0].name]
        return {"cosine": float((unit(vectors) * unit(targets)).sum(axis=1).mean())}

    def shown(self, result: Any) -> Shown:
        """A line for each vector, or for each similarity."""
        rows = result if result and isinstance(result[0], list) else [result]
        return Shown((), [(" ".join(f"{value:.6g}" for value in row),) for row in rows])

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts of the rows."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The vector."""
        return [{"embedding": vector} for vector in result]


def check_dimensions(dimensions: int | None, spec: LanguageSpec) -> None:
    """Refuse a cut to nothing, or to more than there is."""
    assert spec.dimensions is not None
    if dimensions is not None and not 1 <= dimensions <= spec.dimensions:
        raise InvalidInput(
            f"dimensions must be within 1 and {spec.dimensions}; received {dimensions}.",
            param="dimensions",
        )


def unit(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(lengths, 1e-12), "<f4")


def _similarity(inputs: Any) -> Similarity:
    try:
        return msgspec.convert(inputs, Similarity)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"Bad inputs: {error}.", param="inputs") from None


TASK: Task = Embedding()
