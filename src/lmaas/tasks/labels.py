"""Labels with scores: what tasks with classes share."""

from typing import Any

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.tasks.base import Shown, softmax
from lmaas.types import Signature


class Label(msgspec.Struct, frozen=True):
    """One class of a classifier and its score."""

    label: str
    score: float


class Box(msgspec.Struct, frozen=True):
    """A box in pixels of the upright image."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Detection(msgspec.Struct, frozen=True):
    """One object that was found."""

    label: str
    score: float
    box: Box


def check_function(function: str | None, signature: Signature) -> None:
    """Raise InvalidInput for a function that is not to be had of the model's outputs."""
    if signature.outputs_are == "probabilities" and function == "sigmoid":
        raise InvalidInput(
            "This model gives probabilities; function_to_apply sigmoid needs logits.",
            param="function_to_apply",
        )


def apply(values: np.ndarray, function: str | None, signature: Signature) -> np.ndarray:
    """A classifier's outputs as scores; without a function as probabilities."""
    if function == "sigmoid":
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    if function == "none" or signature.outputs_are == "probabilities":
        return values.astype(np.float32)
    return softmax(values)


def show_labels(result: Any) -> Shown:
    """Labels with scores of one input, or of each of several."""
    several = bool(result) and isinstance(result[0], list)
    rows = [
        (*([str(index)] if several else []), str(each["label"]), f"{each['score']:.6f}")
        for index, labels in enumerate(result if several else [result])
        for each in labels
    ]
    return Shown((*(["input"] if several else []), "label", "score"), rows)


def label_records(result: Any) -> list[dict[str, Any]]:
    """The likeliest label of each input, and its score."""
    return [{"prediction": best["label"], "score": best["score"]} for best, *_ in result]
