"""Boosted trees as arrays, and as a graph of gathers that gives the same answers.

Knows the text that LightGBM saves a model as (its format v4) and OpenVINO, neither tables nor
files. In the graph all trees take one step down at a time, for all rows at once; a leaf is a node
whose only way leads to itself. LightGBM compares float64; thresholds are rounded down to float32
here, which changes no comparison with a number that is a float32.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime import ov

VERSION: Final = "v4"
LINKED: Final = {
    "poisson", "gamma", "tweedie", "cross_entropy", "cross_entropy_lambda", "multiclassova", "sqrt",
}  # fmt: skip
"""Objectives whose predictions are not the sums of leaves."""
CATEGORICAL, DEFAULT_LEFT = 1, 2
MISSING_NONE, MISSING_NAN = 0, 2
LARGEST: Final = np.float32(np.finfo(np.float32).max)
LOW, HIGH, ZERO = 0, 1, 2
"""What a missing number counts as: less than all others, more than all others, 0."""
MOST_MEMBERS: Final = 1 << 24
"""Whole numbers up to here are float32s."""


class Node(msgspec.Struct, kw_only=True):
    """A row goes to node `left` if its feature is at most `threshold`, else to `left` + 1.

    `reading` says what a missing number counts as. With `categorical`, it goes left if the place
    of its category in `Forest.members`, from `threshold` on, holds 0. A leaf's `value` is what its
    tree adds.
    """

    left: int
    feature: int = 0
    threshold: float = float("inf")
    reading: int = HIGH
    categorical: bool = False
    value: float = 0.0


class Forest(msgspec.Struct, kw_only=True):
    """Trees whose roots are `roots`; number i adds to score i modulo `scores`.

    With `binary` there is one score, and the outputs are logits of two classes: 0 and the score.

    `sizes` are the numbers of categories of the features that have some: a category is a whole
    number from 0 on, and those that no node names go right. `depth` is the longest way.
    """

    features: int
    scores: int
    binary: bool
    sizes: dict[int, int]
    roots: list[int] = []
    nodes: list[Node] = []
    members: list[int] = []
    depth: int = 0

    def array(self, field: str, dtype: Any) -> np.ndarray:
        """A field of all nodes (N,)."""
        return np.array([getattr(node, field) for node in self.nodes], dtype)


def parse(text: str) -> Forest:
    """The trees in a model's text. Raises InvalidInput for what is no such text, or other trees."""
    return mean([text])


def mean(texts: Sequence[str]) -> Forest:
    """One forest whose scores are the means of those of the models, all of the same features.

    Raises InvalidInput for what is no such text, or other trees.
    """
    read = [_read(text) for text in texts]
    trees = [tree for _, each in read for tree in each]
    forest = msgspec.structs.replace(
        read[0][0], sizes=_sizes(trees), roots=[], nodes=[], members=[]
    )
    for tree in trees:
        _grow(forest, tree)
    if len(forest.members) >= MOST_MEMBERS:
        raise InvalidInput("The trees tell too many categories apart to be compiled.")
    if len(texts) > 1:
        for node in forest.nodes:
            node.value /= len(texts)
    return forest


def _read(text: str) -> tuple[Forest, list[dict[str, str]]]:
    """A forest with nothing in it yet, and the fields of its trees."""
    head, *blocks = text.partition("\nend of trees")[0].split("\nTree=")
    known = _fields(head)
    if known.get("version") != VERSION or not blocks or "average_output" in head.split():
        raise InvalidInput(
            f"These are no boosted trees in LightGBM's text format {VERSION}.",
            hint="Boost with LightGBM 4 (boosting gbdt), at least one round.",
        )
    objective = known.get("objective", "").split()
    if "binary" in objective and "sigmoid:1" not in objective:
        raise InvalidInput("Trees with another sigmoid than 1 do not compile.", param="sigmoid")
    if LINKED & set(objective):
        raise InvalidInput(
            f"Trees for {objective[0]} answer through a link function, and do not compile.",
            hint="Take regression, binary or multiclass.",
            param="objective",
        )
    forest = Forest(
        features=int(known["max_feature_idx"]) + 1,
        scores=int(known["num_tree_per_iteration"]),
        binary="binary" in objective,
        sizes={},
    )
    return forest, [_fields(block) for block in blocks]


def _grow(forest: Forest, tree: dict[str, str]) -> None:
    """Add a tree, level by level, so that siblings stand side by side."""
    if tree.get("is_linear", "0") != "0":
        raise InvalidInput("Trees with linear leaves do not compile.", param="linear_tree")
    values = _numbers(tree["leaf_value"])
    children = [_numbers(tree.get(f"{side}_child", "")).astype(int) for side in ("left", "right")]
    splits = _splits(tree)
    forest.roots.append(len(forest.nodes))
    # The format calls leaf number n ~n; a tree without a split is its leaf ~0.
    level = [(0 if splits else ~0, len(forest.nodes))]
    forest.nodes.append(Node(left=0))
    depth = -1
    while level:
        depth += 1
        below = []
        for number, at in level:
            if number < 0:
                forest.nodes[at] = Node(left=at, value=float(values[~number]))
                continue
            left = len(forest.nodes)
            forest.nodes[at] = _split(forest, *splits[number], left=left)
            for side, place in zip(children, (left, left + 1), strict=True):
                forest.nodes.append(Node(left=place))
                below.append((int(side[number]), place))
        level = below
    forest.depth = max(forest.depth, depth)


def _splits(tree: dict[str, str]) -> list[tuple[int, float, int, np.ndarray]]:
    """Of each inner node: feature, threshold, kind, and the categories that go left."""
    names = ("split_feature", "threshold", "decision_type", "cat_boundaries", "cat_threshold")
    features, thresholds, kinds, bounds, words = (_numbers(tree.get(name, "")) for name in names)
    found = []
    for feature, threshold, kind in zip(features, thresholds, kinds.astype(int), strict=True):
        named = np.zeros(0, np.int64)
        if kind & CATEGORICAL:
            first, last = bounds[int(threshold) : int(threshold) + 2].astype(int)
            bits = words[first:last].astype("<u4").view(np.uint8)
            named = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        found.append((int(feature), float(threshold), int(kind), named))
    return found


def _split(
    forest: Forest, feature: int, threshold: float, kind: int, named: np.ndarray, *, left: int
) -> Node:
    if kind & CATEGORICAL:
        # One place before the first category and one after the last, for what is neither.
        members = np.ones(forest.sizes[feature] + 2, np.int64)
        members[1 + named] = 0
        at = len(forest.members)
        forest.members += members.tolist()
        return Node(left=left, feature=feature, threshold=at, categorical=True)
    missing = kind >> 2 & 3
    if missing not in (MISSING_NONE, MISSING_NAN):
        raise InvalidInput("Trees that take 0 for missing do not compile.", param="zero_as_missing")
    reading = ZERO
    if missing == MISSING_NAN:
        reading = LOW if kind & DEFAULT_LEFT else HIGH
    return Node(left=left, feature=feature, threshold=_at_most(threshold), reading=reading)


def _at_most(threshold: float) -> float:
    """The largest finite float32 that is not above `threshold`."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    if float(near) > threshold:
        near = np.nextafter(near, np.float32(-np.inf))
    return float(min(near, LARGEST))


def _sizes(trees: list[dict[str, str]]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for tree in trees:
        for feature, _, kind, named in _splits(tree):
            if kind & CATEGORICAL:
                sizes[feature] = max(sizes.get(feature, 0), int(named.max(initial=-1)) + 1)
    return sizes


def _fields(block: str) -> dict[str, str]:
    """The lines of a block that say NAME=VALUE."""
    parts = (line.partition("=") for line in block.splitlines())
    return {name: value for name, equals, value in parts if equals}


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), np.float64)


def graph(forest: Forest) -> Any:
    """An `openvino.Model` from features (batch, F) float32, NaN where missing, to the scores, or
    logits of two classes, (batch, outputs) float32.
    """
    ov.load()
    import openvino
    from openvino import opset13 as ops

    features = ops.parameter([-1, forest.features], np.float32, name="features")
    return openvino.Model([scores(ops, features, forest)], [features], "trees")


def scores(ops: Any, features: Any, forest: Forest) -> Any:
    """The node of the outputs in a graph where `features` is the node of the features."""

    def constant(values: Any, dtype: Any) -> Any:
        return ops.constant(np.ascontiguousarray(values, dtype))

    count, trees = forest.features, len(forest.roots)
    columns = _columns(ops, features, forest)
    rows = ops.gather(ops.shape_of(features, "i32"), constant([0], np.int32), constant(0, np.int32))
    shape = ops.concat([rows, constant([trees], np.int32)], 0)
    at = ops.broadcast(constant([forest.roots], np.int32), shape)
    wanted = forest.array("feature", np.int32) + count * forest.array("reading", np.int32)
    tables = {
        "wanted": constant(wanted, np.int32),
        "threshold": constant(forest.array("threshold", np.float32), np.float32),
        "left": constant(forest.array("left", np.int32), np.int32),
        "categorical": constant(forest.array("categorical", np.int32), np.int32),
        "members": constant(forest.members or [0], np.int32),
    }
    first = constant(0, np.int32)
    for _ in range(forest.depth):
        own = {n: ops.gather(tables[n], at, first) for n in ("wanted", "threshold", "left")}
        cells = ops.gather_elements(columns, own["wanted"], 1)
        right = ops.convert(ops.greater(cells, own["threshold"]), "i32")
        if forest.members:
            kind = ops.gather(tables["categorical"], at, first)
            places = ops.convert(ops.add(cells, own["threshold"]), "i32")
            places = ops.multiply(places, kind)
            members = ops.gather(tables["members"], places, first)
            right = ops.select(ops.greater(kind, first), members, right)
        at = ops.add(own["left"], right)
    values = ops.gather(constant(forest.array("value", np.float32), np.float32), at, first)
    rounds = constant([0, trees // forest.scores, forest.scores], np.int64)
    sums = ops.reduce_sum(ops.reshape(values, rounds, special_zero=True), constant([1], np.int64))
    if forest.binary:
        sums = ops.concat([ops.multiply(sums, constant(0, np.float32)), sums], 1)
    return sums


def _columns(ops: Any, features: Any, forest: Forest) -> Any:
    """The features in each reading of what is missing, one beside the other (batch, 3 F).

    Of a categorical feature 1 + its whole part, 0 and the largest for what is out of range.
    """

    def constant(values: Any) -> Any:
        return ops.constant(np.ascontiguousarray(values, np.float32))

    missing = ops.is_nan(features)
    finite = ops.clamp(features, -float(LARGEST), float(LARGEST))
    readings = {LOW: -np.inf, HIGH: np.inf, ZERO: 0.0}
    if forest.sizes:
        largest = np.zeros((1, forest.features), np.float32)
        named = list(forest.sizes)
        largest[0, named] = [forest.sizes[feature] + 1 for feature in named]
        categorical = ops.constant(largest > 0)
        # -1 < x < 0 has the whole part 0, as a cast to a whole number has it.
        whole = ops.add(_whole(ops, finite), constant(1))
        whole = ops.minimum(ops.maximum(whole, constant(0)), constant(largest))
        whole = ops.select(missing, constant(0), whole)
    told = []
    for reading in (LOW, HIGH, ZERO):
        column = ops.select(missing, constant(readings[reading]), finite)
        if forest.sizes:
            column = ops.select(categorical, whole, column)
        told.append(column)
    return ops.concat(told, 1)


def _whole(ops: Any, values: Any) -> Any:
    return ops.multiply(ops.sign(values), ops.floor(ops.abs(values)))
