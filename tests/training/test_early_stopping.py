import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner_kit import Points, equal, learner, recipe
from lmaas.errors import InvalidInput
from lmaas.recipe import EarlyStopping, TrainingFramework
from lmaas.training.base import Feed
from lmaas.training.early_stopping import Watch
from lmaas.training.learners import LEARNERS
from lmaas.training.loop import train


def stop_at(values: list[float], **rule: Any) -> tuple[int | None, int]:
    """After which evaluation the rule stops, and which was best (both from 1)."""
    given, watch = EarlyStopping(**rule), Watch()
    for step, value in enumerate(values, 1):
        watch.seen({given.metric: value}, step, given)
        if watch.over(given):
            return step, watch.best_step
    return None, watch.best_step


@pytest.mark.parametrize(
    ("values", "rule", "stops", "best"),
    [
        ([5, 4, 3, 3, 3, 2], {"patience": 2}, 5, 3),
        ([5, 4, 3, 3, 2.9, 2], {"patience": 2}, None, 6),
        ([5, 4, 3, 2.95, 2.92, 2], {"patience": 2, "min_delta": 0.1}, 5, 3),
        ([1, 2, 3, 2, 2], {"metric": "accuracy", "patience": 2}, 5, 3),
        ([1, 2, 3, 2, 2], {"metric": "odd", "mode": "min", "patience": 4}, 5, 1),
        ([3, math.nan, math.nan, 1], {"patience": 2}, 3, 1),
        ([math.nan, 2, 1], {"patience": 2}, None, 3),
        ([3, 2, 3, 1, 2, 2, 2], {"patience": 3}, 7, 4),
    ],
)
def test_it_stops_where_the_rule_says(
    values: list[float], rule: dict[str, Any], stops: int | None, best: int
) -> None:
    assert stop_at(values, **rule) == (stops, best)


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="watches 'f1'; evaluated are accuracy, loss"):
        Watch().seen({"loss": 1.0, "accuracy": 1.0}, 1, EarlyStopping(metric="f1"))


class Known(Points):
    """Held-out accuracy is a known sequence, whatever was learned."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def meter(self) -> Any:
        this = self

        class Told:
            def add(self, outputs: Any, feed: Feed) -> None:
                assert np.isfinite(next(iter(outputs.values()))).all()

            def result(self) -> dict[str, float]:
                return {"accuracy": next(this.values, 0.0)}

        return Told()


@pytest.mark.parametrize("framework", LEARNERS)
@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_come_back(
    framework: TrainingFramework, tmp_path: Path, restore: bool
) -> None:
    rule = {"metric": "accuracy", "patience": 2, "restore_best": restore}
    given = recipe(framework, epochs=20, early_stopping=rule)
    this = learner(given)
    seen = []
    evaluate = this.evaluate

    def noted(feed: Feed) -> Any:
        seen.append(this.weights())
        return evaluate(feed)

    this.evaluate = noted  # type: ignore[method-assign]
    points = Known([0.1, 0.5, 0.4, 0.3, 0.9])
    outcome = train(points, this, given, tmp_path, lambda _: None)
    assert outcome.stopped_early
    assert outcome.steps == 4 * 7
    each = 3  # batches of an evaluation
    assert outcome.best_step == (2 * 7 if restore else None)
    expected = seen[each] if restore else seen[3 * each]
    assert equal(this.weights(), expected)


@pytest.mark.parametrize("given", [{"early_stopping": {}}, {"schedule": {"name": "plateau"}}])
def test_it_needs_something_to_look_at(given: dict[str, Any], tmp_path: Path) -> None:
    made = recipe(**given)
    with pytest.raises(InvalidInput, match="held-out"):
        train(Points(held_out=0), learner(made), made, tmp_path, lambda _: None)
