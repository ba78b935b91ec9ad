"""Speech is learned from folders of sound: what goes in, what is refused, and with which words."""

import importlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import sounds
from lmaas.errors import InvalidInput
from lmaas.frameworks import get
from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.tasks.architectures import Shape
from lmaas.tasks.automatic_speech_recognition import alphabet as alphabets
from lmaas.tasks.automatic_speech_recognition.options import ConvCtc, SpeechDataOptions
from lmaas.tasks.automatic_speech_recognition.training import transcripts
from lmaas.tasks.automatic_speech_recognition.training.problem import SpeechRecognition, filled_up
from lmaas.training import run as runs
from lmaas.training.base import Lengthy
from lmaas.types import Manifest

SMALL = {"width": 24, "depth": 2, "kernel": 5}
FRAMEWORKS: list[TrainingFramework] = ["pytorch", "keras", "tensorflow"]


def folder(path: Path, *rows: tuple[bytes, str]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    with (path / "metadata.jsonl").open("w") as lines:
        for number, (sound, text) in enumerate(rows):
            (path / f"{number}.wav").write_bytes(sound)
            lines.write(json.dumps({"file_name": f"{number}.wav", "text": text}) + "\n")
    return path


def words(count: int = 12, seconds: float = 0.6) -> list[tuple[bytes, str]]:
    """Low and high tones of several lengths, and what they are called."""
    return [
        (
            sounds.wav(sounds.tone(seconds + 0.07 * (number % 5), 300 * (1 + number % 2))),
            ("Low", "high!")[number % 2],
        )
        for number in range(count)
    ]


def recipe(train: Path, framework: TrainingFramework = "pytorch", **more: Any) -> Recipe:
    given: dict[str, Any] = {
        "name": "ears",
        "task": "automatic-speech-recognition",
        "framework": framework,
        "data": {"train": str(train)},
        "model": {"options": SMALL},
        "batch_size": 4,
        "epochs": 2,
        "early_stopping": None,
    }
    return recipe_of(given | more)


def opened(tmp_path: Path, *rows: tuple[bytes, str], **more: Any) -> SpeechRecognition:
    given = recipe(folder(tmp_path / "data", *rows), **more)
    return SpeechRecognition(given, tmp_path / "job", None)


def test_texts_are_normalised_and_letters_learned(tmp_path: Path) -> None:
    problem = opened(tmp_path, *words())
    assert problem.alphabet.tokens == ("<blank>", " ", *sorted(set("lowhigh")))
    assert (problem.alphabet.blank, problem.alphabet.delimiter) == (0, 1)
    assert problem.facts()["normaliser"].startswith("lower case, NFC")
    feed = problem.feed("train", np.arange(3), epoch=None)
    assert feed.inputs["features"].shape[0] == feed.size == feed.weight == 3
    assert (feed.inputs["mask"].sum(1) > 50).all()
    frames = feed.inputs["mask"].sum(1)
    assert feed.targets["lengths"].tolist() == (((frames + 1) // 2 + 1) // 2).tolist()


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("  Don’t stop—NOW! ", {}, "don’t stop now"),
        ("Don't Stop", {"case": "keep"}, "Don't Stop"),
        ("a, b", {"punctuation": "keep"}, "a, b"),
        ("Cafe\u0301", {}, "café"),
    ],
)
def test_how_texts_are_normalised(text: str, options: dict[str, Any], wanted: str) -> None:
    given = msgspec.convert(options, SpeechDataOptions)
    assert transcripts.normalised(text, given) == wanted


SILENT = sounds.wav(np.zeros(8_000, np.float32))
LONG = "a sentence that nobody says in half a second"
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "silence": (SILENT, "low", r"line 13, 12\.wav: The sound is silent"),
    "no samples": (sounds.wav(np.zeros(0, np.float32)), "low", r"line 13, 12\.wav: .*no samples"),
    "no sound": (b"hello", "low", r"line 13, 12\.wav: .*not a sound"),
    "no text": (words()[0][0], " ", "line 13: 'text' must be a text"),
    "nothing but marks": (words()[0][0], "!?", "line 13: nothing is left of the text"),
    "a text that does not fit": (words()[0][0], LONG, r"line 13: .*44 letters take 44 steps"),
    "a sound that is too long": (
        sounds.wav(sounds.tone(2.5)), "low", r"line 13, 12\.wav: .*2 s are decoded"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_do_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    sound, text, wanted = REFUSED[name]
    data = folder(tmp_path / "data", *words(), (sound, text))
    given = recipe(data, data={"train": str(data), "options": {"longest_s": 2}})
    with pytest.raises(InvalidInput, match=wanted) as caught:
        SpeechRecognition(given, tmp_path / "job", None)
    assert caught.value.param == "data"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", *words())
    (data / "3.wav").unlink()
    with pytest.raises(InvalidInput, match=r"line 4, 3\.wav: .*no file"):
        SpeechRecognition(recipe(data), tmp_path / "job", None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augmentation": [{"name": "flip"}]}, "Unknown augmentation"),
        ({"model": {"options": {"kernel": 4}}}, "even"),
        ({"adapter": {"rank": 4}}, "adapter"),
    ],
)
def test_options_that_do_not_do(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        opened(tmp_path, *words(), **more)


def test_lengths_are_told_so_that_like_ones_come_together(tmp_path: Path) -> None:
    problem = opened(tmp_path, *words())
    assert isinstance(problem, Lengthy)
    rows = np.arange(problem.size("train"))
    frames = problem.feed("train", rows, epoch=None).inputs["mask"].sum(1)
    assert np.array_equal(problem.lengths(), frames)


def test_augmentation_changes_training_alone_and_alike_each_time(tmp_path: Path) -> None:
    steps = [{"name": "noise", "options": {"least_db": 5, "most_db": 5}}, {"name": "specaugment"}]
    problem = opened(tmp_path, *words(), augmentation=steps)
    rows = np.arange(4)
    plain = problem.feed("train", rows, epoch=None).inputs["features"]
    first = problem.feed("train", rows, epoch=0).inputs["features"]
    assert not np.allclose(plain, first)
    assert np.array_equal(first, problem.feed("train", rows, epoch=0).inputs["features"])
    assert not np.array_equal(first, problem.feed("train", rows, epoch=1).inputs["features"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_filling_up_changes_nothing(framework: TrainingFramework) -> None:
    home = "lmaas.tasks.automatic_speech_recognition.training"
    options = msgspec.convert(SMALL, ConvCtc)
    model = importlib.import_module(f"{home}.{framework}").build(options, 8, 6, 3)
    random = np.random.default_rng(0)
    spectra = [random.standard_normal((n, 8)).astype(np.float32) for n in (13, 30, 63, 64)]
    together = get(framework).run(model, filled_up(spectra))
    (rows,) = together.values()
    halves = (alphabets.Convolution(kernel=3, stride=2, padding=1),) * 2
    steps = alphabets.Alphabet(tokens=("",), convolutions=halves).steps
    for row, spectrum in zip(rows, spectra, strict=True):
        mask = np.ones((1, len(spectrum)), np.int64)
        (alone,) = get(framework).run(model, {"features": spectrum[None], "mask": mask}).values()
        assert alone.shape == (1, steps(len(spectrum)), 6)
        assert np.abs(row[: alone.shape[1]] - alone[0]).max() < 1e-5
    parameters = get(framework).num_parameters(model)
    assert parameters == options.parameters(Shape(outputs=6, channels=8))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_from_sounds_to_a_package_and_on_from_there(
    tmp_path: Path, framework: TrainingFramework
) -> None:
    data = folder(tmp_path / "data", *words(16))
    job = tmp_path / "job"
    given = recipe(data, framework, data={"train": str(data), "validation": 0.25})
    assert runs.run(given, job, None, lambda _: None)
    manifest = msgspec.json.decode((job / "result" / "manifest.json").read_bytes(), type=Manifest)
    assert manifest.engine == "openvino", manifest.engine_reason
    assert {"valid_wer", "valid_cer", "valid_loss"} <= manifest.metrics.keys()
    assert manifest.signature.audio is not None
    assert "lower case, NFC" in manifest.card.replace("\\", "")
    learned = alphabets.read(job / "result" / "compiled")
    assert learned.pads
    if framework != "pytorch":
        return
    # Going on, the letters are those of the base.
    more = recipe(data, framework, model={"base": "ears:1"})
    problem = SpeechRecognition(more, tmp_path / "more", job / "result")
    assert problem.alphabet == learned
    (weight,) = problem.build(framework).state_dict()["head.weight"][:1]
    assert weight.shape == (24,)
    unknown = folder(tmp_path / "unknown", *words(), (words()[0][0], "zoo"))
    with pytest.raises(InvalidInput, match=r"line 13: the text has 'z', which the model has not"):
        SpeechRecognition(recipe(unknown, model={"base": "ears:1"}), tmp_path / "m", job / "result")
