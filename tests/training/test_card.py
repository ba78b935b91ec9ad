"""Model cards: what is in them, and that names from users mean nothing in them."""

import re
from typing import Any

import msgspec
import pytest
from huggingface_hub import ModelCard

from lmaas.recipe import recipe_of
from lmaas.training import card
from lmaas.training.base import Facts
from lmaas.training.markdown import fenced, literal, quoted, visible
from lmaas.types import Lineage, Manifest, Signature

NASTY = (
    "<img src=x onerror=alert(1)>](javascript:x) | `a` **b** # \u202eevil\x1b[31m @all https://x.y"
)


def rendered(labels: tuple[str, ...] = ("cat", "dog"), **recipe: Any) -> str:
    plain: dict[str, Any] = {
        "name": "pets",
        "task": "image-classification",
        "framework": "pytorch",
        "data": {"train": "/srv/secret/pets.zip", "validation": 0.2},
        "model": {"base": "older:3"},
        "epochs": 3,
        **recipe,
    }
    manifest = Manifest(
        name="pets",
        task="image-classification",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), labels=labels),
        num_parameters=12_345,
        framework_version="2.13",
        metrics={"valid_loss": 0.3, "valid_accuracy": 0.75, "test_accuracy": 0.5},
        lineage=Lineage(origin="train", code="lmaas 9.9"),
    )
    facts = Facts(
        recipe=recipe_of(plain),
        metrics=manifest.metrics,
        data={
            "sha256": "ab" * 32,
            "samples": {"train": 80, "validation": 20, "test": 4},
            "labels": dict.fromkeys(labels, 40),
            "overlap": {"validation": {"samples": 2, "places": ["cat/1.png", NASTY]}},
        },
        job="ftjob-1",
    )
    return card.render(manifest, facts, curves=True)


def header(text: str) -> dict[str, Any]:
    """What the hub's own library reads of a card."""
    return dict(ModelCard(text).data.to_dict())  # type: ignore[no-untyped-call]


def test_the_hub_reads_its_header() -> None:
    data = header(rendered())
    digest = "sha256-" + "ab" * 32
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == "pytorch"
    assert data["base_model"] == "older:3"
    assert data["datasets"] == [digest]
    assert data["metrics"] == ["accuracy", "loss"]
    assert "license" not in data
    results = data["model-index"][0]["results"]
    told = {
        (one["dataset"]["split"], metric["type"]): metric["value"]
        for one in results
        for metric in one["metrics"]
    }
    assert told[("validation", "accuracy")] == 0.75
    assert told[("test", "accuracy")] == 0.5


def test_it_says_all_that_is_known() -> None:
    text = rendered()
    for title in (
        "Intended use", "Training data", "Training procedure", "Learning curves", "Evaluation",
        "Limits", "Lineage",
    ):  # fmt: skip
        assert f"\n## {title}\n" in text
    for told in (
        "ab" * 32, "80 samples", "**2 validation samples are also trained on**", "epochs: 3",
        "![Learning curves](curves.png)", "| validation | accuracy | 0.75 |", "lmaas 9\\.9",
        "12,345", "ftjob\\-1", "older\\:3", "flatter",
    ):  # fmt: skip
        assert told in text, told
    assert "/srv/secret" not in text


def test_names_of_users_mean_nothing() -> None:
    text = rendered(
        labels=(NASTY, "dog\n\n# Heading\n---\nlicense: mit"), card=f"{NASTY}\n---\n# A"
    )
    assert "<img" not in text
    assert "](javascript" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "https://" not in text
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert len(titles) == 8
    assert text.count("\n---\n") == 1
    assert "license" not in header(text)
    assert not re.search(r"(?<!\\)\|.*onerror", text)


def test_a_recipe_cannot_end_its_block() -> None:
    text = rendered(data={"train": "a```\n# out", "columns": {"image": "````"}})
    block = text.partition("## Training procedure")[2].partition("## Learning curves")[0]
    fence = re.search(r"^(`{3,})yaml$", block, re.M)
    assert fence is not None
    assert len(re.findall(rf"^{fence[1]}$", block, re.M)) == 1
    assert block.rstrip().endswith(fence[1])


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain words 12", "plain words 12"),
        ("a_b*c", r"a\_b\*c"),
        ("<b>&amp;", r"&lt;b&gt;&amp;amp;"),
        ("a\n\n# b", r"a \# b"),
        ("&lt;", "&amp;lt;"),
        ("\x00\u200b", "\ufffd\ufffd"),
    ],
)
def test_literal_text(text: str, safe: str) -> None:
    assert literal(text) == safe


def test_long_text_is_cut() -> None:
    assert literal("x" * 600) == "x" * 499 + "…"


def test_quotations_and_blocks_keep_what_they_hold() -> None:
    assert quoted("a\n\n# b") == "> a\n>\n> \\# b"
    assert quoted("") == ""
    assert fenced("a ```` b").startswith("`````\n")
    assert visible("a\tb\rc") == "a\tb\ufffdc"


def test_a_recipe_round_trips_from_the_card() -> None:
    import yaml

    block = re.search(r"```yaml\n(.*?)\n```", rendered(), re.S)
    assert block is not None
    plain = yaml.safe_load(block[1])
    assert plain["data"]["train"] == "pets.zip"
    assert recipe_of(plain).epochs == 3
    assert msgspec.to_builtins(recipe_of(plain))["model"]["base"] == "older:3"
