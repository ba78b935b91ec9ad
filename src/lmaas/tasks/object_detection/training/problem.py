"""Object detection: images with boxes in, a detector served by its task out.

Images are decoded and laid down once, into a mapped file in the job's folder, by the codec that
serves; augmentation changes those pixels and the boxes with them.
"""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.codecs import image as codec
from lmaas.data.augmentation import generator
from lmaas.data.augmentation.boxes import BoxAugmenter, Scene
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.object_detection import guess, heads
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.tasks.object_detection.options import SIDES, STRIDE, DetectionDataOptions
from lmaas.tasks.object_detection.spec import SPEC
from lmaas.tasks.object_detection.training import pictures
from lmaas.tasks.object_detection.training.targets import cells_of
from lmaas.training.base import Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import lineage
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.training.rows import take
from lmaas.types import BATCH, DetectionSpec, ImageSpec, Signature, TensorSpec

SAMPLE: Final = 4
READY_BYTES: Final = 256 << 20
"""Up to this size, the training images are kept as the numbers that the network reads."""
TRUE: Final = "true"
"""The target with the true boxes of an evaluation: class, corners, whether it is a crowd."""
NONE: Final = -1.0
MEASURED_FROM: Final = 0.05
"""Predictions from this score on are measured."""
DETECTION: Final = DetectionSpec(head="centers", strides=(STRIDE,))


class ObjectDetection(SizedNetwork):
    """The problem of one recipe."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        options = data_options(recipe, DetectionDataOptions)
        if recipe.method.type != "supervised" or recipe.adapter is not None:
            raise InvalidInput(
                "object-detection learns supervised, all weights: no method dpo, no adapter.",
                param="method" if recipe.adapter is None else "adapter",
            )
        if recipe.label_smoothing:
            raise InvalidInput(
                "object-detection learns from heat maps, which label_smoothing does not change.",
                hint="Leave it out.",
                param="label_smoothing",
            )
        self._recipe = recipe
        self._augmenter = BoxAugmenter(recipe.augmentation)
        self._splits = Splits(recipe, folder, fields=SPEC.trained.columns, content=("image",))
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        self._name, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        columns = self._splits.columns
        self.labels = pictures.labels_of(self._splits.train.table, columns["boxes"])
        if self._base is not None:
            given = self._base.manifest.signature.image
            assert given is not None
            self.image: ImageSpec = given
            own = {name: getattr(given, name) for name in DetectionDataOptions.__struct_fields__}
            self._base.read_as(**own)
        else:
            layout: Literal["CHW", "HWC"] = "CHW" if self._framework == "pytorch" else "HWC"
            table = self._splits.train.table
            self.image = pictures.spec_of(table, columns["image"], options, layout)
        self._data = {
            id(part.table): pictures.read(
                part.table, columns, self.image, self.labels, folder / "data"
            )
            for part in self._splits.parts.values()
        }
        self._most = max([1, *(len(boxes) for data in self._data.values() for boxes in data.boxes)])
        train = self._splits.train
        pixels = self._data[id(train.table)].pixels
        if self._base is None:
            self.image = pictures.standardised(self.image, pixels, train.rows)
        self._ready: np.ndarray | None = None
        if not recipe.augmentation and 4 * len(train) * pixels[0].size <= READY_BYTES:
            self._ready = codec.from_pixels(pixels[train.rows], self.image, "float32")
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        self.loss = Loss(name="center-points")

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels in the model's layout; heat maps and boxes of its cells, and to evaluate by, the
        true boxes (N, most, 6).
        """
        part = self._splits.parts[split]
        scenes = [self._scene(split, index) for index in indices.tolist()]
        if epoch is not None and self._recipe.augmentation:
            scenes = [
                self._augmented(scene, epoch, index)
                for scene, index in zip(scenes, indices.tolist(), strict=True)
            ]
            pixels = np.stack([scene.image for scene in scenes])
            inputs = codec.from_pixels(pixels, self.image, "float32")
        elif self._ready is not None and split == "train":
            inputs = take(self._ready, indices)
        else:
            pixels = self._data[id(part.table)].pixels[part.rows[indices]]
            inputs = codec.from_pixels(pixels, self.image, "float32")
        height, width, kinds = self.image.height, self.image.width, len(self.labels)
        cells = [cells_of(scene.boxes, scene.classes, height, width, kinds) for scene in scenes]
        targets = {name: np.stack([each[name] for each in cells]) for name in cells[0]}
        if epoch is None:
            targets[TRUE] = np.stack([self._true(split, index) for index in indices.tolist()])
        size = len(indices)
        return Feed(inputs={"pixels": inputs}, targets=targets, size=size, weight=size)

    def _scene(self, split: Split, index: int) -> Scene:
        """An image with the boxes that are learned: what stands for a crowd is none."""
        part = self._splits.parts[split]
        data, row = self._data[id(part.table)], int(part.rows[index])
        boxes = data.boxes[row]
        boxes = boxes[boxes[:, -1] == 0]
        return Scene(data.pixels[row], boxes[:, 1 : 1 + SIDES], boxes[:, 0])

    def _true(self, split: Split, index: int) -> np.ndarray:
        part = self._splits.parts[split]
        boxes = self._data[id(part.table)].boxes[int(part.rows[index])]
        padded = np.full((self._most, boxes.shape[1]), NONE, np.float32)
        padded[: len(boxes)] = boxes
        return padded

    def _augmented(self, scene: Scene, epoch: int, index: int) -> Scene:
        random = generator(self._recipe.seed, epoch, index)

        def other(random: np.random.Generator) -> Scene:
            return self._scene("train", int(random.integers(self.size("train"))))

        return self._augmenter(scene, other, random)

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

    def meter(self) -> Meter:
        """Mean average precision."""
        return DetectionMeter(self.signature())

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

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes, labels and overlap, and what images become."""
        train = self._splits.train
        data = self._data[id(train.table)]
        counts: Counter[int] = Counter()
        for row in train.rows.tolist():
            counts.update(data.boxes[row][:, 0].astype(int).tolist())
        return {
            **self._splits.facts(),
            "labels": {label: counts[number] for number, label in enumerate(self.labels)},
            "image": msgspec.to_builtins(self.image),
        }


class DetectionMeter:
    """COCO's mean average precision over the feeds of an evaluation."""

    def __init__(self, signature: Signature) -> None:
        assert signature.labels is not None
        self._signature = signature
        self._measured = AveragePrecision(len(signature.labels))

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count the boxes of each image against the true ones."""
        name = self._signature.outputs[0].name
        parts = heads.split({name: next(iter(outputs.values()))}, self._signature)
        for row, true in enumerate(feed.targets[TRUE]):
            found = heads.find(parts, row, self._signature, None, MEASURED_FROM, 1.0)
            there = true[true[:, 0] > NONE].astype(np.float64)
            self._measured.add(
                found.boxes, found.scores, found.classes, there[:, 1:5], there[:, 0], there[:, 5]
            )

    def result(self) -> dict[str, float]:
        """`map` and `map50`."""
        return self._measured.result()


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return ObjectDetection(recipe, folder, base)
