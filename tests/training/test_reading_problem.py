"""Readers learned from scratch: what is learned, what is measured, what is served."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from lmaas import tasks
from lmaas.data.augmentation.line import STEPS, LineAugmenter
from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework, Transform, recipe_of
from lmaas.tasks.architectures import Shape
from lmaas.tasks.optical_character_recognition.options import CnnCtc, ReadingDataOptions
from lmaas.tasks.optical_character_recognition.training import written
from lmaas.tasks.optical_character_recognition.training.problem import (
    CharacterReading,
    open_problem,
)
from lmaas.training.base import IGNORED
from lmaas.types import Payload
from training_kit import FRAMEWORKS, served, verified
from training_kit import run as run_recipe

SMALL = {"widths": [8, 16, 16, 16], "width": 16, "depth": 1}
LETTERS = "AV0"


def line(text: str, random: np.random.Generator) -> Image.Image:
    """Letters that are easy to tell apart: a bar that stands, one that lies, a square."""
    image = Image.new("L", (64, 16), int(random.integers(150, 255)))
    pen = ImageDraw.Draw(image)
    x = int(random.integers(1, 6))
    for letter in text:
        box = {"A": (x + 3, 2, x + 5, 13), "V": (x, 7, x + 9, 9), "0": (x + 1, 4, x + 8, 11)}
        pen.rectangle(box[letter], int(random.integers(0, 60)))
        x += 14
    return image


def write(folder: Path, count: int, form: str = "AV") -> Path:
    """Lines of one to four letters, and a CSV of them."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = ["image,text"]
    for index in range(count):
        text = "".join(random.choice(list(LETTERS), int(random.integers(1, 5))))
        line(text, random).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{text}")
    (folder / "texts.csv").write_text("\n".join(rows))
    return folder


def recipe(train: Path, **fields: Any) -> Recipe:
    told: dict[str, Any] = {
        "name": "lines", "task": "optical-character-recognition", "data": {"train": str(train)},
        "model": {"options": SMALL}, **fields,
    }  # fmt: skip
    return recipe_of(told)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lines") / "data", 160)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_lines_are_read_in_every_framework(
    texts: Path, framework: TrainingFramework, tmp_path: Path
) -> None:
    given = recipe(
        texts, framework=framework, epochs=28, batch_size=16, early_stopping=None,
        optimizer={"learning_rate": 0.01}, schedule={"name": "cosine"},
        data={
            "train": str(texts), "validation": 0.15, "test": 0.15,
            "options": {"height": 16, "width": 64},
        },
    )  # fmt: skip
    assert run_recipe(given, tmp_path / "job", [])
    manifest = verified(tmp_path / "job" / "result")
    assert manifest.metrics["valid_exact"] > 0.8
    assert manifest.metrics["test_cer"] < 0.1
    reading = manifest.signature.reading
    assert reading is not None
    assert reading.characters == ("0", "A", "V")
    file = io.BytesIO()
    line("A0VA", np.random.default_rng(5)).resize((192, 48)).save(file, "PNG")
    (answer,) = served(manifest, tmp_path / "job" / "result", Payload(body=file.getvalue()))
    assert answer["text"] == "A0VA"
    assert len(answer["characters"]) == 4
    counted = CnnCtc(**SMALL).parameters(Shape(outputs=4, channels=1, places=1))  # type: ignore[arg-type]
    assert manifest.num_parameters == counted


def test_what_is_learned_is_what_is_read(texts: Path, tmp_path: Path) -> None:
    """The targets of an image, as a network that is right would give them, are its text."""
    problem = open_problem(recipe(texts), tmp_path, None)
    assert isinstance(problem, CharacterReading)
    assert (problem.image.height, problem.image.width, problem.image.channels) == (32, 128, 1)
    feed = problem.feed("train", np.arange(20), epoch=None)
    labels, steps = feed.targets["labels"], problem.image.width // 4
    logits = np.zeros((20, steps, 4), np.float32)
    logits[..., 0] = 9
    for row, numbers in enumerate(labels):
        for place, number in enumerate(numbers[numbers != IGNORED]):
            logits[row, 3 * place, number] = 20
    meter = problem.meter()
    meter.add({"logits": logits}, feed)
    assert meter.result() == {"exact": 1.0, "cer": 0.0}
    problem.signature()
    tasks.get("optical-character-recognition").check_signature(problem.signature())
    logits[:10] = 0
    logits[:10, :, 0] = 9
    meter = problem.meter()
    meter.add({"logits": logits}, feed)
    assert meter.result()["exact"] == 0.5


def test_a_base_is_trained_on_with_its_own_characters(texts: Path, tmp_path: Path) -> None:
    options = {"height": 16, "width": 64, "case": "upper"}
    first = recipe(
        texts, epochs=1, batch_size=32, early_stopping=None,
        data={"train": str(texts), "options": options},
    )  # fmt: skip
    assert run_recipe(first, tmp_path / "first", [])
    base = tmp_path / "first" / "result"
    more = write(tmp_path / "more", 8)
    told = recipe(more, model={"base": "lines"})
    problem = open_problem(told, tmp_path / "job", base)
    assert isinstance(problem, CharacterReading)
    assert (problem.image.height, problem.image.width) == (16, 64)
    problem.build("pytorch")
    (more / "texts.csv").write_text("image,text\n0.png,AX\n")
    with pytest.raises(InvalidInput, match="line 2: the text has 'X', which the model has not"):
        open_problem(told, tmp_path / "job", base)
    other = recipe(
        more, model={"base": "lines"}, data={"train": str(more), "options": {"height": 32}}
    )
    with pytest.raises(InvalidInput, match="height is the base model's matter"):
        open_problem(other, tmp_path / "job", base)


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (["0.png,AAAAAAAAAAAAAAAAA"], {"width": 64}, "takes 33 steps; an input of 64 pixels"),
        (["0.png,AV", "1.png,A"], {"pattern": "AA"}, "line 3: 'A' has not the form"),
        (["0.png,AV"], {"pattern": "A+"}, "has no end"),
        (["0.png,AV", "1.png, "], {}, "line 3: 'text' must be a text"),
        (["0.png,AV", "9.png,A"], {}, "line 3: the image '9.png' is not there"),
        (["0.png,AV", "bad.png,A"], {}, "line 3, bad.png"),
        (["0.png,AV"], {"height": 20}, "height"),
    ],
)
def test_bad_data_is_named_by_its_place(
    rows: list[str], options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", 2)
    (data / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (data / "texts.csv").write_text("\n".join(["image,text", *rows]))
    with pytest.raises(InvalidInput) as found:
        open_problem(
            recipe(data, data={"train": str(data), "options": options}), tmp_path / "job", None
        )
    assert told in found.value.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augmentation": [{"name": "flip"}]}, "Unknown augmentation 'flip'"),
        ({"model": {"architecture": "centernet"}}, "knows no architecture"),
    ],
)
def test_what_readers_cannot_learn_by_is_refused(
    texts: Path, fields: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=told):
        open_problem(recipe(texts, **fields), tmp_path, None)


def test_texts_are_normalised_as_the_options_say() -> None:
    options = ReadingDataOptions(case="upper")
    assert written.normalised(" a\u0308b\n c ", options) == "\xc4B C"
    assert written.normalised("aB", msgspec.structs.replace(options, case="keep")) == "aB"


@pytest.mark.parametrize("name", list(STEPS))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_changed_line_is_another_one_of_its_shape(name: str, channels: int) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (32, 96, channels), np.uint8)
    before = image.copy()
    augment = LineAugmenter([Transform(name=name)])
    one, again = (augment(image, np.random.default_rng(3)) for _ in range(2))
    other = augment(image, np.random.default_rng(4))
    assert one.shape == image.shape
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(image, before)
    assert (one != image).any()
    assert (one != other).any()
