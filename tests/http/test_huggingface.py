"""Hugging Face's door: text generation by its own client, tasks by name, JSON by its looks."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmaas.generation_types import GenerateRequest
from lmaas.http.body import decode
from lmaas.http.huggingface import media_type_of
from lmaas.http.huggingface_text import _decoder, to_request
from lmaas.types import GENERATE, JSON, TENSORS, TEXTS
from servers import Running, png

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def client_of(server: Running, model: str) -> Any:
    from huggingface_hub import InferenceClient

    return InferenceClient(model=f"{server.url}/models/{model}", token=server.call_key)


def request_of(stream: bool = False, **parameters: Any) -> GenerateRequest:
    body = {"inputs": "hello", "parameters": parameters, "stream": stream}
    return to_request(decode(json.dumps(body).encode(), _decoder))


def test_the_stock_client_generates_text(language: Running) -> None:
    client = client_of(language, "tiny")
    text = client.text_generation("hello world", max_new_tokens=8)
    assert text
    assert client.text_generation("hello world", max_new_tokens=8) == text
    assert "".join(client.text_generation("hello world", max_new_tokens=8, stream=True)) == text
    plain = {"model": "tiny", "prompt": "hello world", "max_tokens": 8, "temperature": 0}
    url = f"{language.url}/v1/completions"
    other = httpx.post(url, json=plain, headers=language.caller).json()
    assert other["choices"][0]["text"] == text
    full = client.text_generation("hello world", max_new_tokens=8, return_full_text=True)
    assert full == "hello world" + text
    stop = text[2:4]
    cut = client.text_generation("hello world", max_new_tokens=8, stop=[stop], details=True)
    assert cut.generated_text == text[: text.index(stop)]
    assert cut.details.finish_reason == "stop_sequence"
    formed = client.text_generation(
        "hello", max_new_tokens=60, grammar={"type": "json", "value": SCHEMA}, seed=1
    )
    assert json.loads(formed)["city"] in ("Paris", "Rome")


def test_the_stock_client_gets_details(language: Running) -> None:
    client = client_of(language, "tiny")
    asked = {"max_new_tokens": 6, "details": True, "do_sample": True, "seed": 4}
    whole = client.text_generation("hello world", **asked)
    assert whole.details.generated_tokens == len(whole.details.tokens) == 6
    assert (whole.details.finish_reason, whole.details.seed) == ("length", 4)
    assert all(token.logprob <= 0 for token in whole.details.tokens)
    pieces = list(client.text_generation("hello world", stream=True, **asked))
    assert "".join(piece.token.text for piece in pieces) == whole.generated_text
    assert [piece.token.id for piece in pieces[:-1]] == [t.id for t in whole.details.tokens]
    last = pieces[-1]
    assert last.generated_text == whole.generated_text
    assert (last.details.finish_reason, last.details.generated_tokens) == ("length", 6)
    assert last.details.input_length > 0


def test_what_is_asked_of_a_text_is_understood() -> None:
    assert request_of().sampling.temperature == 0
    assert request_of().sampling.max_tokens == 100
    assert request_of(do_sample=True).sampling.temperature == 1
    assert request_of(temperature=0.5).sampling.temperature == 0.5
    assert request_of(temperature=0.5, do_sample=False).sampling.temperature == 0
    assert request_of(top_k=3, top_p=0.5).sampling.top_k == 3
    assert request_of(top_n_tokens=2, details=True).sampling.logprobs == 2
    assert request_of(decoder_input_details=True, details=True).prompt_logprobs == 0
    assert request_of(stream=True).sampling.logprobs == 0


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"watermark": True}, "watermark"),
        ({"truncate": 5}, "truncate"),
        ({"adapter_id": "a"}, "adapter_id"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"grammar": {"type": "regex", "value": "a+"}}, "grammar"),
        ({"candidate_labels": ["a"]}, "candidate_labels"),
    ],
)
def test_the_stock_client_reads_what_is_refused(
    language: Running, parameters: dict[str, Any], told: str
) -> None:
    body = {"inputs": "hello", "parameters": parameters}
    answer = httpx.post(f"{language.url}/models/tiny", json=body, headers=language.caller)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "validation")
    assert told in answer.json()["error"]
    assert "text-generation" in answer.json()["error"]


def test_its_exceptions_are_the_stock_clients(language: Running) -> None:
    from huggingface_hub.errors import ValidationError

    with pytest.raises(ValidationError, match="watermark"):
        client_of(language, "tiny").text_generation("hello", watermark=True)


def test_the_stock_client_classifies_images(server: Running, tmp_path: Path) -> None:
    client = client_of(server, "digits")
    file = tmp_path / "digit.png"
    file.write_bytes(png())
    raw = client.image_classification(png())
    assert len(raw) == 5
    assert client.image_classification(file) == raw, "sent with a media type"
    assert client.image_classification(png(), top_k=2) == raw[:2], "sent as base64 in JSON"
    assert client.image_classification(png(), function_to_apply="softmax") == raw
    logits = client.image_classification(png(), top_k=10, function_to_apply="none")
    assert [label.label for label in logits][:5] == [label.label for label in raw]
    total = sum(math.exp(label.score) for label in logits)
    for label, logit in zip(raw, logits, strict=False):
        assert label.score == pytest.approx(math.exp(logit.score) / total, rel=1e-4)


@pytest.mark.parametrize(
    "kind",
    [None, "image/png", "application/json", "audio/wav", "application/octet-stream", "no type",
     TEXTS, GENERATE, TENSORS],
)  # fmt: skip
def test_bytes_are_what_the_task_takes(server: Running, kind: str | None) -> None:
    headers = {**server.caller, **({"content-type": kind} if kind else {})}
    url = f"{server.url}/models/digits"
    answer = httpx.post(url, content=png(), headers=headers)
    assert answer.status_code == 200, answer.text
    audio = httpx.post(url, content=b"fLaC" + bytes(40), headers=headers)
    assert (audio.status_code, audio.json()["error_type"]) == (400, "validation")
    assert "not an image" in audio.json()["error"]
    assert "audio/flac (44 bytes)" in audio.json()["error"]
    call = json.dumps({"inputs": base64.b64encode(png()).decode()}).encode()
    assert httpx.post(url, content=call, headers=headers).json() == answer.json()


@pytest.mark.parametrize("kind", [None, "image/png", "application/json", GENERATE])
def test_a_model_of_text_names_the_file_that_came(language: Running, kind: str | None) -> None:
    headers = {**language.caller, **({"content-type": kind} if kind else {})}
    answer = httpx.post(f"{language.url}/models/tiny", content=png(), headers=headers)
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert "takes text as JSON; received image/png" in told
    assert "text-generation" in told


@pytest.mark.parametrize(
    ("said", "body", "expected"),
    [
        (b"application/json; charset=utf-8", b"{}", JSON),
        (b"image/png", b" [1]", JSON),
        (b"application/json", b"nonsense", JSON),
        (b"application/json", png(), "image/png"),
        (b"Audio/L16; rate=16000", b"\0\1", "audio/l16"),
        (b"", b"\0\1", None),
        (b"a b/c", b"\0\1", None),
        (b"\xff/\xfe", b"\0\1", None),
        (b"a/" + b"b" * 128, b"\0\1", None),
        (TEXTS.encode(), b"\x81", None),
    ],
)
def test_the_media_type_of_a_body(said: bytes, body: bytes, expected: str | None) -> None:
    assert media_type_of({b"content-type": said} if said else {}, body) == expected


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_json_is_json_without_a_type(server: Running, kind: str | None) -> None:
    headers = {**server.caller, **({"content-type": kind} if kind else {})}
    body = json.dumps({"inputs": [0.5] * 784, "parameters": None}).encode()
    answer = httpx.post(f"{server.url}/models/digits", content=b" \n" + body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == 5
    assert httpx.post(f"{server.url}/models/digits", content=png(), headers=headers).is_success


@pytest.mark.parametrize(
    ("task", "status"),
    [("image-classification", 200), ("feature-extraction", 400), ("nothing", 400)],
)
def test_a_task_that_the_model_has_not_is_refused(server: Running, task: str, status: int) -> None:
    url = f"{server.url}/models/digits/pipeline/{task}"
    answer = httpx.post(url, content=png(), headers=server.caller)
    assert answer.status_code == status
    if status == 400:
        assert "is a model for image-classification" in answer.json()["error"]
    wrong = httpx.post(
        url, json={"inputs": {"question": "?", "context": "."}}, headers=server.caller
    )
    assert wrong.status_code == 400
    assert "image-classification" in wrong.json()["error"]
