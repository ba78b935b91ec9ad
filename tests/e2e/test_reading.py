"""BERTs that judge and find on a real server: labels that nobody trained on, and answers."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from checkpoints import make_encoder
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving

RELATIONS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
TEXTS = ["the quick brown fox jumps.", "hello World, how are you 你好 today?"]
LABELS = ["animals", "a greeting", "weather", "x"]
CONTEXT = "The quick brown fox jumps over the lazy dog. Hello, World! 你好 I am fine."
QUESTIONS = ["who jumps?", "how are you", "what"]


class Sources(NamedTuple):
    """The checkpoints."""

    judge: Path
    finder: Path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    return Sources(
        make_encoder(folder / "judge", relations=RELATIONS),
        make_encoder(folder / "finder", finds=True),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with closing(Service(Settings(home=str(home)))) as service:
        for name, task in (
            ("judge", "zero-shot-classification"), ("finder", "question-answering"),
        ):  # fmt: skip
            push = service.catalog.push(TENANT, getattr(sources, name), PushOptions(name=name))
            assert asyncio.run(push).manifest.task == task
    with serving(home) as running:
        yield running


def ask(server: Running, model: str, inputs: Any, **parameters: Any) -> Any:
    answer = httpx.post(
        f"{server.url}/models/{model}",
        json={"inputs": inputs, "parameters": parameters},
        headers=server.caller,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("template", [None, "About {}, one thinks."])
@pytest.mark.parametrize("labels", [LABELS, ["alone"]])
def test_scores_are_those_of_the_pipeline(
    server: Running, sources: Sources, multi_label: bool, template: str | None, labels: list[str]
) -> None:
    from transformers import pipeline

    judge = pipeline("zero-shot-classification", model=str(sources.judge), device="cpu")
    more: dict[str, Any] = {} if template is None else {"hypothesis_template": template}
    expected = judge(TEXTS, candidate_labels=labels, multi_label=multi_label, **more)
    told = ask(server, "judge", TEXTS, candidate_labels=labels, multi_label=multi_label, **more)
    for answer, wanted in zip(told, expected, strict=True):
        assert [each["label"] for each in answer] == wanted["labels"]
        scores = [each["score"] for each in answer]
        assert scores == pytest.approx(wanted["scores"], abs=1e-4)
    one = ask(server, "judge", TEXTS[0], candidate_labels=",".join(labels),
              multi_label=multi_label, **more)  # fmt: skip
    assert one == told[0]


def best_answer(source: Path, question: str, most: int = 15) -> tuple[str, float]:
    """The likeliest part of the context, straight from the source's numbers."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(source).eval()
    tokens = AutoTokenizer.from_pretrained(source)(question, CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        told = model(**tokens)
    inside = np.array([place == 1 for place in tokens.sequence_ids()])
    inside[0] = True
    start, end = (
        torch.from_numpy(np.where(inside, each[0].numpy(), -1e4)).softmax(-1).numpy()
        for each in (told.start_logits, told.end_logits)
    )
    best = ("", 0.0)
    for first in range(1, len(start)):
        for last in range(first, min(len(end), first + most)):
            score = float(start[first] * end[last])
            if inside[first] and inside[last] and score > best[1]:
                begin = tokens.word_to_chars(tokens.token_to_word(first), sequence_index=1).start
                over = tokens.word_to_chars(tokens.token_to_word(last), sequence_index=1).end
                best = CONTEXT[begin:over], score
    return best


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_the_source_s(server: Running, sources: Sources, question: str) -> None:
    for most in (15, 2):
        told = ask(server, "finder", {"question": question, "context": CONTEXT},
                   max_answer_len=most)  # fmt: skip
        answer, score = best_answer(sources.finder, question, most)
        assert told["answer"] == answer == CONTEXT[told["start"] : told["end"]]
        assert told["score"] == pytest.approx(score, rel=1e-2)


def test_several_answers_and_none(server: Running) -> None:
    asked = {"question": QUESTIONS[0], "context": CONTEXT}
    three = ask(server, "finder", asked, top_k=3)
    assert len({(each["start"], each["end"]) for each in three}) == 3
    assert [each["score"] for each in three] == sorted(
        (each["score"] for each in three), reverse=True
    )
    assert three[0] == ask(server, "finder", asked)
    maybe = ask(server, "finder", asked, top_k=100, handle_impossible_answer=True)
    assert [each for each in maybe if not each["answer"]]
    both = ask(server, "finder", [asked, asked | {"question": QUESTIONS[1]}])
    assert both[0]["answer"] == three[0]["answer"]
    assert len(both) == 2


def test_the_stock_client_reads_the_answers(server: Running) -> None:
    from huggingface_hub import InferenceClient

    judge = InferenceClient(model=f"{server.url}/models/judge", token=server.call_key)
    labels = judge.zero_shot_classification(TEXTS[0], LABELS, multi_label=True)
    assert [each.label for each in labels] == [
        each["label"]
        for each in ask(server, "judge", TEXTS[0], candidate_labels=LABELS, multi_label=True)
    ]
    finder = InferenceClient(model=f"{server.url}/models/finder", token=server.call_key)
    answer = finder.question_answering(question=QUESTIONS[0], context=CONTEXT)
    assert not isinstance(answer, list)
    assert answer.answer == CONTEXT[answer.start : answer.end]
    several = finder.question_answering(question=QUESTIONS[0], context=CONTEXT, top_k=2)
    assert isinstance(several, list)
    assert len(several) == 2


BAD: list[tuple[str, Any, Any, str]] = [
    ("judge", "a", {}, "candidate_labels"),
    ("judge", "a", {"candidate_labels": []}, "candidate_labels"),
    ("judge", "a", {"candidate_labels": ["a", "a"]}, "each once"),
    ("judge", "a", {"candidate_labels": ["a", ""]}, "none empty"),
    ("judge", "a", {"candidate_labels": ["a"], "hypothesis_template": "no place"}, "{}"),
    ("judge", "a", {"candidate_labels": ["a"], "hypothesis_template": "{}{}"}, "{}"),
    ("judge", "a", {"candidate_labels": [str(n) for n in range(2049)]}, "2049 pairs"),
    ("judge", ["a", 1], {"candidate_labels": ["a"]}, "inputs[1]"),
    ("judge", "a dog " * 200, {"candidate_labels": ["a"]}, "at most 128"),
    ("judge", "a", {"candidate_labels": ["a"], "top_k": 1}, "top_k"),
    ("finder", "a text", {}, "Bad inputs"),
    ("finder", {"question": "a"}, {}, "context"),
    ("finder", {"question": "a", "context": " "}, {}, "context is empty"),
    ("finder", {"question": "a", "context": "a dog " * 200}, {}, "at most 128"),
    ("finder", {"question": "a", "context": "b"}, {"top_k": 0}, "top_k"),
    ("finder", {"question": "a", "context": "b"}, {"doc_stride": 4}, "doc_stride"),
    ("finder", [], {}, "not empty"),
]


@pytest.mark.parametrize(("model", "inputs", "parameters", "told"), BAD)
def test_what_is_not_served_is_refused_by_name(
    server: Running, model: str, inputs: Any, parameters: Any, told: str
) -> None:
    body = {"inputs": inputs, "parameters": parameters}
    answer = httpx.post(f"{server.url}/models/{model}", json=body, headers=server.caller)
    assert answer.status_code in (400, 413), answer.text
    assert told in answer.json()["error"]
