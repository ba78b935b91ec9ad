"""What becomes of texts: tokens within bounds, little padding, answers in the callers' order."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import word_tokenizer
from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput, PayloadTooLarge
from lmaas.tasks import Task, text
from lmaas.tasks.embedding.serving import unit
from lmaas.types import (
    JSON,
    TENSORS,
    TEXTS,
    Answer,
    LanguageSpec,
    Payload,
    Signature,
    TensorSpec,
    TextsCall,
)

SPEC = LanguageSpec(
    architecture="BertModel",
    context_length=300,
    vocabulary_size=9,
    dimensions=4,
    pooling="mean",
)
TOKENS = tuple(
    TensorSpec(name=name, dtype="int64", shape=(-1, -1))
    for name in ("input_ids", "attention_mask", "token_type_ids")
)
EMBEDS = Signature(
    inputs=TOKENS[:2],
    outputs=(TensorSpec(name="embedding", dtype="float32", shape=(-1, 4)),),
    language=SPEC,
)
RANKS = Signature(
    inputs=TOKENS,
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 1)),),
    language=SPEC,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_tokenizer(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def embedding(folder: Path) -> Task:
    return tasks.get("embedding").bind(folder)


@pytest.fixture(scope="module")
def ranking(folder: Path) -> Task:
    return tasks.get("text-ranking").bind(folder)


def payload(*texts: str | tuple[int, ...], **more: Any) -> Payload:
    return Payload(media_type=TEXTS, body=msgspec.msgpack.encode(TextsCall(texts=texts, **more)))


def answer(task: Task, signature: Signature, given: Payload, width: int = 4) -> Answer:
    """What the task answers where the model gives each text its length, `width` times."""
    batch = task.read(given, signature, Limits())
    parts = batch.parts or (batch,)
    rows = [part.arrays["attention_mask"].sum(1, keepdims=True) for part in parts]
    outputs = np.repeat(np.concatenate(rows).astype(np.float32), width, axis=1)
    return task.write({signature.outputs[0].name: outputs}, batch, signature, "m:1")


def test_texts_are_sorted_padded_little_and_answered_in_their_order(embedding: Task) -> None:
    lengths = [290, 1, 40, 3, 100, 2, 200, 1]
    texts = [" ".join("a" * length) for length in lengths]
    batch = embedding.read(payload(*texts), EMBEDS, Limits())
    assert batch.size == len(lengths)
    widths = [part.arrays["input_ids"].shape for part in batch.parts]
    assert widths == [(4, 16), (1, 48), (1, 112), (1, 224), (1, 300)]
    assert [part.row_cost for part in batch.parts] == [16, 48, 112, 224, 300]
    told = answer(embedding, EMBEDS, payload(*texts))
    got = np.frombuffer(told.body, "<f4").reshape(-1, 4)[:, 0]
    assert got.tolist() == [length + 2 for length in lengths]
    assert told.tokens == sum(lengths) + 2 * len(lengths)


def test_many_texts_run_in_parts_of_bounded_size(embedding: Task) -> None:
    batch = embedding.read(payload(*["a b"] * 100, *["a " * 250] * 20), EMBEDS, Limits())
    sizes = [part.arrays["input_ids"].shape for part in batch.parts]
    assert sum(rows for rows, _ in sizes) == 120
    assert all(rows <= text.PART_ROWS and rows * n <= text.PART_TOKENS for rows, n in sizes)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 127, 128, 129, 192, 193])
def test_buckets(length: int) -> None:
    padded = text.bucket(length)
    assert length <= padded < length + (16 if length <= 128 else 32)
    assert padded % 16 == 0


def test_special_tokens_that_a_text_spells_are_words(embedding: Task) -> None:
    batch = embedding.read(payload("a [SEP] b"), EMBEDS, Limits())
    assert batch.arrays["input_ids"][0, :6].tolist() == [2, 4, 1, 5, 3, 0]


def test_token_ids_are_taken_as_they_are(embedding: Task) -> None:
    batch = embedding.read(payload((8, 7), "a"), EMBEDS, Limits())
    assert batch.parameters["order"] == [0, 1]
    assert batch.arrays["input_ids"][:, :3].tolist() == [[8, 7, 0], [2, 4, 3]]


def test_pairs_have_types(ranking: Task) -> None:
    batch = ranking.read(payload("b c", query="a"), RANKS, Limits())
    assert batch.arrays["input_ids"][0, :7].tolist() == [2, 4, 3, 5, 6, 3, 0]
    assert batch.arrays["token_type_ids"][0, :7].tolist() == [0, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("words", [299, 20_000, 2_000_000])
def test_a_text_too_long_is_refused_never_cut(embedding: Task, words: int) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\]") as caught:
        embedding.read(payload("a", "a " * words), EMBEDS, Limits())
    assert caught.value.param == "input"
    embedding.read(payload("a " * 298), EMBEDS, Limits())


def test_more_tokens_than_the_limit_are_refused(embedding: Task) -> None:
    with pytest.raises(PayloadTooLarge):
        embedding.read(payload("a b", "c"), EMBEDS, Limits(max_elements=6))


def test_a_cut_vector_has_length_one(embedding: Task) -> None:
    told = answer(embedding, EMBEDS, payload("a", dimensions=2))
    np.testing.assert_allclose(np.frombuffer(told.body, "<f4"), [0.5**0.5] * 2, rtol=1e-6)
    whole = answer(embedding, EMBEDS, payload("a", dimensions=4))
    assert np.frombuffer(whole.body, "<f4").tolist() == [3.0] * 4
    with pytest.raises(InvalidInput):
        embedding.read(payload("a", dimensions=5), EMBEDS, Limits())


def test_json_of_the_hugging_face_route(embedding: Task, ranking: Task) -> None:
    def ask(task: Task, signature: Signature, inputs: Any, width: int) -> Any:
        body = json.dumps({"inputs": inputs}).encode()
        return json.loads(answer(task, signature, Payload(media_type=JSON, body=body), width).body)

    assert ask(embedding, EMBEDS, "a b", 4) == [4.0] * 4
    assert ask(embedding, EMBEDS, ["a b"], 4) == [[4.0] * 4]
    similar = {"source_sentence": "a", "sentences": ["b", "c d e"]}
    assert ask(embedding, EMBEDS, similar, 4) == pytest.approx([1, 1])
    ranked = ask(ranking, RANKS, {"query": "a", "documents": ["b", "c d", ""]}, 1)
    assert [each["index"] for each in ranked] == [1, 0, 2]
    assert ranked[0]["score"] == pytest.approx(1 / (1 + np.exp(-6)))


def test_metrics(embedding: Task, ranking: Task) -> None:
    rows = np.array([[1.0, 0, 0, 0], [0, 2, 0, 0]], np.float32)
    assert embedding.metrics({"embedding": rows}, rows * 3, EMBEDS) == {"cosine": 1.0}
    scores = {"logits": np.array([[0.1], [3.0], [0.2]], np.float32)}
    assert ranking.metrics(scores, np.array([0, 1, 0]), RANKS) == {"ndcg": 1.0}
    assert ranking.metrics(scores, np.array([1, 0, 0]), RANKS)["ndcg"] == pytest.approx(0.5)
    assert np.isfinite(unit(np.zeros((1, 4), np.float32))).all()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": {"type": "Nothing"}}'])
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InvalidInput, match="tokenizer"):
        tasks.get("embedding").bind(tmp_path)


def test_token_tensors_are_held_to_the_models_bounds(embedding: Task) -> None:
    def ask(ids: list[list[int]], mask: list[list[int]]) -> None:
        tensors = [
            {"name": name, "shape": np.shape(v), "datatype": "INT64", "data": np.ravel(v).tolist()}
            for name, v in (("input_ids", ids), ("attention_mask", mask))
        ]
        body = json.dumps({"inputs": tensors}).encode()
        embedding.read(Payload(media_type=TENSORS, body=body), EMBEDS, Limits())

    ask([[2, 4, 3]], [[1, 1, 1]])
    for ids, mask in (
        ([[2, 9, 3]], [[1, 1, 1]]),
        ([[2, -1, 3]], [[1, 1, 1]]),
        ([[2, 4, 3]], [[1, 1]]),
        ([[2, 4, 3]], [[1, 1, 2]]),
        ([[2, 4], [2, 4]], [[1, 1], [0, 0]]),
        ([[2] * 301], [[1] * 301]),
    ):
        with pytest.raises(InvalidInput):
            ask(ids, mask)
