"""The kit that every loss passes: one value and one gradient in all frameworks.

A new loss is tested by adding an example to EXAMPLES.
"""

from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas.errors import InvalidInput
from lmaas.training.base import IGNORED, Loss
from lmaas.training.losses import LOSSES, SUM, summed

RANDOM = np.random.default_rng(0)


class Example(msgspec.Struct):
    """A loss with outputs and targets, both with a batch axis, and its value where it is known."""

    loss: Loss
    outputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    value: float | None = None


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    told: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return told


def tokens() -> np.ndarray:
    labels = RANDOM.integers(0, 7, (6, 5))
    labels[0, :2] = labels[4, 3:] = IGNORED
    return labels


ROWS, NUMBERS = normal(4, 3), np.array([0, 2, 1, 2])
SOFT = np.exp(log_softmax(normal(4, 3))).astype(np.float32)
TEXTS, LABELS = normal(6, 5, 7), tokens()
WAVES, LENGTHS = normal(3, 8, 5), np.array([8, 6, 7])
SAID = np.array([[1, 2, 2], [4, IGNORED, IGNORED], [3, 1, IGNORED]])
CELLS, SIDES = normal(3, 4, 5, 6), normal(3, 4, 5, 4)
HEAT = (0.9 * RANDOM.random((3, 4, 5, 2))).astype(np.float32)
MASK = np.zeros((3, 4, 5), np.float32)
for place in ((0, 1, 2), (0, 3, 3), (1, 0, 0)):  # the third sample has no object
    HEAT[(*place, place[2] % 2)], MASK[place] = 1, 1


def focal_and_l1(cells: np.ndarray, heat: np.ndarray, boxes: np.ndarray, mask: np.ndarray) -> float:
    """Zhou et al., 2019, equations 1 and 2, by their letters."""
    total = 0.0
    for row, true, sides, here in zip(cells, heat, boxes, mask, strict=True):
        p = 1 / (1 + np.exp(-row[..., 4:].astype(np.float64)))
        found = np.where(true == 1, (1 - p) ** 2 * np.log(p), 0)
        missed = np.where(true == 1, 0, (1 - true) ** 4 * p**2 * np.log(1 - p))
        apart = (np.abs(row[..., :4] - sides) * here[..., None]).sum()
        total += float((apart - found.sum() - missed.sum()) / max(here.sum(), 1))
    return total


EXAMPLES = [
    Example(
        Loss(name="own"),
        {"losses": normal(3, 1)},
        {"objects": np.array([2, 0, 1], np.float32)},
    ),
    Example(
        Loss(name="cross-entropy"),
        {"y": ROWS},
        {"labels": NUMBERS},
        -float(log_softmax(ROWS)[np.arange(4), NUMBERS].sum()),
    ),
    Example(
        Loss(name="cross-entropy", smoothing=0.2),
        {"y": ROWS},
        {"labels": SOFT},
        -float((log_softmax(ROWS) * (0.8 * SOFT + 0.2 / 3)).sum()),
    ),
    Example(
        Loss(name="mean-squared-error"),
        {"y": ROWS},
        {"values": SOFT},
        float(np.square(ROWS - SOFT).mean(1).sum()),
    ),
    Example(
        Loss(name="next-token"),
        {"y": TEXTS},
        {"labels": LABELS},
        -float(
            np.take_along_axis(log_softmax(TEXTS), np.maximum(LABELS, 0)[..., None], -1)[..., 0][
                LABELS != IGNORED
            ].sum()
        ),
    ),
    Example(Loss(name="next-token", smoothing=0.1), {"y": TEXTS}, {"labels": LABELS}),
    Example(
        Loss(name="preference", beta=0.3),
        {"y": TEXTS},
        {"labels": LABELS, "reference": -8 + 3 * normal(6)},
    ),
    Example(Loss(name="ctc"), {"y": WAVES}, {"labels": SAID, "lengths": LENGTHS}),
    Example(
        Loss(name="center-points"),
        {"y": CELLS},
        {"heat": HEAT, "boxes": SIDES, "mask": MASK},
        focal_and_l1(CELLS, HEAT, SIDES, MASK),
    ),
    Example(
        Loss(
            name=SUM,
            parts=(
                Loss(name="cross-entropy", outputs=("kind",), targets={"labels": "kinds"}),
                Loss(name="mean-squared-error", outputs=("box",), share=0.25),
            ),
        ),
        {"box": normal(4, 4), "kind": ROWS},
        {"values": normal(4, 4), "kinds": NUMBERS},
    ),
]


def named(example: Example) -> str:
    return example.loss.name


def by_pytorch(example: Example) -> tuple[float, dict[str, np.ndarray]]:
    import torch

    outputs = {n: torch.tensor(array, requires_grad=True) for n, array in example.outputs.items()}
    targets = {n: torch.tensor(array) for n, array in example.targets.items()}
    value = summed(example.loss, "pytorch", outputs, targets)
    value.backward()
    return value.item(), {n: tensor.grad.numpy() for n, tensor in outputs.items()}


def by_tensorflow(example: Example) -> tuple[float, dict[str, np.ndarray]]:
    """In a graph whose batch axis is free, as learners trace it."""
    import tensorflow as tf

    def free(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return {n: tf.TensorSpec((None, *a.shape[1:]), a.dtype) for n, a in arrays.items()}

    signature = [free(example.outputs), free(example.targets)]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def run(outputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = summed(example.loss, "tensorflow", outputs, targets)
        return value, tape.gradient(value, outputs)

    value, gradients = run(
        {n: tf.constant(a) for n, a in example.outputs.items()},
        {n: tf.constant(a) for n, a in example.targets.items()},
    )
    return float(value), {n: gradient.numpy() for n, gradient in gradients.items()}


def test_every_loss_has_an_example() -> None:
    assert {example.loss.name for example in EXAMPLES} == {*LOSSES, SUM}


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_value_and_gradient_are_one_in_all_frameworks(example: Example) -> None:
    value, gradients = by_pytorch(example)
    other, others = by_tensorflow(example)
    assert value == pytest.approx(other, rel=1e-5)
    if example.value is not None:
        assert value == pytest.approx(example.value, rel=1e-5)
    for name, gradient in gradients.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(gradient, others[name], atol=1e-5)


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_a_batch_is_the_sum_of_its_samples(example: Example) -> None:
    """Pairs of a preference lie half a batch apart, all others are a row each."""
    first, *_ = example.outputs.values()
    rows = [np.array([row]) for row in range(len(first))]
    if example.loss.name == "preference":
        rows = [np.array([row, row + len(first) // 2]) for row in range(len(first) // 2)]
    for run in (by_pytorch, by_tensorflow):
        whole, _ = run(example)
        parts = [
            run(
                Example(
                    example.loss,
                    {n: array[one] for n, array in example.outputs.items()},
                    {n: array[one] for n, array in example.targets.items()},
                )
            )[0]
            for one in rows
        ]
        assert sum(parts) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("run", [by_pytorch, by_tensorflow])
@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_outputs_that_do_not_fit_are_refused(example: Example, run: Any) -> None:
    flat = {n: array.reshape(-1) for n, array in example.outputs.items()}
    with pytest.raises(InvalidInput, match="do not fit"):
        run(msgspec.structs.replace(example, outputs=flat))
    with pytest.raises(InvalidInput, match="reads the targets"):
        run(msgspec.structs.replace(example, targets={"others": NUMBERS}))
    asked = msgspec.structs.replace(example.loss, outputs=("no_such",))
    if example.loss.name != SUM:
        with pytest.raises(InvalidInput, match="no_such"):
            run(msgspec.structs.replace(example, loss=asked))


def test_a_loss_that_is_not_known_is_refused() -> None:
    for loss, told in ((Loss(name="hinge"), "known: cross-entropy"), (Loss(name=SUM), "no parts")):
        with pytest.raises(InvalidInput, match=told):
            summed(loss, "pytorch", {}, {})
