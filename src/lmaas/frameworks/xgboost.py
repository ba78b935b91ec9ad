"""XGBoost: trees of a `Booster`, or of a scikit-learn style model of XGBoost, from their JSON.

A row goes left where its number is less than the threshold; both are float32. Source: "XGBoost JSON
model schema", https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import forest
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.frameworks.forest import HIGH, LOW, Forest, Node
from lmaas.tasks import Tensors
from lmaas.types import BATCH, FrameworkName, TensorSpec

INPUT: Final = "features"
FILE: Final = "model.json"
BINARY: Final = {"binary:logistic", "binary:logitraw"}
PLAIN: Final = {
    "reg:squarederror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror",
    "multi:softprob", "multi:softmax", "rank:pairwise", "rank:ndcg", "rank:map",
}  # fmt: skip
"""Objectives whose scores are the sums of leaves as they are."""


class XGBoost(Deterministic):
    """Verbs for `xgboost.Booster`."""

    name: FrameworkName = "xgboost"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a booster, or a model that has one."""
        import xgboost

        return isinstance(model, xgboost.Booster) or hasattr(model, "get_booster")

    def version(self) -> str:
        """XGBoost's version."""
        import xgboost

        return str(xgboost.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """One row of numbers for each sample."""
        return [TensorSpec(name=INPUT, dtype="float32", shape=(BATCH, _features(model)))]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The one input."""
        return [INPUT]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`model.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(_booster(model).save_raw("json"))

    def load(self, folder: Path, like: Any = None) -> Any:
        """The booster in a `.json` or `.ubj` file, or in `model.json` of a folder."""
        import xgboost

        path = folder / FILE if folder.is_dir() else folder
        try:
            return xgboost.Booster(model_file=str(path))
        except xgboost.core.XGBoostError as error:
            raise InvalidInput(f"{path.name} is no model of XGBoost: {str(error)[:200]}") from None

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Scores before any link, or logits of two classes (N, outputs) float32."""
        import xgboost

        (features,) = arrays.values()
        booster = _booster(model)
        matrix = xgboost.DMatrix(features, feature_names=booster.feature_names)
        scores = booster.predict(matrix, output_margin=True).reshape(len(features), -1)
        if _objective(booster) in BINARY:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        return {"scores": scores.astype(np.float32)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Gathers over all trees at once."""
        yield Form("openvino", "trees", lambda _: forest.graph(parse(_booster(model))))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Features and sums in float32; answers are scores, as `predict(output_margin=True)`."""
        return Facts("f32", ("Answers are scores before the link function (output_margin=True).",))

    def num_parameters(self, model: Any) -> int:
        """Thresholds and leaves."""
        return len(parse(_booster(model)).nodes)


def _booster(model: Any) -> Any:
    """The trees that the model itself predicts with."""
    if not hasattr(model, "get_booster"):
        return model
    booster = model.get_booster()
    try:
        best = model.best_iteration
    except AttributeError:
        return booster
    return booster[: best + 1]


def _features(model: Any) -> int:
    return int(_booster(model).num_features())


def _objective(booster: Any) -> str:
    return str(json.loads(booster.save_config())["learner"]["objective"]["name"])


def parse(booster: Any) -> Forest:
    """The trees of a booster. Raises InvalidInput for others than are compiled."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective, sizes = learner["objective"]["name"], learner["learner_model_param"]
    grown = learner["gradient_booster"]
    weights = None
    if grown["name"] == "dart":
        weights, grown = grown["weight_drop"], grown["gbtree"]
    if grown["name"] != "gbtree" or objective not in BINARY | PLAIN:
        raise InvalidInput(
            f"Boosters of {grown['name']} for {objective} do not compile.",
            hint=f"Served are trees for {', '.join(sorted(BINARY | PLAIN))}.",
        )
    scores = max(1, int(sizes["num_class"]), int(sizes.get("num_target", 1)))
    bases = [float(value) for value in sizes["base_score"].strip("[]").split(",")]
    if objective == "binary:logistic":
        bases = [math.log(base / (1 - base)) for base in bases]
    found = Forest(
        features=int(sizes["num_feature"]), scores=scores, binary=objective in BINARY, sizes={}
    )
    model = grown["model"]
    # Number i adds to score i modulo `scores`: each round of them is filled up with nothing.
    for score in range(scores):
        _leaf(found, bases[score if len(bases) > 1 else 0])
    for number, (tree, group) in enumerate(zip(model["trees"], model["tree_info"], strict=True)):
        while len(found.roots) % scores != group:
            _leaf(found, 0.0)
        _grow(found, tree, 1.0 if weights is None else weights[number])
    while len(found.roots) % scores:
        _leaf(found, 0.0)
    return found


def _leaf(found: Forest, value: float) -> None:
    at = len(found.nodes)
    found.roots.append(at)
    found.nodes.append(Node(left=at, value=value))


def _grow(found: Forest, tree: dict[str, Any], weight: float) -> None:
    """Add a tree, level by level, so that siblings stand side by side."""
    if any(tree["split_type"]) or int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise InvalidInput("Trees with categories or several values a leaf do not compile.")
    found.roots.append(len(found.nodes))
    found.nodes.append(Node(left=0))
    level, depth = [(0, len(found.nodes) - 1)], -1
    while level:
        depth += 1
        below = []
        for number, at in level:
            left, right = tree["left_children"][number], tree["right_children"][number]
            told = tree["split_conditions"][number]
            if left < 0:
                found.nodes[at] = Node(left=at, value=float(told) * weight)
                continue
            place = len(found.nodes)
            found.nodes += [Node(left=place), Node(left=place + 1)]
            found.nodes[at] = Node(
                left=place,
                feature=int(tree["split_indices"][number]),
                threshold=float(np.nextafter(np.float32(told), np.float32(-np.inf))),
                reading=LOW if tree["default_left"][number] else HIGH,
            )
            below += [(left, place), (right, place + 1)]
        level = below
    found.depth = max(found.depth, depth)


FRAMEWORK: Framework = XGBoost()
