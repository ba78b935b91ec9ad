"""Structured pruning: the right units go, what is left computes the same, layers are smaller."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learner_kit import CLASSES, FEATURES, Points, equal, recipe
from lmaas.errors import InvalidInput
from lmaas.job import JobEvent
from lmaas.recipe import ModelChoice, Pruning, Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Architecture, Mlp
from lmaas.training import distributed, learners
from lmaas.training.base import Feed, Group, Learner, Width
from lmaas.training.group import ALONE
from lmaas.training.loop import Outcome, train
from lmaas.training.problems import architectures
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.shrinking import Shrinker, axes_of, kept_units, other_sizes, unit_norms
from lmaas.types import ImageSpec, LanguageSpec

FRAMEWORKS = list(learners.LEARNERS)
RULE: dict[str, Any] = {"method": "structured", "sparsity": 0.5, "updates": 3, "end": 0.6}
LONG: dict[str, Any] = {
    "epochs": 12,
    "schedule": {"name": "cosine"},
    "checkpoints": {"every_steps": 9, "keep": 20},
    "early_stopping": {"patience": 1000},
    "pruning": RULE,
}


class Clouds(SizedNetwork, Points):
    """Points, and a network of two hidden layers whose widths are free."""

    def __init__(self, framework: TrainingFramework) -> None:
        super().__init__()
        self._framework = framework
        self._sizes: Architecture = Mlp(hidden=(48, 32))
        self.model = ModelChoice()

    def feed(self, *args: Any, **named: Any) -> Feed:
        """The points as the network calls them."""
        given = super().feed(*args, **named)
        given.inputs = {"features": given.inputs["input"]}
        return given

    def build(self, framework: TrainingFramework) -> Any:
        module = importlib.import_module(f"lmaas.tasks.tabular.training.{framework}")
        return module.build("mlp", self._sizes, FEATURES, CLASSES, seed=5)


def run(given: Recipe, folder: Path, tell: Any = None, group: Group = ALONE) -> Outcome:
    assert given.framework != "auto"
    problem = Clouds(given.framework)
    make = learners.get(given.framework)
    this = make(problem.build(given.framework), problem.loss, given, group)
    return train(problem, this, given, folder, tell or (lambda _: None), group)


def hidden(learner: Learner) -> list[int]:
    """Sizes of the hidden layers: of the biases but the last layer's, whatever their order."""
    sizes = [array.size for array in learner.weights().values() if array.ndim == 1]
    sizes.remove(CLASSES)
    return sizes


def test_the_smallest_units_of_each_layer_or_of_all_go() -> None:
    widths = {"a": Width(size=8), "b": Width(size=4)}
    begun = {"a": 8, "b": 4}
    norms = {"a": np.arange(8.0)[::-1] + 1, "b": np.array([50.0, 40.0, 1.0, 60.0])}
    kept = kept_units(norms, widths, begun, 0.5, across_layers=False)
    assert {name: units.tolist() for name, units in kept.items()} == {
        "a": [0, 1, 2, 3],
        "b": [0, 3],
    }
    # Each over its layer's L2 norm, a's 7 smallest of 14.3 are 0.07, 0.14, …; b's are 0.01, 0.46.
    kept = kept_units(norms, widths, begun, 0.5, across_layers=True)
    assert {name: units.tolist() for name, units in kept.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 3],
    }
    for across in (True, False):
        kept = kept_units(norms, widths, begun, 0.99, across_layers=across)
        assert {name: units.tolist() for name, units in kept.items()} == {"a": [0], "b": [3]}


def test_of_each_part_the_same_number_goes() -> None:
    norms = np.array([3.0, 1.0, 2.0, 9.0, 7.0, 8.0])
    widths = {"a": Width(size=6, parts=2)}
    for across in (True, False):
        kept = kept_units({"a": norms}, widths, {"a": 6}, 0.5, across_layers=across)
        assert kept["a"].tolist() == [0, 2, 3, 5]
    # What is gone already counts.
    kept = kept_units({"a": norms}, widths, {"a": 10}, 0.6, across_layers=False)
    assert kept["a"].tolist() == [0, 2, 3, 5]


def test_a_unit_is_worth_all_that_makes_it() -> None:
    weight = np.array([[1.0, -2.0, 3.0], [0.5, 0.5, 0.5]])
    assert unit_norms([(weight, 0)]).tolist() == [6.0, 1.5]
    assert unit_norms([(weight, 1), (np.array([[1.0], [2.0], [-4.0]]), 0)]).tolist() == [
        2.5, 4.5, 7.5,
    ]  # fmt: skip


def test_axes_are_found_by_the_shapes_of_another_size() -> None:
    widths = {"a": Width(size=16, parts=8), "b": Width(size=1), "c": Width(size=16, parts=8)}
    sizes = other_sizes(widths)
    assert sizes == {"a": 8, "b": 2, "c": 24}
    a, b, c = sizes.values()
    shapes = [(3, 3, 5, 16), (16,), (16, 1, 1, 16), (1, 16), (7, 7)]
    others = [(3, 3, 5, a), (a,), (a, 1, 1, c), (b, c), (7, 7)]
    found = axes_of(shapes, others, widths)
    assert found == [{3: "a"}, {0: "a"}, {0: "a", 3: "c"}, {0: "b", 1: "c"}, {}]


IMAGE = ImageSpec(height=16, width=16, channels=3)
TEXT = LanguageSpec(architecture="", context_length=6, vocabulary_size=20)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("image", {"hidden": [12, 9]}),
    "cnn": ("image", {"channels": [6, 10]}),
    "resnet18": ("image", {"width": 16}),
    "vit": ("image", {"width": 16, "depth": 2, "feed": [10, 14]}),
    "bag": ("text", {"width": 8, "hidden": [12]}),
    "transformer": ("text", {"width": 16, "depth": 2}),
}


class Network(Points, SizedNetwork):
    """A network of `NETWORKS` and one batch."""

    def __init__(self, name: str, framework: TrainingFramework) -> None:
        super().__init__()
        self._name, self._framework = name, framework
        self._kind, options = NETWORKS[name]
        choice = ModelChoice(architecture=name, options=options)
        self._sizes = architectures.resolve(f"{self._kind}-classification", choice)[1]
        self.model = choice

    def build(self, framework: TrainingFramework) -> Any:
        module = importlib.import_module(
            f"lmaas.tasks.{self._kind}_classification.training.{framework}"
        )
        layout = "CHW" if framework == "pytorch" else "HWC"
        told = TEXT if self._kind == "text" else msgspec.structs.replace(IMAGE, layout=layout)
        return module.build(self._name, self._sizes, told, CLASSES, 7)

    def batch(self) -> Feed:
        random = np.random.default_rng(0)
        shape = (4, 3, 16, 16) if self._framework == "pytorch" else (4, 16, 16, 3)
        inputs: Tensors = {"pixels": random.standard_normal(shape).astype(np.float32)}
        if self._kind == "text":
            ids = random.integers(0, 20, (4, 6))
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return Feed(inputs=inputs, targets={"labels": np.arange(4) % 3}, size=4, weight=4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_without_its_idle_units_computes_the_same(
    framework: TrainingFramework, name: str
) -> None:
    problem = Network(name, framework)
    rule = Pruning(method="structured", sparsity=0.5, scope="layer", updates=1, end=1.0)
    given = recipe(framework, name=name)

    def make() -> Learner:
        return learners.get(framework)(problem.build(framework), problem.loss, given, ALONE)

    this = make()
    shrinker = Shrinker(rule, 1, problem, make)
    widths = problem.widths()
    arrays = this.weights()
    random = np.random.default_rng(1)
    idle = {n: np.sort(random.permutation(w.size)[: w.size // 2]) for n, w in widths.items()}
    axes = shrinker._looked_up([array.shape for array in arrays.values()])
    for (weight, array), tied in zip(arrays.items(), axes, strict=True):
        for axis, width in tied.items():
            lies = np.moveaxis(array, axis, 0)
            made = weight not in this.prunable() or axis != this.input_axis(weight)
            if name != "resnet18":
                # A unit that nothing makes is 0 after ReLU and GELU.
                if made:
                    lies[idle[width]] = 0
                continue
            # Channels that are normalised together are copies, so that their mean and variance
            # stay; of equals the first ones go, and nothing reads these.
            parts = widths[width].parts
            each = lies.reshape(parts, -1, *lies.shape[1:])
            if made:
                each[:] = each[:, :1]
            else:
                each[:, : each.shape[1] // 2] = 0
            lies[:] = each.reshape(lies.shape)
    this.set_weights(arrays)
    before = next(iter(this.evaluate(problem.batch())[1].values()))
    smaller = shrinker.update(this, 1)
    assert smaller is not this
    assert {n: w.size for n, w in problem.widths().items()} == {
        n: w.size - w.size // w.parts // 2 * w.parts for n, w in widths.items()
    }
    assert sum(a.size for a in smaller.weights().values()) < sum(a.size for a in arrays.values())
    after = next(iter(smaller.evaluate(problem.batch())[1].values()))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    # And it trains.
    loss = smaller.step([problem.batch()], learning_rate=1e-3, weight=4)
    assert smaller.step([problem.batch()], learning_rate=1e-3, weight=4) < loss


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_layers_shrink_along_the_schedule_and_the_network_still_knows(
    framework: TrainingFramework, tmp_path: Path
) -> None:
    events: list[JobEvent] = []
    whole = run(recipe(framework, **LONG | {"pruning": None}), tmp_path / "whole")
    assert whole.metrics["valid_accuracy"] > 0.8
    small = run(recipe(framework, **LONG), tmp_path / "small", events.append)
    assert sum(hidden(small.learner)) == 40
    assert small.metrics["valid_accuracy"] >= whole.metrics["valid_accuracy"] - 0.05
    told = [event.message for event in events if "smaller" in event.message]
    # Three times, along 1 - (1 - t)^3 of the 40 units that go.
    assert [message.split()[5] for message in told] == ["17:", "34:", "50:"]
    totals = [sum(int(word.strip(".,")) for word in m.split()[7::2]) for m in told]
    assert totals == [80 - 28, 80 - 39, 40]
    # Only weights of the size that was asked for can be the best.
    assert small.best_step is not None
    assert small.best_step > 50
    layered = recipe(framework, **LONG | {"pruning": RULE | {"scope": "layer"}})
    assert hidden(run(layered, tmp_path / "layer").learner) == [24, 16]


class Killed(Exception):
    """Instead of SIGKILL."""


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_run_goes_on_with_its_widths_bit_for_bit(
    framework: TrainingFramework, tmp_path: Path
) -> None:
    given = recipe(framework, **LONG)
    whole = run(given, tmp_path / "whole")
    folder = tmp_path / "killed"

    def kill(event: JobEvent) -> None:
        if event.type == "checkpoint":
            raise Killed

    kills = 0
    while True:
        try:
            resumed = run(given, folder, kill)
            break
        except Killed:
            kills += 1
    assert kills == 9
    assert hidden(resumed.learner) == hidden(whole.learner)
    assert equal(resumed.learner.weights(), whole.learner.weights())
    assert resumed.metrics == whole.metrics
    assert resumed.best_step == whole.best_step


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_workers_shrink_alike(framework: TrainingFramework, tmp_path: Path) -> None:
    alone = run(recipe(framework, **LONG), tmp_path / "one")
    command = [sys.executable, __file__, framework, str(tmp_path / "two")]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        with distributed.lead(2, command) as group:
            two = run(recipe(framework, **LONG), tmp_path / "two", group=group)
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    assert hidden(two.learner) == hidden(alone.learner)
    for name, value in alone.learner.weights().items():
        np.testing.assert_allclose(two.learner.weights()[name], value, rtol=1e-3, atol=1e-3)


def test_what_cannot_shrink_is_refused() -> None:
    def never() -> Learner:
        raise AssertionError

    rule = Pruning(method="structured")
    with pytest.raises(InvalidInput, match="has none that can be") as refused:
        Shrinker(rule, 10, Points(), never)
    assert refused.value.param == "pruning.method"
    bare = Clouds("pytorch")
    bare._sizes = Mlp(hidden=())
    with pytest.raises(InvalidInput, match="has none that can be"):
        Shrinker(rule, 10, bare, never)
    bare._sizes = Mlp(hidden=(1,))
    with pytest.raises(InvalidInput, match=r"takes nothing out .*hidden\.0 1") as refused:
        Shrinker(rule, 10, bare, never)
    assert refused.value.param == "pruning.sparsity"


if __name__ == "__main__":
    with distributed.join() as joined:
        run(recipe(sys.argv[1], **LONG), Path(sys.argv[2]), group=joined)  # type: ignore[arg-type]
