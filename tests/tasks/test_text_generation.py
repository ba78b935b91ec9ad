"""A language model has no part in the calls of arrays, and such a call costs it nothing."""

from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch
from lmaas.tasks.text_generation.serving import TASK
from lmaas.types import JSON, LanguageSpec, Payload, Signature, TensorSpec
from servers import Running

SPEC = LanguageSpec(architecture="A", context_length=8, vocabulary_size=5)
SIGNATURE = Signature(inputs=(), outputs=(), language=SPEC)


def test_a_signature_has_language_and_nothing_else() -> None:
    assert TASK.check_signature(SIGNATURE) == SIGNATURE
    with pytest.raises(InvalidInput, match=r"needs signature\.language"):
        TASK.check_signature(Signature(inputs=(), outputs=()))
    tensor = TensorSpec(name="x", dtype="float32", shape=(-1,))
    for field, value in (("inputs", (tensor,)), ("labels", ("a",)), ("outputs_are", "logits")):
        with pytest.raises(InvalidInput, match=f"takes no {field}"):
            TASK.check_signature(msgspec.structs.replace(SIGNATURE, **{field: value}))


def test_arrays_are_refused() -> None:
    task = TASK.bind(Path())
    with pytest.raises(InvalidInput, match="language model"):
        task.read(Payload(media_type=JSON, body=b"{}"), SIGNATURE, Limits())
    with pytest.raises(InvalidInput, match="language model"):
        task.write({}, Batch(arrays={}, size=1), SIGNATURE, "m:1")


def test_perplexity_of_a_uniform_model_is_its_vocabulary() -> None:
    logprobs = np.full((2, 3, 5), -np.log(5.0))
    metrics = TASK.metrics({"logprobs": logprobs}, np.zeros((2, 3), np.int64), SIGNATURE)
    assert metrics == {"perplexity": pytest.approx(5.0)}


def worker(language: Running) -> int | None:
    """The process that holds the model, if it is loaded."""
    for status in httpx.get(f"{language.url}/api/workers", headers=language.admin).json():
        if status["model"] == "tiny:1":
            return int(status["pid"])
    return None


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("/models/tiny", b'{"inputs": [1, 2]}', "inputs"),
        ("/models/tiny", b"\xff\xd8", "received image/jpeg"),
        ("/v2/models/tiny/infer", b'{"inputs": []}', "not called this way"),
    ],
)
def test_a_call_of_arrays_is_refused_and_the_worker_lives(
    language: Running, path: str, content: bytes, told: str
) -> None:
    before = worker(language)
    kind = {"content-type": "application/json" if content[:1] == b"{" else "image/jpeg"}
    answer = httpx.post(language.url + path, headers=language.admin | kind, content=content)
    assert answer.status_code == 400
    assert told in answer.text
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    chat = httpx.post(
        f"{language.url}/v1/chat/completions", headers=language.admin, json=body, timeout=60
    )
    assert chat.status_code == 200
    assert before in (None, worker(language))
