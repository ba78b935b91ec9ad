"""Labels with scores: what tasks with classes share."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.tasks.base import Shown, softmax
from lmaas.types import Signature

PLACE: Final = "{}"
"""Where a label stands in the text that is made of it."""
MAX_TEMPLATE_CHARS: Final = 1000


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


class Detection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object that was found.

    `corners` are those of a quadrilateral, clockwise from its own top left, where it lies aslant.
    """

    label: str
    score: float
    box: Box
    corners: list[list[float]] | None = None


class Classified(Detection, frozen=True, kw_only=True):
    """An object that one model found and another named.

    `detected` is what the first one took it for. `score` is the product of both scores: that
    something is there, and that it is what `label` says.
    """

    detected: Label


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


def accuracy(labels: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """The share of labels that are the expected ones."""
    same = [one == other for one, other in zip(labels, expected, strict=True)]
    return {"accuracy": sum(same) / len(same)} if same else {}


def candidates(given: list[str] | str | None) -> list[str]:
    """The labels of a call that brings its own, each once. Raises InvalidInput."""
    if isinstance(given, str):
        given = given.split(",")
    labels = [label.strip() for label in given or ()]
    if not labels or not all(labels) or len(set(labels)) != len(labels):
        raise InvalidInput(
            "candidate_labels must be texts, each once and none empty.",
            hint='Send "parameters": {"candidate_labels": ["news", "sport"]}.',
            param="candidate_labels",
        )
    return labels


def hypotheses(labels: Sequence[str], template: str | None, default: str) -> list[str]:
    """The texts that a template makes of labels. Raises InvalidInput."""
    template = default if template is None else template
    if template.count(PLACE) != 1 or len(template) > MAX_TEMPLATE_CHARS:
        raise InvalidInput(
            f"hypothesis_template has {PLACE} once, and at most {MAX_TEMPLATE_CHARS} characters; "
            f"received {template[:100]!r}.",
            param="hypothesis_template",
        )
    return [template.replace(PLACE, label) for label in labels]


def best_first(scores: np.ndarray, labels: Sequence[str]) -> list[list[Label]]:
    """The labels of each row of scores (rows, labels)."""
    return [
        [Label(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")] for row in scores
    ]
