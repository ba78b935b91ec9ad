"""The kit that every framework passes, as functions of one example.

A framework is tested by adding an example. Keras has one backend a process, so the kit also runs
as a script: `python framework_kit.py EXAMPLE FOLDER` ends with 0 when everything holds.
"""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.frameworks.base import Framework
from lmaas.runtime import parity
from lmaas.types import FrameworkName, Manifest

RNG = np.random.default_rng(5)
X = RNG.standard_normal((64, 12)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
IDS = RNG.integers(0, 20, (6, 7))
MAX_ERROR = 1e-5


class Example(NamedTuple):
    """What a framework is tested with; each maker gives a new model.

    `classifier`: (N, 12) float32 to (N, 2) logits, with dropout and batch normalisation where the
    framework has them. `pair`: two float inputs of width 12 called left and right, two outputs;
    None where a model has one input only. `ids`: (N, 7) int64 token ids to floats.
    """

    framework: FrameworkName
    classifier: Callable[[], Any]
    pair: Callable[[], Any] | None
    ids: Callable[[], Any]


def pytorch() -> Example:
    """PyTorch."""
    import torch
    from torch import nn

    class Pair(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 3)

        def forward(self, left: Any, right: Any) -> dict[str, Any]:
            return {"sum": self.layer(left + right), "left": torch.tanh(left)}

    def classifier() -> Any:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
        )

    return Example(
        "pytorch",
        classifier,
        Pair,
        lambda: nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(28, 3)),
    )


def keras() -> Example:
    """Keras, on the backend of this process."""
    import keras

    layers = keras.layers

    def classifier() -> Any:
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((12,), name="x"),
                layers.Dense(16),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.5),
                layers.Dense(2),
            ]
        )

    def pair() -> Any:
        left, right = keras.Input((12,), name="left"), keras.Input((12,), name="right")
        outputs = [layers.Dense(3)(layers.add([left, right])), layers.Activation("tanh")(left)]
        return keras.Model([left, right], outputs)

    def ids() -> Any:
        return keras.Sequential(
            [
                keras.Input((7,), dtype="int64", name="ids"),
                layers.Embedding(20, 4),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )

    return Example("keras", classifier, pair, ids)


def tensorflow() -> Example:
    """TensorFlow modules."""
    import tensorflow as tf

    class Classifier(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(0)
            self.w1 = tf.Variable(rng.standard_normal((12, 16)).astype(np.float32) * 0.3)
            self.w2 = tf.Variable(rng.standard_normal((16, 2)).astype(np.float32) * 0.3)
            self.b2 = tf.Variable(tf.zeros(2))

        @tf.function  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return tf.nn.relu(x @ self.w1) @ self.w2 + self.b2

    class Pair(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones((12, 3)))

        @tf.function  # type: ignore[untyped-decorator]
        def __call__(self, left: Any, right: Any) -> Any:
            return {"sum": (left + right) @ self.w, "left": tf.tanh(left)}

    class Ids(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(tf.random.normal((20, 4)))

        @tf.function  # type: ignore[untyped-decorator]
        def __call__(self, ids: Any) -> Any:
            return tf.reduce_mean(tf.gather(self.table, ids), axis=1)

    return Example("tensorflow", Classifier, Pair, Ids)


def onnx(folder: Path) -> Example:
    """ONNX files, written with the package onnx."""
    import onnx as o
    from onnx import TensorProto, helper, numpy_helper

    def write(name: str, nodes: Any, inputs: Any, outputs: Any, **weights: np.ndarray) -> Any:
        graph = helper.make_graph(
            [helper.make_node(op, i, out, **more) for op, i, out, more in nodes],
            name,
            [helper.make_tensor_value_info(n, t, ["batch", w]) for n, t, w in inputs],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            [numpy_helper.from_array(w, n) for n, w in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        folder.mkdir(parents=True, exist_ok=True)
        o.save(model, folder / f"{name}.onnx")
        return frameworks.get("onnx").load(folder / f"{name}.onnx")

    w = RNG.standard_normal((12, 3)).astype(np.float32)
    floating, integer = TensorProto.FLOAT, TensorProto.INT64
    return Example(
        "onnx",
        lambda: write("c", [("MatMul", ["x", "w"], ["y"], {})], [("x", floating, 12)], ["y"], w=w),
        lambda: write(
            "p",
            [("Add", ["left", "right"], ["s"], {}), ("MatMul", ["s", "w"], ["sum"], {}),
             ("Tanh", ["left"], ["tanh"], {})],
            [("left", floating, 12), ("right", floating, 12)],
            ["sum", "tanh"],
            w=w,
        ),
        lambda: write(
            "i",
            [("Gather", ["t", "ids"], ["e"], {}), ("Flatten", ["e"], ["y"], {})],
            [("ids", integer, 7)],
            ["y"],
            t=RNG.standard_normal((20, 4)).astype(np.float32),
        ),
    )  # fmt: skip


def lightgbm() -> Example:
    """Boosted trees; some numbers are missing, and the first column is one of categories."""
    import lightgbm as lgb

    def classifier() -> Any:
        x = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
        x[:, 0] = np.arange(len(x)) % 5
        return boosted(x, Y, "binary", categorical_feature=[0])

    def boosted(x: np.ndarray, y: np.ndarray, objective: str, **data: Any) -> Any:
        options = {"objective": objective, "min_data_in_leaf": 3, "verbosity": -1, "num_threads": 1}
        return lgb.train(options, lgb.Dataset(x, y, **data), num_boost_round=20)

    ids = np.resize(IDS, (64, 7)) + np.arange(64)[:, None] % 3
    return Example(
        "lightgbm",
        classifier,
        None,
        lambda: boosted(ids, ids.sum(1), "regression"),
    )


def stack() -> Example:
    """Trees of two folds, a net and a linear model over the features of both forms."""
    import lightgbm as lgb

    from lmaas.frameworks.lightgbm import text_of
    from lmaas.frameworks.stack import Dense, Member, Stack, Trees

    def grown(x: np.ndarray, y: np.ndarray, objective: str, width: int) -> list[Any]:
        options = {"objective": objective, "min_data_in_leaf": 3, "verbosity": -1, "num_threads": 1}
        told = []
        for fold in (0, 1):
            # Another category is missing in each fold.
            part = x[:, :width].copy()
            part[part[:, 0] == fold, 0] = 7
            data = lgb.Dataset(part, y, categorical_feature=[0])
            told.append(Trees(text=text_of(lgb.train(options, data, num_boost_round=10))))
        return told

    def layers(*widths: int) -> list[Any]:
        random = np.random.default_rng(1)
        pairs = itertools.pairwise(widths)
        return [
            (random.normal(size=(a, b)).astype(np.float32), np.zeros(b, np.float32))
            for a, b in pairs
        ]

    def classifier() -> Any:
        x = X.copy()
        x[:, 0] = np.arange(len(x)) % 5
        width = X.shape[1] - 3
        classes = int(Y.max()) + 1
        parts = grown(x, Y, "binary", width)
        net = [Dense(layers=layers(3, 8, classes), bends=True) for _ in range(2)]
        line = [Dense(layers=layers(3, classes))]
        return Stack(
            widths=(width, 3),
            classes=classes,
            members=[
                Member(name="trees", weight=0.5, parts=parts),
                Member(name="net", weight=0.3, parts=net),
                Member(name="linear", weight=0.2, parts=line),
            ],
        )

    def regression() -> Any:
        ids = (np.resize(IDS, (64, 7)) + np.arange(64)[:, None] % 3).astype(float)
        parts = grown(ids, ids.sum(1), "regression", 5)
        members = [
            Member(name="trees", weight=0.7, parts=parts),
            Member(name="linear", weight=0.3, parts=[Dense(layers=layers(2, 1))]),
        ]
        return Stack(widths=(5, 2), classes=0, members=members)

    return Example("stack", classifier, None, regression)


def named(framework: Framework, model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(framework.name_inputs(model, [x]), [x], strict=True))


def check_round_trip(example: Example, folder: Path) -> None:
    """What was saved and loaded answers as before, bit for bit."""
    framework, model = frameworks.get(example.framework), example.classifier()
    arrays = named(framework, model, X[:5])
    want = framework.run(model, arrays)
    framework.save(model, folder / "saved", arrays)
    assert not [p for p in (folder / "saved").rglob("*") if p.suffix in (".pt", ".pkl", ".bin")]
    loaded = framework.load(folder / "saved", like=example.classifier())
    got = framework.run(loaded, arrays)
    for a, b in zip(want.values(), got.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_export(example: Example, folder: Path) -> None:
    """Compiled outputs equal the source's at every batch size; the model itself is unchanged."""
    framework = frameworks.get(example.framework)
    for make, sample in (
        (example.classifier, X[:5]),
        (example.classifier, X[:5].astype(np.float64)),
        (example.pair, {"left": X[:4], "right": X[4:8]}),
        (example.ids, IDS),
    ):
        if make is None:
            continue
        model = make()
        target = folder / f"package-{len(list(folder.iterdir()))}"
        named_arrays = package.name_arrays(framework, model, sample)
        arrays = package.fitting(framework, model, named_arrays)
        before = framework.run(model, arrays)
        manifest = build(model, sample, target)
        assert manifest.framework == example.framework
        assert manifest.signature.batch
        assert set(manifest.signature.inputs[0].shape) != {-1}
        report = parity.measure(target, manifest.signature, manifest.task, manifest.engine)
        assert manifest.engine == "openvino", manifest.engine_reason
        sizes = {check.batch_size for check in report.checks}
        assert {1, 2, 5} <= sizes
        assert report.max_abs_error("f32") <= MAX_ERROR
        after = framework.run(model, arrays)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def check_bad_samples(example: Example, folder: Path) -> None:
    """A sample that does not fit says so; nothing is left that could be registered."""
    for number, sample in enumerate(
        (X[:4, :7], X[:0], np.array(["a", "b"]), {"nonsense": X[:4]}, 3.0)
    ):
        target = folder / f"bad-{number}"
        with pytest.raises(InvalidInput):
            build(example.classifier(), sample, target)
        assert not (target / "manifest.json").exists()


def build(model: Any, sample: Any, folder: Path) -> Manifest:
    framework = frameworks.get("onnx") if type(model).__name__ == "OnnxModel" else None
    manifest = package.build(
        model, name="m", task="tensor", sample=sample, folder=folder, framework=framework
    )
    stored = (folder / "manifest.json").read_bytes()
    assert msgspec.json.decode(stored, type=Manifest) == manifest
    return manifest


def run_all(example: Example, folder: Path) -> None:
    """Every check."""
    check_round_trip(example, folder)
    check_export(example, folder)
    check_bad_samples(example, folder)


if __name__ == "__main__":
    run_all({"keras": keras}[sys.argv[1]](), Path(sys.argv[2]))
    sys.stdout.write(f"{os.environ.get('KERAS_BACKEND')} passes\n")
