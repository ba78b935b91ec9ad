"""Object detection by a network of ours: a new one, or one that a run of ours made.

A base that is a checkpoint of transformers is the matter of `checkpoint_tuning`.
"""

import importlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks.architectures import Shape
from lmaas.tasks.object_detection import guess
from lmaas.tasks.object_detection.options import SIDES, STRIDE, DetectionDataOptions
from lmaas.tasks.object_detection.training.scenes import TRUE, Scenes
from lmaas.tasks.object_detection.training.targets import cells_of
from lmaas.training.base import Facts, Feed, Loss, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import lineage
from lmaas.training.problems.sized import SizedNetwork
from lmaas.types import BATCH, DetectionSpec, ImageSpec, Signature, TensorSpec

SAMPLE: Final = 4
DETECTION: Final = DetectionSpec(head="centers", strides=(STRIDE,))


class ObjectDetection(Scenes, SizedNetwork):
    """The problem of one recipe."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        given: ImageSpec | None = None
        if self._base is not None:
            given = self._base.manifest.signature.image
            assert given is not None
            own = {name: getattr(given, name) for name in DetectionDataOptions.__struct_fields__}
            self._base.read_as(**own)
        self._name, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        layout: Literal["CHW", "HWC"] = "CHW" if self._framework == "pytorch" else "HWC"
        super().__init__(recipe, folder, given, layout)
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        self.loss = Loss(name="center-points")

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels in the model's layout; heat maps and boxes of its cells, and to evaluate by, the
        true boxes (N, most, 6).
        """
        inputs, scenes = self._seen(split, indices, epoch)
        height, width, kinds = self.image.height, self.image.width, len(self.labels)
        cells = [cells_of(scene.boxes, scene.classes, height, width, kinds) for scene in scenes]
        targets = {name: np.stack([each[name] for each in cells]) for name in cells[0]}
        if epoch is None:
            targets[TRUE] = self._true(split, indices)
        size = len(indices)
        return Feed(inputs={"pixels": inputs}, targets=targets, size=size, weight=size)

    def _shape(self) -> Shape:
        image = self.image
        pixels = image.channels * image.height * image.width
        return Shape(outputs=len(self.labels), features=pixels, channels=image.channels)

    def signature(self) -> Signature:
        """How the network's output is read."""
        image = self.image
        sides = {"CHW": (image.channels, image.height, image.width)}.get(
            image.layout, (image.height, image.width, image.channels)
        )
        cells = (image.height // STRIDE, image.width // STRIDE, SIDES + len(self.labels))
        given = Signature(
            inputs=(TensorSpec(name="pixels", dtype="float32", shape=(BATCH, *sides)),),
            outputs=(TensorSpec(name="centers", dtype="float32", shape=(BATCH, *cells)),),
            labels=self.labels,
            image=image,
            detection=DETECTION,
        )
        return guess.completed(given)

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        module = importlib.import_module(f"lmaas.tasks.object_detection.training.{framework}")
        model = module.build(
            self._name, self._sizes, self.image, len(self.labels), self._recipe.seed
        )
        if self._base is not None and not self.resized:
            self._base.fill(model, head=self._base.manifest.signature.labels == self.labels)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `object-detection`."""
        split: Split = "validation" if self.size("validation") else "train"
        sample = self.feed(split, np.arange(min(SAMPLE, self.size(split))), epoch=None)
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        package.build(
            model,
            name=recipe.name,
            task=recipe.task,
            sample=next(iter(sample.inputs.values())),
            folder=folder,
            labels=self.labels,
            image=self.image,
            detection=DETECTION,
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    if base is not None and (base / "source" / "config.json").is_file():
        from lmaas.tasks.object_detection.training.checkpoint_tuning import CheckpointTuning

        return CheckpointTuning(recipe, folder, base)
    return ObjectDetection(recipe, folder, base)
