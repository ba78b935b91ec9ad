"""Random small networks in each framework: what is served equals the source, or is refused."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from conformance.models import asking
from lmaas.codecs import tensor
from lmaas.errors import InvalidInput, ParityFailed
from lmaas.frameworks import package
from lmaas.runtime.engine import ENGINES, make_engine

EXAMPLES = int(os.environ.get("EXAMPLES", "12"))
"""`make sweep` asks for more."""
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
WIDTH = 6
RNG = np.random.default_rng(7)
TORCH_STEPS = ("linear", "relu", "norm", "softmax", "cumsum", "largest", "sorted", "where", "round",
               "mask", "branch", "loop", "scale", "noise", "log", "rows")  # fmt: skip
KERAS_LAYERS = ("lstm", "gru", "both", "conv", "dense", "norm", "drop", "mask", "softmax")
TF_STEPS = ("dense", "relu", "softmax", "cumsum", "branch", "loop", "sorted", "where", "int", "log")


class Steps(nn.Module):  # type: ignore[misc]
    """A network that does what a list of words says."""

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__()
        torch.manual_seed(len(steps))
        self.steps = list(steps)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in steps])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Any, mask: Any) -> Any:
        for number, step in enumerate(self.steps):
            x = self.one(step, number, x, mask)
        return x

    def one(self, step: str, number: int, x: Any, mask: Any) -> Any:
        match step:
            case "linear":
                return self.layers[number](x)
            case "norm":
                return self.norm(x)
            case "largest":
                return x / (x.abs().amax() + 1)
            case "sorted":
                return x.sort(-1).values
            case "where":
                return torch.where(x > 0.3, x * 3, x)
            case "mask":
                return x.masked_fill(mask, -5.0)
            case "branch":
                return x * 2 if bool(x.mean() > 0) else x
            case "loop":
                while bool(x.abs().max() > 2):
                    x = x / 2
                return x
            case "scale":
                return x * float(x.abs().max())
            case "noise":
                return x + torch.randn_like(x) * 0.0
            case "log":
                return torch.log(x.abs() + 1e-3)
            case "rows":
                return x * x.shape[0]
            case "softmax" | "cumsum":
                return getattr(torch, step)(x, -1)
        return getattr(torch, step)(x)


class TfSteps(tf.Module):  # type: ignore[misc]
    """The same in TensorFlow, with AutoGraph's control flow."""

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.weight = tf.Variable(RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32))

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        for step in self.steps:
            if step == "dense":
                x = x @ self.weight
            elif step == "branch":
                if tf.reduce_mean(x) > 0:
                    x = x * 2
            elif step == "loop":
                while tf.reduce_max(tf.abs(x)) > 2:
                    x = x / 2
            elif step == "sorted":
                x = tf.sort(x, -1)
            elif step == "where":
                x = tf.where(x > 0.3, x * 3, x)
            elif step == "int":
                x = tf.cast(tf.cast(x, tf.int64), tf.float32)
            elif step == "log":
                x = tf.math.log(tf.abs(x) + 1e-3)
            elif step == "cumsum":
                x = tf.cumsum(x, -1)
            else:
                x = getattr(tf.nn, step)(x)
        return x


def stacked(words: Sequence[str]) -> Any:
    """A Keras network of layers over time."""
    layers = keras.layers
    made: dict[str, Any] = {
        "lstm": lambda: layers.LSTM(4, return_sequences=True),
        "gru": lambda: layers.GRU(4, return_sequences=True),
        "both": lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
        "conv": lambda: layers.Conv1D(4, 3, padding="same"),
        "dense": lambda: layers.Dense(5, "relu"),
        "norm": layers.LayerNormalization,
        "drop": lambda: layers.Dropout(0.5),
        "mask": layers.Masking,
        "softmax": lambda: layers.Softmax(axis=-1),
    }
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((None, 3)), *(made[word]() for word in words)])


def check(model: Any, sample: tuple[Any, ...], fresh: Sequence[tuple[Any, ...]]) -> None:
    """Publish and ask; refusals are fine, wrong answers are not."""
    given: Any = sample if len(sample) > 1 else sample[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            manifest = package.build(model, name="m", task="tensor", sample=given, folder=folder)
        except (InvalidInput, ParityFailed):
            return
        signature = manifest.signature
        engine = make_engine(manifest.engine)
        engine.load(folder / ENGINES[manifest.engine].folder, signature, "f32", 0)
        for inputs in fresh:
            arrays = dict(zip([s.name for s in signature.inputs], inputs, strict=True))
            tensor.check_arrays(arrays, signature)
            want = asking.answers(model, inputs)
            assert want is not None
            told = asking.difference("", want, list(engine.infer(arrays).values()))
            assert told is None, (told, manifest.engine, manifest.engine_reason)


def floats(*shape: int, scale: float) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


@FEW
@given(st.lists(st.sampled_from(TORCH_STEPS), min_size=1, max_size=5))
def test_pytorch(steps: list[str]) -> None:
    def inputs(rows: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
        return floats(rows, WIDTH, scale=scale), RNG.random((rows, WIDTH)) < 0.3

    check(Steps(steps), inputs(4, 1.0), [inputs(1, 1.0), inputs(3, 20.0), inputs(7, 0.01)])


@FEW
@given(st.lists(st.sampled_from(TF_STEPS), min_size=1, max_size=5))
def test_tensorflow(steps: list[str]) -> None:
    fresh = [(floats(rows, WIDTH, scale=s),) for rows, s in ((1, 1.0), (3, 20.0), (7, 0.01))]
    check(TfSteps(steps), (floats(4, WIDTH, scale=1.0),), fresh)


@settings(FEW, max_examples=EXAMPLES // 2)
@given(st.lists(st.sampled_from(KERAS_LAYERS), min_size=1, max_size=3))
def test_keras(words: list[str]) -> None:
    fresh = [(floats(rows, time, 3, scale=2.0),) for rows, time in ((1, 5), (3, 11), (2, 1))]
    check(stacked(words), (floats(2, 5, 3, scale=1.0),), fresh)
