"""LightGBM: boosted trees. Kept as its model text, compiled by `forest`.

A booster gives raw scores: of a binary objective the logits of two classes, 0 and the score.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import forest
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.tasks import Tensors
from lmaas.types import BATCH, FrameworkName, TensorSpec

FILE: Final = "model.txt"
INPUT: Final = "features"


class LightGBM(Deterministic):
    """Verbs for `lightgbm.Booster`."""

    name: FrameworkName = "lightgbm"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a booster, or a model that has one."""
        import lightgbm

        return isinstance(model, lightgbm.Booster) or hasattr(model, "booster_")

    def version(self) -> str:
        """lightgbm's version."""
        import lightgbm

        return str(lightgbm.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """One row of numbers for each sample."""
        return [
            TensorSpec(name=INPUT, dtype="float32", shape=(BATCH, _booster(model).num_feature()))
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The one input."""
        return [INPUT]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`model.txt`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(text_of(_booster(model)), "utf-8")

    def load(self, folder: Path, like: Any = None) -> Any:
        """The booster in `model.txt`."""
        path = folder / FILE if folder.is_dir() else folder
        return booster_of(path.read_text("utf-8", "replace"))

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Raw scores, or logits of two classes (N, outputs) float32."""
        (features,) = arrays.values()
        booster = _booster(model)
        scores = booster.predict(features, raw_score=True).reshape(len(features), -1)
        return {"scores": logits(scores, binary=forest.parse(text_of(booster, 1)).binary)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Gathers over all trees at once."""
        yield Form("openvino", "trees", lambda _: forest.graph(_trees(model)))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Features and sums in float32."""
        return Facts("f32")

    def num_parameters(self, model: Any) -> int:
        """Thresholds and leaves."""
        return len(_trees(model).nodes)


def _booster(model: Any) -> Any:
    return getattr(model, "booster_", model)


def _trees(model: Any) -> forest.Forest:
    """Those that the model itself predicts with: up to its best round, where it knows one."""
    booster = _booster(model)
    return forest.parse(text_of(booster, max(0, booster.best_iteration) or None))


def text_of(booster: Any, rounds: int | None = None) -> str:
    """A booster as text, of its first `rounds` or all; without the parameters that it was made
    with, so that equal trees are equal texts.
    """
    text: str = booster.model_to_string(num_iteration=rounds or booster.current_iteration())
    return text.partition("\nparameters:")[0]


def booster_of(text: str) -> Any:
    """The booster of a text. Raises InvalidInput for what is none."""
    import lightgbm

    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise InvalidInput(f"These are no trees of LightGBM: {error}.") from None


def logits(scores: np.ndarray, *, binary: bool) -> np.ndarray:
    """Raw scores (N, S) as outputs in float32: (N, 2) of two classes, else as they are."""
    if binary:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    return scores.astype(np.float32)


FRAMEWORK: Framework = LightGBM()
