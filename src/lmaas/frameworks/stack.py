"""Stacks: boosted trees, linear models and dense nets over the same rows, their answers added up.

A stack is plain data: LightGBM's texts and matrices in safetensors. It reads rows of features,
those for trees first, those for dense layers after them, and compiles to one graph.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import lmaas
from lmaas.errors import InvalidInput
from lmaas.frameworks import forest
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.frameworks.lightgbm import booster_of, logits
from lmaas.runtime import ov
from lmaas.tasks import Tensors
from lmaas.tasks.base import softmax
from lmaas.types import BATCH, FrameworkName, Record, TensorSpec

FILE: Final = "stack.json"
MATRICES: Final = "dense.safetensors"
INPUT: Final = "features"
BEND: Final = 3.0
"""From about so many deviations on a net sees little difference."""

CELLS_A_THREAD: Final = 100_000
"""With fewer cells threads wait for each other longer than they work; 0 threads are all."""
LEAVES: Final = re.compile(r"^num_leaves=(\d+)$", re.MULTILINE)

Layer = tuple[np.ndarray, np.ndarray]
"""A matrix (inputs, outputs) and what is added (outputs,), float32."""


class Dense(msgspec.Struct, frozen=True, kw_only=True):
    """Layers with ReLU between them. With `bends`, features are bent towards three deviations."""

    layers: list[Layer]
    bends: bool = False

    def run(self, features: np.ndarray) -> np.ndarray:
        """Outputs (N, K) of features (N, D)."""
        rows = features.astype(np.float32)
        if self.bends:
            rows = rows / np.sqrt(1 + (rows / np.float32(BEND)) ** 2)
        for number, (matrix, bias) in enumerate(self.layers):
            rows = (np.maximum(rows, 0) if number else rows) @ matrix + bias
        return rows


class Trees(msgspec.Struct, frozen=True, kw_only=True):
    """A booster of LightGBM, as text."""

    text: str

    def run(self, features: np.ndarray) -> np.ndarray:
        """Raw scores, or logits of two classes (N, K)."""
        threads = 1 if features.size < CELLS_A_THREAD else 0
        found = _booster(self.text).predict(features, raw_score=True, num_threads=threads)
        scores = found.reshape(len(features), -1)
        return logits(scores, binary=" binary " in f" {_objective(self.text)} ")


SubModel = Trees | Dense


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Models of one kind, whose mean counts with `weight`."""

    name: str
    weight: float
    parts: Sequence[SubModel]


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """Members over rows of `widths` features for trees and dense layers.

    The outputs are probabilities of `classes`, or, where that is 0, one number.
    """

    widths: tuple[int, int]
    classes: int
    members: list[Member]


class _Described(Record, frozen=True, kw_only=True):
    """A member in the file: how many trees' texts, or the layers of each of its nets."""

    name: str
    weight: float
    trees: int = 0
    layers: tuple[int, ...] = ()
    bends: bool = False


class _File(Record, frozen=True, kw_only=True):
    """What FILE holds."""

    widths: tuple[int, int]
    classes: int
    members: tuple[_Described, ...]


class Stacked(Deterministic):
    """Verbs for `Stack`."""

    name: FrameworkName = "stack"

    def owns(self, model: Any) -> bool:
        """Whether `model` is one."""
        return isinstance(model, Stack)

    def version(self) -> str:
        """Ours, for the format is ours."""
        return lmaas.__version__

    def inputs(self, model: Any) -> list[TensorSpec]:
        """One row of numbers for each sample."""
        return [TensorSpec(name=INPUT, dtype="float32", shape=(BATCH, sum(model.widths)))]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The one input."""
        return [INPUT]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`stack.json`, a text for each booster, and all matrices in one file."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        matrices: dict[str, np.ndarray] = {}
        told = []
        for number, member in enumerate(model.members):
            trees, nets = _kinds(member)
            for index, part in enumerate(trees):
                (folder / f"trees-{number}-{index}.txt").write_text(part.text, "utf-8")
            for index, net in enumerate(nets):
                for depth, layer in enumerate(net.layers):
                    for name, array in zip(("matrix", "bias"), layer, strict=True):
                        matrices[f"{number}.{index}.{depth}.{name}"] = np.ascontiguousarray(array)
            told.append(
                _Described(
                    name=member.name,
                    weight=member.weight,
                    trees=len(trees),
                    layers=tuple(len(net.layers) for net in nets),
                    bends=any(net.bends for net in nets),
                )
            )
        if matrices:
            save_file(matrices, folder / MATRICES)
        file = _File(widths=model.widths, classes=model.classes, members=tuple(told))
        (folder / FILE).write_bytes(msgspec.json.encode(file))

    def load(self, folder: Path, like: Any = None) -> Stack:
        """The stack that `save` wrote. Raises InvalidInput for a damaged one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            file = msgspec.json.decode((folder / FILE).read_bytes(), type=_File)
            found = load_file(folder / MATRICES) if (folder / MATRICES).exists() else {}
            members = []
            for number, told in enumerate(file.members):
                parts: list[SubModel] = [
                    Trees(text=(folder / f"trees-{number}-{index}.txt").read_text("utf-8"))
                    for index in range(told.trees)
                ]
                for index, layers in enumerate(told.layers):
                    keys = [f"{number}.{index}.{depth}" for depth in range(layers)]
                    pairs = [(found[f"{key}.matrix"], found[f"{key}.bias"]) for key in keys]
                    parts.append(Dense(layers=pairs, bends=told.bends))
                members.append(Member(name=told.name, weight=told.weight, parts=parts))
        except (OSError, KeyError, UnicodeDecodeError, msgspec.DecodeError, SafetensorError) as e:
            raise InvalidInput(f"{FILE} or what it names is damaged: {e}.") from None
        return Stack(widths=file.widths, classes=file.classes, members=members)

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Probabilities, or numbers (N, 1)."""
        (features,) = arrays.values()
        return {"outputs": outputs(model, features).astype(np.float32)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """One graph of all members."""
        yield Form("openvino", "trees and layers", lambda _: _graph(model))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Features and sums in float32."""
        return Facts("f32")

    def num_parameters(self, model: Any) -> int:
        """Thresholds and leaves, and the elements of matrices."""
        count = 0
        for member in model.members:
            trees, nets = _kinds(member)
            leaves = (int(n) for part in trees for n in LEAVES.findall(part.text))
            count += sum(2 * each - 1 for each in leaves)
            count += sum(array.size for net in nets for layer in net.layers for array in layer)
        return count


def outputs(model: Stack, features: np.ndarray) -> np.ndarray:
    """What a stack answers, float64: probabilities (N, classes), or numbers (N, 1)."""
    width = model.widths[0]
    total: Any = 0.0
    for member in model.members:
        scores = [
            part.run(features[:, :width] if isinstance(part, Trees) else features[:, width:])
            for part in member.parts
        ]
        mean = np.mean([each.astype(np.float64) for each in scores], axis=0)
        total = total + member.weight * (softmax(mean) if model.classes else mean)
    return np.asarray(total)


def _kinds(member: Member) -> tuple[list[Trees], list[Dense]]:
    return (
        [part for part in member.parts if isinstance(part, Trees)],
        [part for part in member.parts if isinstance(part, Dense)],
    )


@lru_cache(maxsize=64)
def _booster(text: str) -> Any:
    return booster_of(text)


def _objective(text: str) -> str:
    return text.partition("\nobjective=")[2].partition("\n")[0]


def _graph(model: Stack) -> Any:
    ov.load()
    import openvino
    from openvino import opset13 as ops

    def constant(values: Any) -> Any:
        return ops.constant(np.ascontiguousarray(values, np.float32))

    def columns(first: int, last: int) -> Any:
        ends = (np.array([value], np.int64) for value in (first, last, 1, 1))
        return ops.slice(features, *map(ops.constant, ends))

    def dense(net: Dense) -> Any:
        rows = columns(width, sum(model.widths))
        if net.bends:
            square = ops.power(ops.multiply(rows, constant(1 / BEND)), constant(2))
            rows = ops.divide(rows, ops.sqrt(ops.add(square, constant(1))))
        for number, (matrix, bias) in enumerate(net.layers):
            rows = ops.relu(rows) if number else rows
            rows = ops.matmul(rows, constant(matrix), False, False)
            rows = ops.add(rows, constant(bias[np.newaxis]))
        return rows

    width = model.widths[0]
    features = ops.parameter([-1, sum(model.widths)], np.float32, name=INPUT)
    total = None
    for member in model.members:
        trees, nets = _kinds(member)
        if trees:
            grown = forest.mean([part.text for part in trees])
            scores = forest.scores(ops, columns(0, width), grown)
        else:
            scores = dense(nets[0])
            for net in nets[1:]:
                scores = ops.add(scores, dense(net))
            scores = ops.multiply(scores, constant(1 / len(nets)))
        told = ops.softmax(scores, 1) if model.classes else scores
        told = ops.multiply(told, constant(member.weight))
        total = told if total is None else ops.add(total, told)
    return openvino.Model([total], [features], "stack")


FRAMEWORK: Framework = Stacked()
