"""The plan of memory: parameters counted without building, and models that are refused by it."""

from typing import Any

import pytest
import torch

from lmaas.errors import DoesNotFit
from lmaas.recipe import Recipe, recipe_of
from lmaas.tasks.architectures import Architecture, Mlp, Shape
from lmaas.tasks.image_classification.training import pytorch as image
from lmaas.tasks.tabular.training import pytorch as table
from lmaas.tasks.text_classification.training import pytorch as text
from lmaas.training import memory
from lmaas.training.problems import architectures, least_parameters
from lmaas.types import ImageSpec, LanguageSpec


def recipe(**more: Any) -> Recipe:
    return recipe_of({"name": "a", "task": "text-generation", "data": {"train": "x"}, **more})


def options_of(task: str, name: str, **options: Any) -> Architecture:
    choice = recipe(model={"architecture": name, "options": options}).model
    made: Architecture = architectures.resolve(task, choice)[1]
    return made


def counted(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": [12, 7]}),
        ("cnn", {"channels": [4, 8]}),
        ("resnet18", {"width": 8}),
        ("resnet18", {"width": 16, "inner": [8] * 8}),
        ("vit", {"width": 12, "depth": 2, "heads": 3, "patch": 4}),
        ("vit", {"width": 12, "depth": 2, "heads": 3, "feed": [5, 6]}),
    ],
)
def test_networks_of_images_are_counted(name: str, options: dict[str, Any]) -> None:
    sizes = options_of("image-classification", name, **options)
    spec = ImageSpec(height=8, width=12, channels=3)
    shape = Shape(outputs=5, features=8 * 12 * 3, channels=3)
    assert sizes.parameters(shape) == counted(image.build(name, sizes, spec, 5, seed=0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bag", {"width": 12, "hidden": [9]}),
        ("bag", {"width": 12, "hidden": []}),
        ("transformer", {"width": 12, "depth": 3, "heads": 2}),
        ("transformer", {"width": 12, "depth": 1, "heads": 2, "feed": [3]}),
    ],
)
def test_networks_of_texts_are_counted(name: str, options: dict[str, Any]) -> None:
    sizes = options_of("text-classification", name, **options)
    spec = LanguageSpec(architecture=name, context_length=16, vocabulary_size=300)
    shape = Shape(outputs=4, tokens=300, places=16)
    assert sizes.parameters(shape) == counted(text.build(name, sizes, spec, 4, seed=0))


def test_networks_of_tables_are_counted() -> None:
    sizes = options_of("tabular", "mlp", hidden=[3, 4])
    assert isinstance(sizes, Mlp)
    model = table.build("mlp", sizes, 6, 2, seed=0)
    assert sizes.parameters(Shape(outputs=2, features=6)) == counted(model)


@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_a_new_language_model_has_no_less_than_is_said(family: str) -> None:
    import transformers

    options = {"hidden": 32, "layers": 3, "heads": 4, "kv_heads": 2, "mlp": 48}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        whole = counted(transformers.AutoModelForCausalLM.from_config(config))
    least = least_parameters(recipe(model={"options": options}))
    assert least + 300 * 32 <= whole <= least + 300 * 32 + 3 * (2 * 32 + 2 * 8) + 32


def test_the_plan_says_what_takes_how_much() -> None:
    many = 1_000_000
    assert memory.plan(recipe(), many) == {
        "weights": 4 * many, "gradients": 4 * many, "optimizer": 8 * many,
    }  # fmt: skip
    assert "optimizer" not in memory.plan(recipe(optimizer={"name": "sgd"}), many)
    heavy = recipe(optimizer={"name": "sgd", "momentum": 0.9}, distribution={"workers": 3})
    assert memory.plan(heavy, many)["optimizer"] == 12 * many
    assert memory.plan(recipe(adapter={"rank": 2}), many) == {"weights": 4 * many}


def test_what_does_not_fit_is_refused_with_the_plan() -> None:
    bound = 16 << 20
    assert "16 MiB" in memory.check(recipe(), 1 << 20, bound)
    with pytest.raises(DoesNotFit) as refused:
        memory.check(recipe(), (1 << 20) + 1, bound)
    for told in ("1,048,577 parameters", "weights 4 MiB", "gradients 4 MiB", "may use 16 MiB"):
        assert told in refused.value.message
    assert "16 MiB" in memory.check(recipe(), 1 << 20, None)


def test_stored_tensors_are_counted() -> None:
    assert memory.stored([(2, 3), (4,), ()]) == 11
