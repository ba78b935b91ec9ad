"""What problems with classes share: accuracy, macro-F1, and the lineage of a result."""

import numpy as np

import lmaas
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors
from lmaas.training.base import Facts, Feed
from lmaas.types import Lineage


class ClassMeter:
    """Accuracy and macro-averaged F1 of the likeliest class, as scikit-learn defines them."""

    def __init__(self, classes: int) -> None:
        self._counts = np.zeros((classes, classes), np.int64)

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count rows of logits against their labels."""
        predicted = next(iter(outputs.values())).argmax(axis=1)
        labels = feed.targets["labels"]
        np.add.at(self._counts, (labels if labels.ndim == 1 else labels.argmax(1), predicted), 1)

    def result(self) -> dict[str, float]:
        """The F1 of a class that is neither there nor predicted does not count."""
        hits = np.diag(self._counts)
        claimed = self._counts.sum(0) + self._counts.sum(1)
        seen = claimed > 0
        if not seen.any():
            return {}
        return {
            "accuracy": float(hits.sum() / self._counts.sum()),
            "macro_f1": float((2 * hits[seen] / claimed[seen]).mean()),
        }


def lineage(recipe: Recipe, facts: Facts) -> Lineage:
    """Where a trained version comes from: data, recipe, code and the version trained on."""
    import msgspec

    return Lineage(
        origin="train",
        code=f"lmaas {lmaas.__version__}",
        parent=recipe.model.base,
        data_sha256=facts.data.get("sha256"),
        recipe={"recipe": msgspec.to_builtins(recipe), "job": facts.job},
    )
