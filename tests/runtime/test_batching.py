from collections.abc import Callable

import numpy as np
import pytest

from lmaas.errors import InvalidInput
from lmaas.runtime.batching import (
    FAST_ROW_S,
    OVERLAP_ROWS,
    TARGET_BATCH_S,
    Batcher,
    BatchRequest,
    run_batch,
)
from lmaas.runtime.padding import Padding
from lmaas.tasks.base import Batch, Tensors
from lmaas.types import Signature, TensorSpec


def request(id_: int, *values: float, width: int = 2) -> BatchRequest:
    rows = np.array([[value] * width for value in values], np.float32)
    return BatchRequest(id=id_, batch=Batch(arrays={"x": rows}, size=len(values)))


def ids(requests: list[BatchRequest]) -> list[int]:
    return [request.id for request in requests]


def test_all_that_wait_join_up_to_the_bound() -> None:
    batcher = Batcher(4, joins=True)
    for id_ in range(6):
        batcher.add(request(id_, 1.0))
    assert ids(batcher.next()) == [0, 1, 2, 3]
    assert ids(batcher.next()) == [4, 5]
    assert batcher.next() == []


def test_a_lone_request_is_given_out_at_once() -> None:
    batcher = Batcher(4, joins=True)
    batcher.add(request(1, 1.0))
    assert ids(batcher.next()) == [1]
    assert len(batcher) == 0


def test_only_equal_shapes_join_and_the_oldest_goes_first() -> None:
    batcher = Batcher(8, joins=True)
    for id_, width in enumerate((2, 3, 2, 3)):
        batcher.add(request(id_, 1.0, width=width))
    assert ids(batcher.next()) == [0, 2]
    assert ids(batcher.next()) == [1, 3]


def test_rows_count_not_requests() -> None:
    batcher = Batcher(4, joins=True)
    batcher.add(request(1, 1.0, 2.0, 3.0))
    batcher.add(request(2, 1.0, 2.0))
    batcher.add(request(3, *range(9)))
    assert [ids(batcher.next()) for _ in range(3)] == [[1], [2], [3]]


def test_few_fast_rows_are_given_out_eight_at_a_time() -> None:
    batcher = Batcher(32, joins=True)
    batcher.took(10, 10 * FAST_ROW_S / 2)
    for id_ in range(2 * OVERLAP_ROWS):
        batcher.add(request(id_, 1.0))
    assert len(batcher.next()) == OVERLAP_ROWS
    for id_ in range(2 * OVERLAP_ROWS):
        batcher.add(request(id_, 1.0))
    assert len(batcher.next()) == 3 * OVERLAP_ROWS
    slow = Batcher(32, joins=True)
    slow.took(10, 10 * FAST_ROW_S * 2)
    for id_ in range(2 * OVERLAP_ROWS):
        slow.add(request(id_, 1.0))
    assert len(slow.next()) == 2 * OVERLAP_ROWS


def test_models_without_a_batch_axis_run_one_at_a_time() -> None:
    batcher = Batcher(4, joins=False)
    batcher.add(request(1, 1.0))
    batcher.add(request(2, 1.0))
    assert [ids(batcher.next()) for _ in range(2)] == [[1], [2]]


def test_cancelled_requests_are_not_given_out() -> None:
    batcher = Batcher(4, joins=True)
    requests = [request(id_, 1.0) for id_ in range(3)]
    for each in requests:
        batcher.add(each)
    batcher.cancel(requests[0])
    batcher.cancel(requests[1])
    assert len(batcher) == 1
    assert ids(batcher.next()) == [2]


def test_batches_of_slow_rows_are_smaller() -> None:
    batcher = Batcher(32, joins=True)
    assert batcher.max_rows() == 32
    batcher.took(4, TARGET_BATCH_S)
    assert batcher.max_rows() == 4
    batcher = Batcher(32, joins=True)
    batcher.took(1, 100 * TARGET_BATCH_S)
    assert batcher.max_rows() == 1


def double(arrays: Tensors) -> Tensors:
    return {"y": arrays["x"] * 2}


def refusing(value: float) -> Callable[[Tensors], Tensors]:
    def infer(arrays: Tensors) -> Tensors:
        if (arrays["x"] == value).any():
            raise InvalidInput(f"{value} is refused.")
        return double(arrays)

    return infer


def test_each_request_gets_its_own_rows() -> None:
    requests = [request(1, 1.0), request(2, 2.0, 3.0), request(3, 4.0)]
    results = dict(
        (each.id, outcome) for each, outcome in run_batch(requests, double, joins=True, max_rows=8)
    )
    for each in requests:
        outcome = results[each.id]
        assert each.batch is not None
        assert isinstance(outcome, dict)
        np.testing.assert_array_equal(outcome["y"], each.batch.arrays["x"] * 2)


def test_only_the_culprit_of_a_batch_fails() -> None:
    requests = [request(1, 1.0), request(2, 13.0), request(3, 3.0)]
    results = [
        outcome for _, outcome in run_batch(requests, refusing(13.0), joins=True, max_rows=8)
    ]
    assert isinstance(results[0], dict)
    assert isinstance(results[1], InvalidInput)
    assert isinstance(results[2], dict)


def test_a_model_that_mixes_rows_is_not_trusted_with_batches() -> None:
    def first_row_only(arrays: Tensors) -> Tensors:
        return {"y": arrays["x"][:1]}

    requests = [request(1, 1.0), request(2, 2.0)]
    results = [o for _, o in run_batch(requests, first_row_only, joins=True, max_rows=8)]
    assert [float(o["y"][0, 0]) for o in results if isinstance(o, dict)] == [1.0, 2.0]


@pytest.mark.parametrize("max_rows", [1, 3, 4, 100])
def test_a_long_request_is_split_and_put_together(max_rows: int) -> None:
    sizes: list[int] = []

    def infer(arrays: Tensors) -> Tensors:
        sizes.append(len(arrays["x"]))
        return double(arrays)

    ((_, outcome),) = run_batch([request(1, *range(10))], infer, joins=True, max_rows=max_rows)
    assert isinstance(outcome, dict)
    assert outcome["y"][:, 0].tolist() == [2.0 * value for value in range(10)]
    assert max(sizes) <= max_rows


def in_parts(id_: int, *widths: int) -> BatchRequest:
    parts = tuple(
        Batch(arrays={"x": np.full((1, width), width, np.float32)}, size=1, row_cost=width)
        for width in widths
    )
    request = BatchRequest(id=id_)
    request.begin(Batch(arrays={}, size=len(parts), parts=parts))
    return request


def test_a_request_in_parts_runs_one_after_another_with_others_between() -> None:
    batcher = Batcher(8, joins=True)
    long, short = in_parts(1, 2, 2, 3), request(2, 5.0, width=4)
    batcher.add(long)
    batcher.add(short)
    order, answers = [], {}
    while batch := batcher.next():
        order.append([each.id for each in batch])
        for each, outcome in run_batch(batch, double, joins=True, max_rows=8):
            assert isinstance(outcome, dict)
            whole = each.end_part({"y": outcome["y"][:, :1]})
            if whole is None:
                batcher.add(each)
            else:
                answers[each.id] = whole[1]["y"][:, 0].tolist()
    assert order == [[1], [2], [1], [1]]
    assert answers == {1: [4, 4, 6], 2: [10]}


def test_rows_that_cost_more_join_less() -> None:
    batcher = Batcher(32, joins=True)
    batcher.took(100, TARGET_BATCH_S / 2)
    assert batcher.max_rows(1) == 32
    assert batcher.max_rows(20) == 10
    assert batcher.max_rows(1000) == 1
    for id_ in range(40):
        batcher.add(in_parts(id_, 20, 20))
    assert len(batcher.next()) == 10


PADDED = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, -1, 2), axes=("batch", "time", "")),
        TensorSpec(name="mask", dtype="bool", shape=(-1, -1), axes=("batch", "time")),
    ),
    outputs=(
        TensorSpec(name="sum", dtype="float32", shape=(-1, 2), axes=("batch", "")),
        TensorSpec(name="same", dtype="float32", shape=(-1, -1, 2), axes=("batch", "time", "")),
    ),
    pad_axis="time",
    pads={"x": 0, "mask": 1},
)


def masked(arrays: Tensors) -> Tensors:
    """A sum over what the mask (True: hidden) lets through, and the input."""
    shown = np.where(arrays["mask"][..., None], 0, arrays["x"])
    return {"sum": shown.sum(1), "same": arrays["x"]}


def test_lengths_of_one_magnitude_join_where_a_mask_hides_what_fills_up() -> None:
    rng = np.random.default_rng(0)
    padding = Padding.of(PADDED)
    batcher = Batcher(8, joins=True, padding=padding)
    calls: list[tuple[int, ...]] = []

    def infer(arrays: Tensors) -> Tensors:
        calls.append(arrays["x"].shape)
        return masked(arrays)

    requests = []
    for number, length in enumerate((5, 7, 4, 9)):
        arrays = {
            "x": rng.standard_normal((1 + number % 2, length, 2)).astype(np.float32),
            "mask": rng.random((1 + number % 2, length)) < 0.3,
        }
        one = BatchRequest(id=number)
        one.begin(Batch(arrays=arrays, size=len(arrays["x"])))
        batcher.add(one)
        requests.append(one)
    found = {}
    while chosen := batcher.next():
        for one, outputs in run_batch(chosen, infer, joins=True, max_rows=8, padding=padding):
            assert isinstance(outputs, dict), outputs
            found[one.id] = outputs
    assert calls == [(4, 7, 2), (2, 9, 2)]
    for one in requests:
        assert one.batch is not None
        for name, want in masked(one.batch.arrays).items():
            np.testing.assert_allclose(found[one.id][name], want, atol=1e-6)
