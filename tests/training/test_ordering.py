"""The order of an epoch."""

import itertools

import numpy as np
import pytest

from lmaas.training.ordering import order_of


@pytest.mark.parametrize(("rows", "batches"), [(1, 1), (7, 3), (100, 9), (1000, 70), (64, 64)])
def test_every_sample_is_seen_once(rows: int, batches: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 99, rows)
    for given in (None, lengths):
        order = order_of(rows, 5, 2, batches, given)
        assert sorted(order.tolist()) == list(range(rows))
        assert (order == order_of(rows, 5, 2, batches, given)).all()
    if rows > 10:
        assert (order != order_of(rows, 5, 3, batches, lengths)).any()
        assert (order != order_of(rows, 6, 2, batches, lengths)).any()


def test_samples_of_a_batch_have_nearly_one_length() -> None:
    rows, batches = 1003, 31
    lengths = np.random.default_rng(0).integers(1, 200, rows)
    order = order_of(rows, 0, 0, batches, lengths)
    cuts = np.arange(batches + 1) * rows // batches
    spread = [int(np.ptp(lengths[order[first:last]])) for first, last in itertools.pairwise(cuts)]
    assert max(spread) < 20
    means = [lengths[order[first:last]].mean() for first, last in itertools.pairwise(cuts)]
    assert means != sorted(means)
