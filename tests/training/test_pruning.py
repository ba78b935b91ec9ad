import numpy as np
import pytest

from lmaas.recipe import Pruning
from lmaas.training.pruning import (
    magnitude_masks,
    sparsity_at,
    two_of_four_masks,
    update_steps,
)


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "small": 0.1 * random.standard_normal((20, 30)),
        "large": random.standard_normal((40, 5, 3)),
    }


def test_sparsity_follows_the_cubic_curve() -> None:
    rule = Pruning(sparsity=0.8, begin=0.25, end=0.75)
    for step in range(401):
        at = np.clip((step - 100) / 200, 0, 1)
        assert sparsity_at(rule, step, 400) == pytest.approx(0.8 * (1 - (1 - at) ** 3))


def test_masks_are_made_anew_so_many_times_and_last_at_the_end() -> None:
    assert update_steps(Pruning(begin=0.0, end=0.5, updates=5), 100) == [10, 20, 30, 40, 50]
    assert update_steps(Pruning(begin=0.5, end=0.5), 7) == [4]
    assert update_steps(Pruning(updates=10, end=1.0), 3) == [1, 2, 3]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.99])
def test_the_smallest_of_all_or_of_each_array_go(sparsity: float) -> None:
    weights = arrays()
    masks = magnitude_masks(weights, sparsity, across_layers=True)
    out = sum(int((~m).sum()) for m in masks.values())
    assert out == round(sparsity * sum(w.size for w in weights.values()))
    gone = [abs(weights[n][~masks[n]]) for n in weights]
    kept = [abs(weights[n][masks[n]]) for n in weights]
    assert max((g.max() for g in gone if g.size), default=0) <= min(k.min() for k in kept if k.size)
    for name, mask in magnitude_masks(weights, sparsity, across_layers=False).items():
        assert int((~mask).sum()) == round(sparsity * weights[name].size)
        if sparsity:
            assert abs(weights[name][~mask]).max() <= abs(weights[name][mask]).min()


def test_two_of_each_four_inputs_stay() -> None:
    weight = np.random.default_rng(1).standard_normal((3, 10))
    mask = two_of_four_masks({"w": weight}, {"w": 1})["w"]
    for row in range(3):
        for start in (0, 4):
            part = abs(weight[row, start : start + 4])
            assert set(np.flatnonzero(mask[row, start : start + 4])) == set(np.argsort(part)[2:])
    assert mask[:, 8:].all()
    turned = two_of_four_masks({"w": weight.T}, {"w": 0})["w"]
    np.testing.assert_array_equal(turned, mask.T)
