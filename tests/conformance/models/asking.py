"""A model's own answers, asked in its own way; nothing here is the code that publishes.

Outputs are a flat list of arrays, in the order in which a caller sees them.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from conformance.models.case import Inputs

RANDOM = {"random numbers", "keras: random numbers"}
HALF = {
    "half precision": 0.01, "bfloat16": 0.04, "keras: mixed_float16": 0.01,
    "keras: mixed_bfloat16": 0.04, "quantised to int8": 1e-4,
}  # fmt: skip


def answers(model: Any, given: Inputs) -> list[np.ndarray] | None:
    """What the model itself says; None where it fails."""
    try:
        return flat(_call(model, given))
    except Exception:  # noqa: BLE001 - whatever it raises: it does not take these
        return None


def arrays(given: Inputs) -> list[np.ndarray]:
    """The same inputs as a caller sends them."""
    found = []
    for value in given:
        if hasattr(value, "to_tensor"):
            found += [value.to_tensor().numpy(), value.row_lengths().numpy()]
        elif hasattr(value, "float"):
            found.append(value.float().numpy())
        else:
            found.append(np.asarray(value))
    return found


def _call(model: Any, given: Inputs) -> Any:
    torch = sys.modules.get("torch")
    keras = sys.modules.get("keras")
    tf = sys.modules.get("tensorflow")
    if keras is not None and isinstance(model, keras.Model):
        return _call_keras(model, given)
    if torch is not None and isinstance(model, torch.nn.Module):
        with suppress(NotImplementedError):
            model.eval()  # what torch.export has made knows one mode only
        kept = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                return model(*(torch.as_tensor(value) for value in given))
        finally:
            torch.backends.mha.set_fastpath_enabled(kept)
    if tf is not None and callable(model) and not hasattr(model, "get_params"):
        return model(*(v if hasattr(v, "to_tensor") else tf.constant(v) for v in given))
    return _call_estimator(model, given[0])


def _call_keras(model: Any, given: Inputs) -> Any:
    import keras

    tensors = [keras.ops.convert_to_tensor(value) for value in given]
    if len(tensors) > 1:
        return model(*tensors)
    return model(tensors[0], training=False)


def _call_estimator(model: Any, x: np.ndarray) -> Any:
    if hasattr(model, "get_booster"):
        margin = model.predict(x, output_margin=True).reshape(len(x), -1)
        return _logits(margin, hasattr(model, "predict_proba"))
    if hasattr(model, "booster_"):
        return _logits(model.booster_.predict(x, raw_score=True).reshape(len(x), -1), True)
    if hasattr(model, "predict_proba"):
        return model.predict(x), model.predict_proba(x)
    return model.predict(x).reshape(len(x), -1)


def _logits(margin: np.ndarray, classes: bool) -> np.ndarray:
    if classes and margin.shape[1] == 1:
        return np.concatenate([np.zeros_like(margin), margin], 1)
    return margin


def flat(outputs: Any) -> list[np.ndarray]:
    """Tensors of any packing as arrays."""
    if isinstance(outputs, Mapping):
        return [array for value in outputs.values() for array in flat(value)]
    if isinstance(outputs, tuple | list):
        return [array for value in outputs for array in flat(value)]
    layers = getattr(outputs, "layers", None)
    if isinstance(layers, list):
        return [array for layer in layers for array in flat([layer.keys, layer.values])]
    if outputs is None:
        return []
    if hasattr(outputs, "detach"):
        outputs = outputs.detach()
        outputs = outputs.float() if "bfloat16" in str(outputs.dtype) else outputs
    elif "bfloat16" in str(getattr(outputs, "dtype", "")):
        outputs = np.asarray(outputs).astype(np.float32)
    return [outputs.numpy() if hasattr(outputs, "numpy") else np.asarray(outputs)]


def difference(name: str, want: list[np.ndarray], got: list[np.ndarray]) -> str | None:
    """How what is served differs from the model's own answers; None where it does not."""
    if len(want) != len(got):
        return f"{len(got)} outputs instead of {len(want)}"
    for number, (a, b) in enumerate(zip(want, got, strict=True)):
        if a.shape != b.shape:
            return f"output {number} has the shape {b.shape} instead of {a.shape}"
        if name in RANDOM:
            continue
        if a.dtype.kind in "OSU":
            texts = np.vectorize(lambda t: t.encode() if isinstance(t, str) else t, otypes=[object])
            if not np.array_equal(texts(a), texts(b)):
                return f"output {number} has other texts"
        elif a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"output {number} has other whole numbers"
        else:
            told = _floats(a.astype(np.float64), b.astype(np.float64), HALF.get(name, 1e-4))
            if told:
                return f"output {number}: {told}"
    return None


def _floats(a: np.ndarray, b: np.ndarray, allowed: float) -> str | None:
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "NaN or infinity elsewhere"
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    largest = float(np.abs(a[finite]).max(initial=0.0))
    if not np.isfinite(b[finite]).all() or worst > allowed * largest + 1e-5:
        return f"wrong by {worst:.3g} of {largest:.3g}"
    return None
