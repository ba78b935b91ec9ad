"""Texts of whose model nothing is said: n-grams and a network are compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas.errors import InvalidInput
from lmaas.job import CONTROL_FILE, RESULT_FOLDER, JobEvent
from lmaas.recipe import Recipe, recipe_of
from lmaas.tasks.text_classification.training import compared_texts, rivals
from lmaas.training import run as training
from lmaas.types import JSON, Payload
from training_kit import run, served, verified

TEXTS = 240


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of two made-up tongues, told by their endings; each word is there once."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(TEXTS):
        stem = "".join(random.choice(list("aeioukrtsmnlpé"), 6))
        tongue = "north" if number % 2 else "south"
        word = stem + (
            random.choice(["inen", "sson"]) if number % 2 else random.choice(["ello", "ini"])
        )
        lines.append(json.dumps({"text": f"{word} {number}", "label": tongue}))
    path = tmp_path_factory.mktemp("texts") / "names.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def recipe(data: Path, **more: Any) -> Recipe:
    choice = {"train": str(data), "validation": 0.2, "test": 0.2}
    return recipe_of({"name": "names", "task": "text-classification", "data": choice, **more})


def test_n_grams_win_where_words_are_new(names: Path, tmp_path: Path) -> None:
    events: list[JobEvent] = []
    assert run(recipe(names), tmp_path, events)
    manifest = verified(tmp_path / RESULT_FOLDER)
    assert (manifest.framework, manifest.engine) == ("ngrams", "openvino")
    assert manifest.metrics["test_accuracy"] > 0.95
    (told,) = [event.message for event in events if event.message.startswith("Compared by")]
    assert "n-grams win" in told
    texts = ["Takkarinen 7", "petrucello", "Åsa Ålesson", "x"]
    body = json.dumps({"inputs": texts}).encode()
    answers = served(manifest, tmp_path / RESULT_FOLDER, Payload(media_type=JSON, body=body))
    assert [answer[0]["label"] for answer in answers[:3]] == ["north", "south", "north"]


def test_the_network_is_served_where_it_wins(
    names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals.RivalLearner, "linear_wins", False)
    monkeypatch.setattr(compared_texts, "EPOCHS", 2)
    assert run(recipe(names), tmp_path / "one", [])
    manifest = verified(tmp_path / "one" / RESULT_FOLDER)
    assert manifest.framework == "pytorch"
    assert manifest.lineage.recipe["recipe"]["model"]["architecture"] == "bag"
    # It is a model like one that was asked for by name, and can be trained on.
    (tmp_path / "two").mkdir()
    base = tmp_path / "one" / RESULT_FOLDER
    more = recipe(names, steps=2, model={"base": "names"})
    assert training.run(more, tmp_path / "two", "job-2", lambda _: None, base=base)


def test_paused_it_ends_as_undisturbed(
    names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared_texts, "EPOCHS", 2)
    assert run(recipe(names), tmp_path / "whole", [])
    folder = tmp_path / "paused"
    events: list[JobEvent] = []
    folder.mkdir()
    (folder / CONTROL_FILE).write_text("pause")
    assert not run(recipe(names), folder, events)
    (folder / CONTROL_FILE).unlink()
    assert run(recipe(names), folder, events)
    metrics = [verified(each / RESULT_FOLDER).metrics for each in (tmp_path / "whole", folder)]
    assert metrics[0] == metrics[1]
    exported = tmp_path / "exported"
    first = min((folder / "checkpoints").glob("step-*"))
    shutil.copytree(first, exported / "checkpoints" / first.name)
    resolved = next(e.data["recipe"] for e in events if e.type == "resolved")
    training.export(recipe_of(resolved), exported, "job-1", base=None)
    assert verified(exported / RESULT_FOLDER).metrics["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"epochs": 3}, "this epochs"),
        ({"framework": "keras"}, "this framework"),
        ({"augmentation": [{"name": "swap"}]}, "this augmentation"),
    ],
)
def test_what_comparing_cannot_honour_is_refused(
    names: Path, tmp_path: Path, more: Any, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        run(recipe(names, model={"architecture": "compared"}, **more), tmp_path, [])
