"""Tables: one column is learned from the others, and served by the task `tabular`."""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.base import softmax
from lmaas.tasks.tabular.columns import Columns, Form, Values
from lmaas.tasks.tabular.fitting import fit_number
from lmaas.tasks.tabular.options import STACK, TREES, TableDataOptions
from lmaas.tasks.tabular.spec import SPEC
from lmaas.tasks.tabular.training import reading_table
from lmaas.training.base import Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel, read_manifest
from lmaas.training.problems.classification import ClassMeter, lineage
from lmaas.training.problems.frameworks import framework_of
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.training.rows import take

SAMPLE: Final = 64
OPEN: Final[dict[Form, str]] = {
    "dense": "mlp",
    "trees": TREES,
    "stack": STACK,
}
"""The architecture where a recipe leaves it open, by how its model reads rows."""


class Tabular(SizedNetwork):
    """The problem of one recipe."""

    _form: Form = "dense"
    _outputs_are: Literal["logits", "probabilities"] = "logits"

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = framework_of(recipe, base)
        options = data_options(recipe, TableDataOptions)
        for name, unwanted in (
            ("augmentation", recipe.augmentation),
            ("adapter", recipe.adapter),
            ("method", recipe.method.type != "supervised"),
        ):
            if unwanted:
                raise InvalidInput(f"tabular has no {name}.", param=name)
        self._recipe = recipe
        table, target = _target(recipe, folder)
        self._target = reading_table.target_of(table, target, options)
        self.classifies = self._target.classifies
        self._splits = Splits(
            recipe,
            folder,
            fields=SPEC.trained.columns,
            label="target" if self.classifies else None,
            value="target",
        )
        table = self._splits.train.table
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        if self._base is not None:
            self._base.read_as()
        self.labels: tuple[str, ...] | None = None
        if self.classifies:
            self.labels, self._targets = self._splits.labels("target")
        else:
            self._targets = {
                split: self._numbers(part.table)[part.rows]
                for split, part in self._splits.parts.items()
            }
        self._chosen = reading_table.Chosen()
        self.columns = self._fit(table, target, options, base)
        tables = {id(part.table): part.table for part in self._splits.parts.values()}
        values = {key: reading_table.values_of(each, self.columns) for key, each in tables.items()}
        self._features = {
            key: self.columns.encode(values[key], len(each)) for key, each in tables.items()
        }
        rows = self._splits.train.rows
        self._leaks = reading_table.leaks(
            {name: _rows(column, rows) for name, column in values[id(table)].items()},
            self._targets["train"],
            target,
            classes=len(self.labels or ()),
        )
        choice = self._base.model if self._base else recipe.model
        if choice.architecture in (None, "auto"):
            choice = msgspec.structs.replace(choice, architecture=OPEN[self._form])
        self._name, self._sizes = architectures.resolve(recipe.task, choice)
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        if recipe.label_smoothing and not self.classifies:
            raise InvalidInput("A regression has no label_smoothing.", param="label_smoothing")
        self.primary = SPEC.primary if self.classifies else "rmse"
        self.loss = (
            Loss(name="cross-entropy", smoothing=recipe.label_smoothing)
            if self.classifies
            else Loss(name="mean-squared-error")
        )

    def _fit(
        self, table: Table, target: str, options: TableDataOptions, base: Path | None
    ) -> Columns:
        """What is read of a row: the base's columns, or those of the training samples."""
        for name in (*options.kinds, *options.decimals, *options.ignore):
            table.require(name)
        if base is not None:
            columns = Columns.load(package.served_in(base, read_manifest(base)))
            if columns.target != target:
                raise InvalidInput(f"The base model tells {columns.target!r}.", param="model.base")
            return columns
        rows = self._splits.train.rows
        self._chosen = chosen = reading_table.choose(table, rows, target, options)
        columns = Columns(
            columns=tuple(chosen.columns),
            target=target,
            form=self._form,
            left_out=tuple(chosen.left_out),
        )
        if self.classifies:
            return columns
        scale = fit_number(target, self._numbers(table)[rows])
        return msgspec.structs.replace(columns, mean=scale.mean, std=scale.std)

    def _numbers(self, table: Table) -> np.ndarray:
        """The target's values of a whole table."""
        return reading_table.numbers_of(
            table, self._splits.columns["target"], self._target.notation
        )

    def size(self, split: Split) -> int:
        """How many rows a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Features of rows; class numbers, or values at mean 0 and deviation 1."""
        part, targets = self._splits.parts[split], take(self._targets[split], indices)
        features = take(self._features[id(part.table)], part.rows[indices])
        if self.classifies:
            told = {"labels": targets}
        else:
            scaled = (targets - self.columns.mean) / self.columns.std
            told = {"values": scaled[:, None].astype(np.float32)}
        size = len(indices)
        return Feed(inputs={"features": features}, targets=told, size=size, weight=size)

    def _shape(self) -> Shape:
        features = next(iter(self._features.values())).shape[1]
        return Shape(outputs=len(self.labels) if self.labels else 1, features=features)

    def meter(self) -> Meter:
        """Accuracy, macro-F1, AUC and log-loss; or RMSE, MAE and R2 in the target's units."""
        if self.labels is not None:
            return ScoreMeter(len(self.labels))
        return ErrorMeter(self.columns.mean, self.columns.std)

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        module = importlib.import_module(f"lmaas.tasks.tabular.training.{framework}")
        outputs = len(self.labels) if self.labels is not None else 1
        model = module.build(
            self._name, self._sizes, self.columns.width, outputs, self._recipe.seed
        )
        if self._base is not None and not self.resized:
            self._base.fill(model, head=self._base.manifest.signature.labels == self.labels)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `tabular`, with its columns."""
        split: Split = "validation" if self.size("validation") else "train"
        sample = self.feed(split, np.arange(min(SAMPLE, self.size(split))), epoch=None)
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        manifest = package.build(
            model,
            name=recipe.name,
            task=recipe.task,
            sample=sample.inputs["features"],
            folder=folder,
            labels=self.labels,
            outputs_are=self._outputs_are if self.classifies else None,
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )
        self.columns.save(package.served_in(folder, manifest))

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and overlap; what columns are, and which are left out."""
        told = {
            **self._splits.facts(),
            "columns": msgspec.to_builtins(self.columns),
            "left_out": self._chosen.left_out,
            "target": self._target.told,
            "read": self._chosen.told,
            "doubts": [*self._chosen.doubts, *self._leaks],
        }
        if self.labels is not None:
            counts = Counter(self._targets["train"].tolist())
            told["labels"] = {label: counts[i] for i, label in enumerate(self.labels)}
        return told


class ScoreMeter(ClassMeter):
    """Adds log-loss, and the area under the ROC curve (of each class against all others, their
    mean), as scikit-learn has them.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self._classes = classes
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Keep the probabilities of a feed."""
        super().add(outputs, feed)
        self._scores.append(softmax(next(iter(outputs.values()))).astype(np.float64))
        self._labels.append(feed.targets["labels"])

    def result(self) -> dict[str, float]:
        """The AUC is left out where a class is not there."""
        from sklearn import metrics

        told = super().result()
        if not told:
            return told
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        scores /= scores.sum(axis=1, keepdims=True)
        every = list(range(self._classes))
        told["log_loss"] = float(metrics.log_loss(labels, scores, labels=every))
        if len(set(labels.tolist())) == self._classes:
            given = scores[:, 1] if self._classes == 2 else scores
            told["auc"] = float(metrics.roc_auc_score(labels, given, multi_class="ovr"))
        return told


class ErrorMeter:
    """RMSE, MAE and R2, in the target's units."""

    def __init__(self, mean: float, std: float) -> None:
        self._mean, self._std = mean, std
        self._told: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Keep a feed's values."""
        self._told.append(next(iter(outputs.values()))[:, 0].astype(np.float64))
        self._true.append(feed.targets["values"][:, 0].astype(np.float64))

    def result(self) -> dict[str, float]:
        """R2 is left out where all true values are one."""
        from sklearn import metrics

        if not self._told:
            return {}
        told, true = (np.concatenate(v) * self._std + self._mean for v in (self._told, self._true))
        found = {
            "rmse": float(metrics.root_mean_squared_error(true, told)),
            "mae": float(metrics.mean_absolute_error(true, told)),
        }
        if np.ptp(true) > 0:
            found["r2"] = float(metrics.r2_score(true, told))
        return found


def _target(recipe: Recipe, folder: Path) -> tuple[Table, str]:
    from lmaas.data.reading import read
    from lmaas.training.problems.splits import columns_of

    table = read(Path(recipe.data.train), folder / "data", recipe.data.encoding)
    return table, columns_of(recipe, table, SPEC.trained.columns)["target"]


def _rows(values: Values, rows: np.ndarray) -> Values:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    kinds = {"lightgbm": "boosted_trees.BoostedTable", "stack": "stacked_table.StackedTable"}
    module, _, name = kinds.get(framework_of(recipe, base), "problem.Tabular").partition(".")
    make = getattr(importlib.import_module(f"lmaas.tasks.tabular.training.{module}"), name)
    return cast(Problem, make(recipe, folder, base))
