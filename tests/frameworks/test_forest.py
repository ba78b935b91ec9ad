"""Compiled trees answer as LightGBM does: on, beside and far from every threshold."""

from typing import Any

import lightgbm as lgb  # noqa: TID253 - what is compared with
import numpy as np
import pytest

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.frameworks import forest
from lmaas.frameworks.lightgbm import text_of
from lmaas.runtime import ov

FEATURES, CATEGORICAL = 6, [1, 4]
OUT_OF_RANGE = (np.nan, -1, -0.5, 3.7, 40, 1e30, -1e30, np.inf, -np.inf)
OPTIONS = {"num_leaves": 15, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}


def rows(count: int, seed: int) -> np.ndarray:
    """Numbers, of which two in twelve are missing but for column 2, and categories."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, FEATURES)).astype(np.float32)
    x[:, CATEGORICAL] = random.integers(0, 36, (count, 2))
    x[random.random(x.shape) < 1 / 6] = np.nan
    x[:, 2] = random.standard_normal(count).astype(np.float32) / 3
    return x


def boosted(objective: str, rounds: int = 30, **options: Any) -> Any:
    x = rows(1500, 0)
    score = np.nan_to_num(x[:, 0]) + np.sin(np.nan_to_num(x[:, 1])) + np.isnan(x[:, 3]) + x[:, 2]
    score += np.nan_to_num(x[:, 4]) % 7 / 5
    y = {"binary": score > 1, "multiclass": np.digitize(score, [0.5, 1.5])}.get(objective, score)
    more = {"num_class": 3} if objective == "multiclass" else {}
    data = lgb.Dataset(x, np.asarray(y, float), categorical_feature=CATEGORICAL)
    given = {**OPTIONS, **more, "objective": objective, **options}
    return lgb.train(given, data, num_boost_round=rounds)


def hard_rows(trees: forest.Forest) -> np.ndarray:
    """Rows with numbers at thresholds and next to them, and with what no training row had."""
    x = rows(900, 1)
    split = [n for n in trees.nodes if not n.categorical and np.isfinite(n.threshold)]
    for row, node in enumerate(split[: len(x)]):
        at = np.float32(node.threshold)
        beside = (at, np.nextafter(at, np.float32(9e9)), np.nextafter(at, np.float32(-9e9)))
        x[row, node.feature] = beside[row % 3]
    x[:9, 1], x[:9, 4], x[9:18, 0] = OUT_OF_RANGE, OUT_OF_RANGE, OUT_OF_RANGE
    x[18], x[19], x[20], x[21] = np.nan, np.inf, -np.inf, 0
    return x


@pytest.mark.parametrize("objective", ["regression", "binary", "multiclass"])
def test_the_graph_gives_the_boosters_scores(objective: str) -> None:
    booster = boosted(objective)
    trees = forest.parse(text_of(booster))
    assert {n.reading for n in trees.nodes} == {forest.LOW, forest.HIGH, forest.ZERO}
    assert any(n.categorical for n in trees.nodes)
    x = hard_rows(trees)
    compiled = (
        ov.load()
        .Core()
        .compile_model(forest.graph(trees), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    for part in (x, x[:1], x[5:8]):
        (want,) = frameworks.get("lightgbm").run(booster, {"features": part}).values()
        got = compiled([part])[0]
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    if objective == "binary":
        scores = frameworks.get("lightgbm").run(booster, {"features": x})["scores"].astype(float)
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(shares[:, 1], booster.predict(x), atol=1e-6)


def test_trees_without_a_split_are_their_leaf() -> None:
    booster = lgb.train(
        {**OPTIONS, "objective": "regression"},
        lgb.Dataset(np.zeros((5, FEATURES), np.float32), np.arange(5.0)),
        num_boost_round=3,
    )
    trees = forest.parse(text_of(booster))
    assert trees.depth == 0
    compiled = ov.load().Core().compile_model(forest.graph(trees), "CPU")
    np.testing.assert_allclose(compiled([rows(4, 2)])[0], np.full((4, 1), 2.0), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"linear_tree": True}, "linear leaves"),
        ({"zero_as_missing": True}, "0 for missing"),
        ({"sigmoid": 2.0}, "sigmoid"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "boosting gbdt"),
    ],
)
def test_other_trees_are_refused(options: dict[str, Any], word: str) -> None:
    booster = boosted("binary", 5, **options)
    with pytest.raises(InvalidInput, match=word):
        forest.graph(forest.parse(text_of(booster)))


def test_a_text_that_is_no_model_is_refused() -> None:
    for text in ("", "tree\nversion=v4\n", "tree\nversion=v3\n\nTree=0\n"):
        with pytest.raises(InvalidInput, match="LightGBM"):
            forest.parse(text)


def test_equal_trees_are_equal_texts() -> None:
    few, many = boosted("binary", 5), boosted("binary", 30)
    assert text_of(few) == text_of(many, 5) != text_of(many)
