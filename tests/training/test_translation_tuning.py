"""A translation checkpoint trained on, whole and by an adapter, and what becomes of it."""

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sequence_checkpoints
from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.job import RESULT_FOLDER
from lmaas.recipe import Recipe, recipe_of
from lmaas.service import Service
from lmaas.tasks import text_layout
from lmaas.training import pairs, problems
from lmaas.training.base import IGNORED
from lmaas.types import TENANT, PushOptions
from training_kit import verified


def rows(folder: Path) -> str:
    chance = np.random.default_rng(0)
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for _ in range(60):
            words = chance.integers(10, 20, chance.integers(1, 4))
            pair = {
                "source": " ".join(f"w{word}" for word in words),
                "target": " ".join(f"w{word + 20}" for word in words),
            }
            file.write(json.dumps(pair) + "\n")
    return str(path)


def packaged(kind: str, folder: Path, **more: Any) -> Path:
    """The package of a random checkpoint."""
    source = sequence_checkpoints.make(kind, folder / "source")
    options = PushOptions(name="base", task="translation")
    checkpoint.build(source, folder / "package", options)
    return folder / "package"


def recipe(folder: Path, options: dict[str, Any] | None = None, **more: Any) -> Recipe:
    languages = {"source_language": "en", "target_language": "de"}
    given: dict[str, Any] = {
        "name": "tuned",
        "task": "translation",
        "data": {"train": rows(folder), "options": languages if options is None else options},
        "model": {"base": "base"},
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"learning_rate": 1e-3},
    }
    return recipe_of(given | more)


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "targets": ["q_proj", "v_proj"]}])
def test_a_checkpoint_of_many_languages(tmp_path: Path, adapter: dict[str, Any] | None) -> None:
    from lmaas.training import run as training

    base = packaged("m2m_100", tmp_path)
    told = recipe(tmp_path, adapter=adapter)
    assert training.run(told, tmp_path / "job", "job-1", lambda event: None, base=base)
    package = tmp_path / "job" / RESULT_FOLDER
    manifest = verified(package)
    assert manifest.metrics.keys() >= {"valid_chrf", "valid_exact", "valid_loss"}
    assert manifest.lineage.parent == "base"
    assert manifest.signature.sequence is not None
    assert set(manifest.signature.sequence.languages) == set(sequence_checkpoints.LANGUAGES)
    before = (tmp_path / "package" / "source" / "model.safetensors").read_bytes()
    assert (package / "source" / "model.safetensors").read_bytes() != before
    with closing(Service(Settings(home=str(tmp_path / "home")))) as service:
        version = asyncio.run(service.catalog.push(TENANT, package, PushOptions(name="tuned")))
        assert version.manifest.task == "translation"


def test_what_is_learned_has_the_languages(tmp_path: Path) -> None:
    base = packaged("m2m_100", tmp_path)
    problem = problems.open(recipe(tmp_path), tmp_path / "job", base)
    feed = problem.feed("train", np.arange(4), epoch=0)
    english, german = (
        sequence_checkpoints.LANGUAGES.index(code) for code in ("eng_Latn", "deu_Latn")
    )
    assert (feed.inputs["input_ids"][:, 0] == 4 + english).all()
    assert (feed.inputs["decoder_input_ids"][:, :2] == [sequence_checkpoints.END, 4 + german]).all()
    assert (feed.targets["labels"][:, 0] == IGNORED).all()
    assert feed.weight == (feed.targets["labels"] != IGNORED).sum()


def test_a_pair_that_the_recipe_names_is_known_later(tmp_path: Path) -> None:
    from lmaas.training import run as training

    base = packaged("marian", tmp_path)
    assert training.run(recipe(tmp_path), tmp_path / "job", "job-1", lambda event: None, base=base)
    package = tmp_path / "job" / RESULT_FOLDER
    manifest = verified(package)
    assert manifest.signature.sequence is not None
    assert manifest.signature.sequence.directions == (("en", "de"),)
    assert text_layout.read(package / "compiled").pair == ("en", "de")


def test_greedy_writing_is_that_of_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    base = packaged("marian", tmp_path)
    problem = problems.open(recipe(tmp_path), tmp_path / "job", base)
    problem.build("pytorch")
    feed = problem.feed("validation", np.arange(3), epoch=None)
    told = problem._write(feed)  # type: ignore[attr-defined]
    model = AutoModelForSeq2SeqLM.from_pretrained(base / "source").eval()
    with torch.inference_mode():
        for row, written in enumerate(told):
            ids = feed.inputs["input_ids"][row][feed.inputs["attention_mask"][row] > 0]
            whole = model.generate(
                torch.tensor(ids)[None],
                max_new_tokens=len(written) + 4,
                do_sample=False,
                num_beams=1,
            )
            assert whole[0, 1 : 1 + len(written)].tolist() == written


@pytest.mark.parametrize(
    ("more", "options", "told"),
    [
        ({"framework": "keras"}, None, "pytorch"),
        ({"model": {"base": "base", "architecture": "encoder-decoder"}}, None, "checkpoint"),
        ({"model": {"base": "base", "options": {"width": 3}}}, None, "options"),
        ({}, {}, "told which"),
        ({}, {"source_language": "en", "target_language": "xx"}, "deu_Latn"),
        ({}, {"source_language": "en", "target_language": "de", "vocabulary": 500}, "vocabulary"),
        ({}, {"source_language": "en", "target_language": "de", "max_length": 4000}, "64 tokens"),
        ({}, {"source_language": "en", "target_language": "de", "max_length": 4}, "at most 4"),
    ],
)
def test_what_a_checkpoint_cannot_have_is_refused(
    tmp_path: Path, more: dict[str, Any], options: dict[str, Any] | None, told: str
) -> None:
    base = packaged("m2m_100", tmp_path)
    with pytest.raises(InvalidInput, match=told):
        problems.open(recipe(tmp_path, options, **more), tmp_path / "job", base)


def test_prompts_are_given_and_not_learned() -> None:
    target = [np.array([5, 6, 2], np.int32)]
    feed = pairs.Encoded(target, target, (2, 9), 1).feed(np.array([0]))
    assert feed.inputs["decoder_input_ids"].tolist() == [[2, 9, 5, 6]]
    assert feed.targets["labels"].tolist() == [[IGNORED, 5, 6, 2]]
    assert feed.weight == 3
