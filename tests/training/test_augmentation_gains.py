"""On small data, what augmentation is for: accuracy on held-out samples rises."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmaas.data.augmentation import generator
from lmaas.data.augmentation.audio import AudioAugmenter
from lmaas.job import RESULT_FOLDER
from lmaas.recipe import TrainingFramework, Transform, recipe_of
from lmaas.training import run
from training_kit import FRAMEWORKS

RATE, LENGTH = 8000, 2400
TURNED = [
    {"name": "rotate", "options": {"degrees": 12}},
    {"name": "crop", "options": {"padding": 1}},
]
OTHER_WORDS = {"good": ["great", "lovely", "superb"], "bad": ["awful", "poor", "dreadful"]}


def accuracy(folder: Path, **recipe: Any) -> float:
    """Of a run's model on the test file."""
    folder.mkdir()
    assert run.run(recipe_of({"name": "gain", **recipe}), folder, None, lambda _: None)
    manifest = json.loads((folder / RESULT_FOLDER / "manifest.json").read_bytes())
    return float(manifest["metrics"]["test_accuracy"])


def digits(path: Path, first: int, after: int) -> str:
    """scikit-learn's digits, each laid down a little askew."""
    from sklearn.datasets import load_digits

    data, random = load_digits(), np.random.default_rng(first)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(first, after):
            image = Image.fromarray((data.images[number] * 15.9).astype(np.uint8))
            moved = tuple(random.integers(-1, 2, 2).tolist())
            file = io.BytesIO()
            image.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR, translate=moved).save(
                file, "PNG"
            )
            archive.writestr(f"{data.target[number]}/{number}.png", file.getvalue())
    return str(path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_images(framework: TrainingFramework, tmp_path: Path) -> None:
    data = {
        "train": digits(tmp_path / "learned.zip", 0, 200),
        "test": digits(tmp_path / "held.zip", 1000, 1400),
        "validation": 0.0,
    }
    given: dict[str, Any] = {
        "task": "image-classification",
        "framework": framework,
        "model": {"architecture": "mlp"},
        "data": data,
        "epochs": 40,
        "batch_size": 16,
        "optimizer": {"learning_rate": 0.003},
    }
    plain = accuracy(tmp_path / "plain", **given)
    assert accuracy(tmp_path / "augmented", augmentation=TURNED, **given) > plain + 0.03, plain


def reviews(path: Path, words: dict[str, list[str]]) -> str:
    """Short reviews that only one word tells apart."""
    things = ("film", "book", "meal", "room", "song", "game")
    rows = [
        {"text": f"this {thing} was {word} to me", "label": label}
        for thing in things
        for label, some in words.items()
        for word in some
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_texts(framework: TrainingFramework, tmp_path: Path) -> None:
    data = {
        "train": reviews(tmp_path / "learned.jsonl", {"good": ["good"], "bad": ["bad"]}),
        "test": reviews(tmp_path / "held.jsonl", OTHER_WORDS),
        "validation": 0.0,
    }
    given: dict[str, Any] = {
        "task": "text-classification",
        "framework": framework,
        "model": {"architecture": "bag"},
        "data": data,
        "epochs": 40,
        "batch_size": 12,
        "optimizer": {"learning_rate": 0.01},
    }
    synonyms = {"name": "synonym", "options": {"synonyms": OTHER_WORDS, "share": 0.8}}
    plain = accuracy(tmp_path / "plain", **given)
    assert accuracy(tmp_path / "augmented", augmentation=[synonyms], **given) > plain + 0.2, plain


def chirp(rises: bool, random: np.random.Generator) -> np.ndarray:
    """A tone that rises or falls for a third of the time, of no certain height."""
    begin = random.uniform(500, 900)
    sweep = np.linspace(begin, begin * 2, LENGTH // 3)
    tone = np.sin(2 * np.pi * np.cumsum(sweep if rises else sweep[::-1]) / RATE)
    sound = np.zeros(LENGTH, np.float32)
    sound[LENGTH // 3 : LENGTH // 3 + len(tone)] = 0.3 * tone
    return sound


def spectrum(sound: np.ndarray) -> np.ndarray:
    """The log spectrogram, (frames, bands)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 256)[::128] * np.hanning(256)
    return np.log(np.abs(np.fft.rfft(frames))[:, :64] + 1e-2).astype(np.float32)


def test_sounds() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    learned = [chirp(bool(number % 2), random) for number in range(12)]
    held = [chirp(bool(number % 2), random) for number in range(200)]
    moved = [
        Transform(name="shift", options={"share": 0.3}),
        Transform(name="gain"),
        Transform(name="noise", options={"least_db": 5.0, "most_db": 20.0}),
    ]
    outside = AudioAugmenter(moved)
    heard = [spectrum(outside.sound(s, generator(7, 0, i))) for i, s in enumerate(held)]
    augmenter = AudioAugmenter([*moved, Transform(name="specaugment")])
    accuracies = []
    for epochs in (0, 30):
        rows = [(spectrum(sound), i % 2) for i, sound in enumerate(learned)]
        for epoch in range(epochs):
            for index, sound in enumerate(learned):
                drawn = generator(0, epoch, index)
                changed = spectrum(augmenter.sound(sound, drawn))
                rows.append((augmenter.spectrogram(changed, drawn), index % 2))
        model = LogisticRegression(C=0.01, max_iter=2000)
        model.fit([row.ravel() for row, _ in rows], [label for _, label in rows])
        told = model.predict([row.ravel() for row in heard])
        accuracies.append(float((told == np.arange(200) % 2).mean()))
    assert accuracies[1] > accuracies[0] + 0.05, accuracies
