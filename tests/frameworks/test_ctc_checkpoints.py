"""wav2vec2's kin: the source's answers to sounds of any length, alone and beside others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sounds
from checkpoints import make_ctc
from lmaas import tasks
from lmaas.codecs import audio
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime import parity
from lmaas.runtime.engine import make_engine
from lmaas.tasks.automatic_speech_recognition import alphabet
from lmaas.types import Payload, PushOptions

KINDS = [("wav2vec2", "group"), ("wav2vec2", "layer"), ("hubert", "group"), ("wavlm", "layer")]


def sound(seconds: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(int(seconds * 16_000))).astype(np.float32)


def texts_of_transformers(folder: Path, sound: np.ndarray) -> str:
    """What transformers' own classes make of a sound alone."""
    import torch
    import transformers

    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    values = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        numbers = model(values).logits.argmax(-1)[0]
    # With skip_special_tokens it would take out blanks first, and join what they part.
    told: str = tokenizer.decode(numbers, skip_special_tokens=False)
    for special in ("<s>", "</s>", "<unk>"):
        told = told.replace(special, "")
    return " ".join(told.split())


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_a_checkpoint_is_served_as_transformers_runs_it(
    tmp_path: Path, kind: str, norm: str
) -> None:
    source = make_ctc(tmp_path / "checkpoint", kind, norm)
    manifest = checkpoint.build(source, tmp_path / "package", PushOptions(name="ears"))
    signature = manifest.signature
    report = parity.measure(tmp_path / "package", signature, manifest.task, manifest.engine)
    assert report.passed("f32"), report.checks
    assert [each.name for each in signature.inputs] == (
        ["input_values", "mask"] if norm == "layer" else ["input_values"]
    )
    served = tmp_path / "package" / "compiled"
    assert alphabet.read(served).pads is (norm == "layer")
    task, engine = tasks.get(manifest.task).bind(served), make_engine("openvino")
    engine.load(served, signature, "f32", 1)
    for seconds in (0.03, 0.4, 1.0, 2.3):
        given = sounds.wav(sound(seconds, 1))
        batch = task.read(Payload(body=given), signature, Limits())
        answer = task.write(engine.infer(batch.arrays), batch, signature, "ears:1")
        heard = audio.decode(given, 16_000, Limits())
        if seconds > 0.1:  # a shorter one is filled up
            assert json.loads(answer.body)["text"] == texts_of_transformers(source, heard)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_answer_does_not_depend_on_its_company(tmp_path: Path, norm: str) -> None:
    source = make_ctc(tmp_path / "checkpoint", "wav2vec2", norm)
    manifest = checkpoint.build(source, tmp_path / "package", PushOptions(name="ears"))
    signature, served = manifest.signature, tmp_path / "package" / "compiled"
    task, engine = tasks.get(manifest.task).bind(served), make_engine("openvino")
    engine.load(served, signature, "f32", 1)
    batches = [
        task.read(Payload(body=sounds.wav(sound(seconds, number))), signature, Limits())
        for number, seconds in enumerate((1.0, 1.0, 0.97))
    ]
    shapes = {batch.arrays["input_values"].shape for batch in batches}
    assert len(shapes) == (1 if norm == "layer" else 2)
    joined = [b for b in batches if b.arrays["input_values"].shape == (1, *max(shapes)[1:])]
    names = [each.name for each in signature.inputs]
    together = engine.infer({n: np.concatenate([b.arrays[n] for b in joined]) for n in names})
    for place, batch in enumerate(joined):
        alone = engine.infer(batch.arrays)["logits"][0]
        assert np.abs(together["logits"][place] - alone).max() < 1e-3
        rows = {"logits": together["logits"][place : place + 1]}
        own = task.write({"logits": alone[None]}, batch, signature, "ears:1")
        assert task.write(rows, batch, signature, "ears:1").body == own.body


def changed(folder: Path, name: str, **more: Any) -> None:
    told = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(told | more))


BROKEN: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "no alphabet": ("vocab.json", None, "no vocab.json"),
    "no sample rate": ("preprocessor_config.json", None, "no preprocessor_config.json"),
    "two languages": ("vocab.json", {"eng": {"a": 1}}, "several languages"),
    "a number too high": ("vocab.json", {"Z": 99}, "number of its own below 15"),
    "a spectrogram": (
        "preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"},
        "models that read samples",
    ),
    "a rate of 0": ("preprocessor_config.json", {"sampling_rate": 0}, "sampling_rate"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, name: str) -> None:
    file, more, told = BROKEN[name]
    source = make_ctc(tmp_path / "checkpoint", "wav2vec2", "group")
    if more is None:
        (source / file).unlink()
    else:
        changed(source, file, **more)
    with pytest.raises((ModelRefused, InvalidInput), match=told):
        checkpoint.build(source, tmp_path / "package", PushOptions(name="ears"))
