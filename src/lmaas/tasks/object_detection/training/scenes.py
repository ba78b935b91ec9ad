"""Images with their boxes: what a detector learns from, whatever network learns it.

Images are decoded and laid down once, into a mapped file in the job's folder, by the codec that
serves; augmentation changes those pixels and the boxes with them.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.codecs import image as codec
from lmaas.data.augmentation import generator
from lmaas.data.augmentation.boxes import BoxAugmenter, Scene
from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors
from lmaas.tasks.object_detection import heads
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from lmaas.tasks.object_detection.options import SIDES, DetectionDataOptions
from lmaas.tasks.object_detection.spec import SPEC
from lmaas.tasks.object_detection.training import pictures
from lmaas.training.base import Feed, Meter, Split
from lmaas.training.problems.options import data_options
from lmaas.training.problems.splits import Splits
from lmaas.training.rows import take
from lmaas.types import ImageSpec, Signature

READY_BYTES: Final = 256 << 20
"""Up to this size, the training images are kept as the numbers that the network reads."""
TRUE: Final = "true"
"""The target with the true boxes of an evaluation: class, corners, whether it is a crowd."""
NONE: Final = -1.0
MEASURED_FROM: Final = 0.05
"""Predictions from this score on are measured."""


class Scenes:
    """The data of one recipe. Raises InvalidInput for what no detector's recipe can have."""

    primary = SPEC.primary

    def __init__(
        self, recipe: Recipe, folder: Path, image: ImageSpec | None, layout: Literal["CHW", "HWC"]
    ) -> None:
        options = data_options(recipe, DetectionDataOptions)
        if recipe.method.type != "supervised" or recipe.adapter is not None:
            raise InvalidInput(
                "object-detection learns supervised, all weights: no method dpo, no adapter.",
                param="method" if recipe.adapter is None else "adapter",
            )
        if recipe.label_smoothing:
            raise InvalidInput(
                "object-detection learns from heat maps and boxes, which label_smoothing does not "
                "change.",
                hint="Leave it out.",
                param="label_smoothing",
            )
        self._recipe = recipe
        self._augmenter = BoxAugmenter(recipe.augmentation)
        self._splits = Splits(recipe, folder, fields=SPEC.trained.columns, content=("image",))
        columns, train = self._splits.columns, self._splits.train
        self.labels = pictures.labels_of(train.table, columns["boxes"])
        """The classes, in the order of their numbers."""
        self.image = image or pictures.spec_of(train.table, columns["image"], options, layout)
        """How an image becomes the network's input; without `image`, by the data."""
        self._data = {
            id(part.table): pictures.read(
                part.table, columns, self.image, self.labels, folder / "data"
            )
            for part in self._splits.parts.values()
        }
        self._most = max([1, *(len(boxes) for data in self._data.values() for boxes in data.boxes)])
        pixels = self._data[id(train.table)].pixels
        if image is None:
            self.image = pictures.standardised(self.image, pixels, train.rows)
        self._ready: np.ndarray | None = None
        if not recipe.augmentation and 4 * len(train) * pixels[0].size <= READY_BYTES:
            self._ready = codec.from_pixels(pixels[train.rows], self.image, "float32")

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits.parts[split])

    def _seen(
        self, split: Split, indices: np.ndarray, epoch: int | None
    ) -> tuple[np.ndarray, list[Scene]]:
        """Pixels (N, …) in the model's layout, and the scenes that they show."""
        part = self._splits.parts[split]
        scenes = [self._scene(split, index) for index in indices.tolist()]
        if epoch is not None and self._recipe.augmentation:
            scenes = [
                self._augmented(scene, epoch, index)
                for scene, index in zip(scenes, indices.tolist(), strict=True)
            ]
            pixels = np.stack([scene.image for scene in scenes])
            return codec.from_pixels(pixels, self.image, "float32"), scenes
        if self._ready is not None and split == "train":
            return take(self._ready, indices), scenes
        pixels = self._data[id(part.table)].pixels[part.rows[indices]]
        return codec.from_pixels(pixels, self.image, "float32"), scenes

    def _scene(self, split: Split, index: int) -> Scene:
        """An image with the boxes that are learned: what stands for a crowd is none."""
        part = self._splits.parts[split]
        data, row = self._data[id(part.table)], int(part.rows[index])
        boxes = data.boxes[row]
        boxes = boxes[boxes[:, -1] == 0]
        return Scene(data.pixels[row], boxes[:, 1 : 1 + SIDES], boxes[:, 0])

    def _true(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """The true boxes of images, (N, most, 6), filled up with `NONE`."""
        return np.stack([self._true_of(split, index) for index in indices.tolist()])

    def _true_of(self, split: Split, index: int) -> np.ndarray:
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

    def signature(self) -> Signature:
        """How the network's outputs are read."""
        raise NotImplementedError

    def meter(self) -> Meter:
        """Mean average precision."""
        return DetectionMeter(self.signature())

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
        names = [spec.name for spec in self._signature.outputs]
        if len(names) == 1:
            outputs = {names[0]: next(iter(outputs.values()))}
        parts = heads.split(outputs, self._signature)
        for row, true in enumerate(feed.targets[TRUE]):
            found = heads.find(parts, row, self._signature, None, MEASURED_FROM, 1.0)
            there = true[true[:, 0] > NONE].astype(np.float64)
            self._measured.add(
                found.boxes, found.scores, found.classes, there[:, 1:5], there[:, 0], there[:, 5]
            )

    def result(self) -> dict[str, float]:
        """`map` and `map50`."""
        return self._measured.result()
