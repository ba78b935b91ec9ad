"""What every learner must do. A framework joins by its makers in `learner_kit`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner_kit import CLASSES, FEATURES, HEADS, HIDDEN, MODELS, Points, equal, learner, recipe
from lmaas.recipe import TrainingFramework
from lmaas.training import learners
from lmaas.training.base import Diverged, Feed, Loss
from lmaas.training.group import ALONE
from lmaas.training.learners import LEARNERS

FRAMEWORKS = list(LEARNERS)
pytestmark = pytest.mark.parametrize("framework", FRAMEWORKS)
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "learning_rate": 0.1},
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    {"name": "adam", "learning_rate": 0.01},
    {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
]


def feed(rows: int = 32, at: int = 0) -> Feed:
    return Points().feed("train", np.arange(at, at + rows), epoch=0)


def test_every_framework_has_a_model_here(framework: TrainingFramework) -> None:
    assert framework in MODELS


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
def test_the_loss_falls(framework: TrainingFramework, optimizer: dict[str, Any]) -> None:
    this = learner(recipe(framework, optimizer=optimizer), plain=True)
    losses = [this.step([feed()], learning_rate=0.05, weight=32) / 32 for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    loss, outputs = this.evaluate(feed())
    (logits,) = outputs.values()
    assert logits.shape == (32, CLASSES)
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -log_p[np.arange(32), feed().targets["labels"]].sum()
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_a_batch_is_the_sum_of_its_parts(framework: TrainingFramework) -> None:
    given = recipe(framework, clip_norm=0.5)
    whole, parts = learner(given, plain=True), learner(given, plain=True)
    for _ in range(5):
        one = whole.step([feed(32)], learning_rate=0.01, weight=32)
        other = parts.step([feed(20), feed(12, at=20)], learning_rate=0.01, weight=32)
        assert one == pytest.approx(other, rel=1e-5)
    for name, value in whole.weights().items():
        np.testing.assert_allclose(value, parts.weights()[name], atol=1e-5)


def test_sgd_moves_by_the_learning_rate_and_decays(framework: TrainingFramework) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.5}
    moved, still = {}, {}
    for rate in (0.1, 0.2):
        this = learner(recipe(framework, optimizer={"name": "sgd"}), plain=True)
        still = this.weights()
        this.step([feed()], learning_rate=rate, weight=32)
        moved[rate] = this.weights()
    decayed = learner(recipe(framework, optimizer=optimizer), plain=True)
    decayed.step([feed()], learning_rate=0.1, weight=32)
    for name, value in decayed.weights().items():
        once, twice = moved[0.1][name] - still[name], moved[0.2][name] - still[name]
        np.testing.assert_allclose(2 * once, twice, atol=1e-5)
        np.testing.assert_allclose(value, moved[0.1][name] - 0.1 * 0.5 * still[name], atol=1e-5)


def test_no_step_is_longer_than_the_norm(framework: TrainingFramework) -> None:
    this = learner(recipe(framework, optimizer={"name": "sgd"}, clip_norm=1e-3), plain=True)
    before = this.weights()
    this.step([feed()], learning_rate=1.0, weight=32)
    squares = sum(float(np.square(w - before[n]).sum()) for n, w in this.weights().items())
    assert np.sqrt(squares) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
def test_a_saved_learner_goes_on_bit_for_bit(
    framework: TrainingFramework, optimizer: dict[str, Any], tmp_path: Path
) -> None:
    given = recipe(framework, optimizer=optimizer)
    whole = learner(given)
    for _ in range(4):
        whole.step([feed()], learning_rate=0.01, weight=32)
    whole.save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pt", ".pkl", ".pickle")]
    losses = [whole.step([feed()], learning_rate=0.01, weight=32) for _ in range(4)]
    other = learner(given)
    other.step([feed()], learning_rate=0.5, weight=32)
    other.load(tmp_path)
    assert [other.step([feed()], learning_rate=0.01, weight=32) for _ in range(4)] == losses
    assert equal(whole.weights(), other.weights())


def test_weights_are_copies_and_go_back(framework: TrainingFramework) -> None:
    this = learner(recipe(framework))
    kept = this.weights()
    before = {name: value.copy() for name, value in kept.items()}
    loss, _ = this.evaluate(feed())
    for _ in range(3):
        this.step([feed()], learning_rate=0.1, weight=32)
    assert equal(kept, before)
    assert not equal(this.weights(), kept)
    this.set_weights(kept)
    assert equal(this.weights(), kept)
    assert this.evaluate(feed())[0] == loss


def test_masked_weights_stay_zero(framework: TrainingFramework) -> None:
    this = learner(recipe(framework))
    names = this.prunable()
    assert len(names) == 2
    weights = this.weights()
    masks = {n: np.random.default_rng(0).random(weights[n].shape) < 0.5 for n in names}
    this.set_masks(masks)
    for _ in range(3):
        this.step([feed()], learning_rate=0.1, weight=32)
    after = this.weights()
    for name in names:
        assert (after[name][~masks[name]] == 0).all()
        assert (after[name][masks[name]] != 0).all()
    summed_over = sorted(weights[name].shape[this.input_axis(name)] for name in names)
    assert summed_over == sorted((FEATURES, HIDDEN))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_changes_no_weight(
    framework: TrainingFramework, bad: float
) -> None:
    this = learner(recipe(framework), plain=True)
    this.step([feed()], learning_rate=0.1, weight=32)
    before = this.weights()
    broken = feed()
    broken.inputs["input"] = np.full_like(broken.inputs["input"], bad)
    with pytest.raises(Diverged):
        this.step([broken], learning_rate=0.1, weight=32)
    assert equal(this.weights(), before)


def test_probabilities_are_targets_too(framework: TrainingFramework) -> None:
    one, other = (learner(recipe(framework), plain=True) for _ in range(2))
    soft = feed()
    soft.targets["labels"] = np.eye(CLASSES, dtype=np.float32)[soft.targets["labels"]]
    expected = one.step([feed()], learning_rate=0.1, weight=32)
    assert other.step([soft], learning_rate=0.1, weight=32) == pytest.approx(expected, rel=1e-5)


def test_smoothing_moves_a_share_to_all_classes(framework: TrainingFramework) -> None:
    smooth = learner(recipe(framework), plain=True, loss=Loss(name="cross-entropy", smoothing=0.3))
    plain = learner(recipe(framework), plain=True)
    mixed = feed()
    hard = np.eye(CLASSES, dtype=np.float32)[mixed.targets["labels"]]
    mixed.targets["labels"] = (0.7 * hard + 0.3 / CLASSES).astype(np.float32)
    expected, _ = plain.evaluate(mixed)
    assert smooth.evaluate(feed())[0] == pytest.approx(expected, rel=1e-5)


def test_values_are_learned_by_their_squared_error(framework: TrainingFramework) -> None:
    this = learner(recipe(framework), plain=True, loss=Loss(name="mean-squared-error"))
    wanted = feed()
    values = np.random.default_rng(0).standard_normal((32, CLASSES)).astype(np.float32)
    wanted.targets = {"values": values}
    loss, outputs = this.evaluate(wanted)
    (output,) = outputs.values()
    assert loss == pytest.approx(float(np.square(output - values).mean(1).sum()), rel=1e-5)
    losses = [this.step([wanted], learning_rate=0.02, weight=32) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_bf16_learns_too(framework: TrainingFramework) -> None:
    this = learner(recipe(framework, precision="bf16"), plain=True)
    losses = [this.step([feed()], learning_rate=0.02, weight=32) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    exact = learner(recipe(framework), plain=True)
    first = exact.step([feed()], learning_rate=0.02, weight=32)
    assert losses[0] != first
    assert losses[0] == pytest.approx(first, rel=0.05)
    assert all(value.dtype == np.float32 for value in this.weights().values())


def test_two_heads_are_learned_together(framework: TrainingFramework) -> None:
    loss = Loss(
        name="sum",
        parts=(
            Loss(name="cross-entropy", outputs=("kind",)),
            Loss(name="mean-squared-error", outputs=("place",), share=0.5),
        ),
    )
    given = recipe(framework)
    this = learners.get(framework)(HEADS[framework](), loss, given, ALONE)
    both = feed()
    both.targets["values"] = both.inputs["input"]
    total, outputs = this.evaluate(both)
    assert set(outputs) == {"place", "kind"}
    logits = outputs["kind"] - outputs["kind"].max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    kinds = -log_p[np.arange(32), both.targets["labels"]].sum()
    places = np.square(outputs["place"] - both.targets["values"]).mean(1).sum()
    assert total == pytest.approx(float(kinds + 0.5 * places), rel=1e-4)
    for _ in range(40):
        this.step([both], learning_rate=0.02, weight=32)
    after, outputs = this.evaluate(both)
    assert after < 0.6 * total
    assert np.square(outputs["place"] - both.targets["values"]).mean(1).sum() < places
    assert (outputs["kind"].argmax(1) == both.targets["labels"]).mean() > 0.8
