"""Translation learned from pairs, in each framework: data, run, package, and what it writes."""

import asyncio
import csv
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.job import CONTROL_FILE, RESULT_FOLDER, JobEvent
from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.sequence.calls import Decoding, SequenceCall
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.service import Service
from lmaas.tasks import text_layout
from lmaas.training import pairs, problems
from lmaas.training.encoder_decoder import EOS
from lmaas.types import TENANT, Manifest, PushOptions
from training_kit import FRAMEWORKS, run, verified

WORDS = {"one": "eins", "two": "zwei", "red": "rot", "big": "groß", "house": "Haus", "dog": "Hund"}


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Words, and what each is in German, in the other order."""
    chance = np.random.default_rng(seed)
    english = list(WORDS)
    rows = [
        [english[i] for i in chance.integers(0, 6, chance.integers(1, 5))] for _ in range(count)
    ]
    return [(" ".join(row), " ".join(WORDS[word] for word in reversed(row))) for row in rows]


def recipe(folder: Path, framework: TrainingFramework = "pytorch", **more: Any) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "pairs.tsv"
    if not data.exists():
        with data.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerows([("source", "target"), *sentences(800)])
    given: dict[str, Any] = {
        "name": "words",
        "task": "translation",
        "framework": framework,
        "data": {
            "train": str(data),
            "validation": 0.1,
            "options": {
                "vocabulary": 320,
                "max_length": 24,
                "source_language": "en",
                "target_language": "de",
            },
        },
        "model": {"options": {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0}},
        "label_smoothing": 0.1,
        "epochs": 16,
        "batch_size": 32,
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "early_stopping": None,
    }
    return recipe_of(given | more)


def written(folder: Path, manifest: Manifest, texts: list[str]) -> list[str]:
    """What the package's graphs write for texts."""
    compiled, spec = folder / "compiled", manifest.signature.sequence
    assert spec is not None
    vocabulary = pairs.Vocabulary(compiled / text_layout.TOKENIZER)
    engine = SequenceEngine()
    engine.load(compiled, spec, EngineOptions(precision="f32", max_sequences=64))
    decoding = Decoding(prompt=spec.start, max_tokens=spec.most_target, stop_token_ids=(EOS,))
    for number, ids in enumerate(vocabulary.encode(texts)):
        engine.add(
            number,
            SequenceCall(tag=number, source=ids.astype(np.int64), decoding=decoding),
        )
    found: dict[int, str] = {}
    while len(found) < len(texts):
        for output in engine.step():
            if output.result is not None:
                found[output.sequence] = vocabulary.decode(output.result.candidates[0].tokens)
    engine.close()
    return [found[number] for number in range(len(texts))]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_words_are_learned_and_served_as_they_were_learned(
    tmp_path: Path, framework: TrainingFramework
) -> None:
    told = recipe(tmp_path / "data", framework)
    events: list[JobEvent] = []
    assert run(told, tmp_path / "job", events)
    package = tmp_path / "job" / RESULT_FOLDER
    manifest = verified(package)
    assert manifest.framework == framework
    assert manifest.engine == "encoder-decoder"
    assert manifest.signature.sequence is not None
    assert manifest.signature.sequence.directions == (("en", "de"),)
    assert set(manifest.metrics) >= {"valid_bleu", "valid_chrf", "valid_exact", "valid_loss"}
    assert manifest.metrics["valid_exact"] > 0.5
    assert manifest.metrics["valid_chrf"] > 70
    assert "chrf: nrefs:1|case:mixed" in manifest.card.replace("\\", "")
    # The served graphs write what the framework's own model wrote when it was measured.
    sources, targets = zip(*sentences(60, seed=9), strict=True)
    served = written(package, manifest, list(sources))
    problem = problems.open(told, tmp_path / "again", None)
    module = __import__(f"lmaas.training.{framework}.encoder_decoder", fromlist=["x"])
    from safetensors.numpy import load_file

    weights = load_file(package / "source" / "model.safetensors")
    own = {name.removeprefix("model."): array for name, array in weights.items()}
    vocabulary = problem._vocabulary  # type: ignore[attr-defined]
    model = module.build(problem._sizes, vocabulary.size, 24, own)  # type: ignore[attr-defined]
    encoded = vocabulary.encode(sources)
    feed = pairs.Encoded(encoded, encoded).feed(np.arange(len(encoded)))
    tokens = pairs.write_greedily(module.decoder_of(model), feed, 23)
    assert served == [vocabulary.decode(ids) for ids in tokens]
    assert np.mean([a == b for a, b in zip(served, targets, strict=True)]) > 0.5


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    told = recipe(tmp_path / "data", epochs=2, model={"options": {"width": 16, "layers": 1}})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(told, whole, [])
    parts.mkdir()
    (parts / CONTROL_FILE).write_text("pause")
    assert not run(told, parts, [])
    (parts / CONTROL_FILE).unlink()
    assert run(told, parts, [])
    for name in ("source/model.safetensors", "compiled/decoder.bin"):
        assert (parts / RESULT_FOLDER / name).read_bytes() == (
            whole / RESULT_FOLDER / name
        ).read_bytes()


def test_trained_on_in_another_framework(tmp_path: Path) -> None:
    first = recipe(tmp_path / "data", epochs=8)
    assert run(first, tmp_path / "first", [])
    base = tmp_path / "first" / RESULT_FOLDER
    more = recipe(
        tmp_path / "data", "tensorflow", epochs=1, model={"base": "words"}, schedule={},
        optimizer={"learning_rate": 1e-5}, data={"train": first.data.train, "validation": 0.1},
    )  # fmt: skip
    problem = problems.open(more, tmp_path / "second", base)
    model = problem.build("tensorflow")
    module = __import__("lmaas.training.tensorflow.encoder_decoder", fromlist=["x"])
    from safetensors.numpy import load_file

    given = load_file(base / "source" / "model.safetensors")
    for name, array in module.weights_of(model, problem._sizes).items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(array, given[f"model.{name}"])
    other = msgspec.structs.replace(
        more, model=msgspec.structs.replace(more.model, options={"width": 8})
    )
    with pytest.raises(InvalidInput, match="base says"):
        problems.open(other, tmp_path / "third", base)


@pytest.mark.parametrize(
    "pruning",
    [{"method": "magnitude", "sparsity": 0.5}, {"method": "structured", "sparsity": 0.5}],
    ids=lambda rule: str(rule["method"]),
)
def test_weights_are_taken_out(tmp_path: Path, pruning: dict[str, Any]) -> None:
    told = recipe(tmp_path / "data", epochs=2, pruning=pruning)
    assert run(told, tmp_path / "job", [])
    package = tmp_path / "job" / RESULT_FOLDER
    verified(package)
    from safetensors.numpy import load_file

    weights = load_file(package / "source" / "model.safetensors")
    first = [array for name, array in weights.items() if name.endswith("fc1.weight")]
    if pruning["method"] == "structured":
        assert sum(len(array) for array in first) == 128
    else:
        assert np.mean([np.mean(array == 0) for array in first]) > 0.3


def written_rows(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"english": "a", "target": "b"}] * 3, "'source'"),
        ([{"source": "a", "target": "b"}, {"source": "a", "target": ""}], r"line 2.*'target'"),
        ([{"source": "a", "target": "b"}, {"source": None, "target": "b"}], r"line 2.*'source'"),
        ([{"source": "a", "target": "b"}, {"source": " ", "target": "b"}], r"line 2.*'source'"),
        ([{"source": "a", "target": "b"}, {"source": "a", "target": 3}], r"line"),
        (
            [{"source": "a", "target": "b"}] * 4 + [{"source": "a", "target": "xyz " * 90}],
            r"line 5: the target has \d+ tokens; at most 24",
        ),
    ],
)
def test_bad_data_are_named(tmp_path: Path, rows: list[Any], told: str) -> None:
    path = written_rows(tmp_path / "rows.jsonl", rows)
    data = {"train": path, "validation": 0, "options": {"max_length": 24, "vocabulary": 300}}
    with pytest.raises(InvalidInput, match=told):
        problems.open(recipe(tmp_path, data=data), tmp_path / "job", None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"method": {"type": "dpo"}}, "dpo"),
        ({"augmentation": [{"name": "flip"}]}, "augmentation"),
        ({"adapter": {}}, "adapter"),
        ({"model": {"options": {"width": 30, "heads": 4}}}, "multiple of heads"),
        ({"model": {"options": {"width": 33, "heads": 3}}}, "odd"),
        ({"model": {"options": {"feed": [8]}}}, "feed has 1"),
        ({"model": {"architecture": "bag"}}, "no architecture"),
        ({"data": {"train": "x", "options": {"source_language": "en"}}}, "both or neither"),
        ({"data": {"train": "x", "options": {"vocabulary": 20}}}, "300"),
    ],
)
def test_what_a_recipe_cannot_have_is_refused(
    tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        problems.open(recipe(tmp_path, **more), tmp_path / "job", None)


def test_a_package_is_registered(tmp_path: Path) -> None:
    assert run(recipe(tmp_path / "data", epochs=1), tmp_path / "job", [])
    with closing(Service(Settings(home=str(tmp_path / "home")))) as service:
        package = tmp_path / "job" / RESULT_FOLDER
        version = asyncio.run(service.catalog.push(TENANT, package, PushOptions(name="other")))
        assert version.manifest.task == "translation"
        assert version.parity.passed("f32")
