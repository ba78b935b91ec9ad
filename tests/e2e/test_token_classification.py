"""A BERT that labels tokens on a real server, answering as transformers' pipeline does."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from checkpoints import make_encoder
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "hello World, how are you 你好 today? I am fine",
    "a",
]
TAGS = ("O", "B-ANIMAL", "I-ANIMAL", "B-MOOD", "I-MOOD")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("tagger"), tags=TAGS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with closing(Service(Settings(home=str(home)))) as service:
        version = asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="tagger")))
        assert version.manifest.task == "token-classification"
        assert version.manifest.signature.labels == TAGS
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def pipeline(source: Path) -> Any:
    from transformers import pipeline

    return pipeline("token-classification", model=str(source), device="cpu")


def ask(server: Running, inputs: Any, **parameters: Any) -> Any:
    answer = httpx.post(
        f"{server.url}/models/tagger",
        json={"inputs": inputs, "parameters": parameters},
        headers=server.caller,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(told: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [{**each, "score": 0} for each in told] == [{**each, "score": 0} for each in expected]
    for each, other in zip(told, expected, strict=True):
        assert each["score"] == pytest.approx(float(other["score"]), abs=1e-2)


@pytest.mark.parametrize("strategy", [None, "none", "simple"])
@pytest.mark.parametrize("ignored", [None, [], ["O", "ANIMAL", "B-MOOD"]])
def test_answers_are_those_of_the_pipeline(
    server: Running, pipeline: Any, strategy: str | None, ignored: list[str] | None
) -> None:
    given = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    expected = [
        pipeline(text, **{n: v for n, v in given.items() if v is not None}) for text in TEXTS
    ]
    assert any(expected)
    for told, wanted in zip(ask(server, TEXTS, **given), expected, strict=True):
        same(told, wanted)
    same(ask(server, TEXTS[0], **given), expected[0])


def test_many_labels_to_leave_out_hold_nobody_up(server: Running) -> None:
    told = ask(server, ["a dog"] * 64, ignore_labels=["x"] * 3_000_000)
    assert len(told) == 64


def test_the_stock_client_reads_the_answer(server: Running, pipeline: Any) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{server.url}/models/tagger", token=server.call_key)
    plain = client.token_classification(TEXTS[0])
    assert [(e.entity, e.word, e.start, e.end) for e in plain] == [
        (e["entity"], e["word"], e["start"], e["end"]) for e in pipeline(TEXTS[0])
    ]
    groups = client.token_classification(TEXTS[0], aggregation_strategy="simple")
    assert [(e.entity_group, e.word) for e in groups] == [
        (e["entity_group"], e["word"]) for e in pipeline(TEXTS[0], aggregation_strategy="simple")
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"inputs": "a", "parameters": {"aggregation_strategy": "max"}}, "aggregation_strategy"),
        ({"inputs": "a", "parameters": {"stride": 2}}, "stride"),
        ({"inputs": "a dog " * 100}, "tokens; the model takes at most 128"),
        ({"inputs": ["a", 1]}, "inputs[1]"),
    ],
)
def test_what_is_not_served_is_refused_by_name(server: Running, body: Any, told: str) -> None:
    answer = httpx.post(f"{server.url}/models/tagger", json=body, headers=server.caller)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
