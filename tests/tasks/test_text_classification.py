import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import word_tokenizer
from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput
from lmaas.types import JSON, LanguageSpec, Payload, Signature, TensorSpec

LENGTH = 6
SIGNATURE = Signature(
    inputs=tuple(
        TensorSpec(name=name, dtype="int64", shape=(-1, LENGTH))
        for name in ("input_ids", "attention_mask")
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
    labels=("bad", "fair", "good"),
    outputs_are="logits",
    language=LanguageSpec(architecture="bag", context_length=LENGTH, vocabulary_size=9),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_tokenizer(tmp_path_factory.mktemp("words"))


def ask(folder: Path, inputs: Any, **parameters: Any) -> Any:
    task = tasks.get("text-classification").bind(folder)
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    batch = task.read(Payload(media_type=JSON, body=body), SIGNATURE, Limits())
    logits = np.tile(np.array([[0, 2, 1]], np.float32), (batch.size, 1))
    return batch, json.loads(task.write({"y": logits}, batch, SIGNATURE, "m:1").body)


def test_one_text_and_several_have_the_hugging_face_shape(folder: Path) -> None:
    batch, answer = ask(folder, "a b")
    assert batch.arrays["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert batch.parameters["tokens"] == 4
    assert [each["label"] for each in answer[0]] == ["fair", "good", "bad"]
    assert sum(each["score"] for each in answer[0]) == pytest.approx(1)
    batch, answer = ask(folder, ["a b", "c"], top_k=1)
    assert batch.arrays["input_ids"].shape == (2, LENGTH)
    assert [len(each) for each in answer] == [1, 1]


def test_a_long_text_is_refused_and_cut_only_when_asked(folder: Path) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"inputs\[1\] has 7 tokens; .* at most 6"):
        ask(folder, ["a", "a b c a b"])
    batch, _ = ask(folder, ["a b c a b", "a " * 100_000], truncation=True)
    assert batch.arrays["attention_mask"].all()


def test_a_function_is_applied_to_the_logits(folder: Path) -> None:
    raw = {
        each["label"]: each["score"] for each in ask(folder, "a", function_to_apply="none")[1][0]
    }
    assert raw == {"bad": 0, "fair": 2, "good": 1}
    (told,) = ask(folder, "a", function_to_apply="sigmoid")[1]
    assert told[0]["score"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert ask(folder, "a", function_to_apply="softmax")[1] == ask(folder, "a")[1]


@pytest.mark.parametrize(
    "parameters", [{"top_k": 0}, {"topk": 1}, {"truncation": "yes"}, {"function_to_apply": "tanh"}]
)
def test_bad_parameters_are_refused(folder: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ask(folder, "a", **parameters)


def test_tokens_can_be_counted_without_running_the_model(folder: Path) -> None:
    task = tasks.get("text-classification").bind(folder)
    payload = Payload(media_type=JSON, body=b'{"inputs": ["a b", "c"]}', count_only=True)
    batch = task.read(payload, SIGNATURE, Limits())
    assert (batch.size, batch.arrays) == (0, {})
    assert task.write({}, batch, SIGNATURE, "m:1").tokens == 7
