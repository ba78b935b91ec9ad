"""Image classification: folders of images or Parquet in, a classifier served by its task out.

Images are decoded and resized once, into a mapped file in the job's folder, by the codec that
serves; augmentation changes those pixels.
"""

import hashlib
import importlib
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.codecs import image as codec
from lmaas.codecs.limits import Limits
from lmaas.data.augmentation import generator
from lmaas.data.augmentation.image import ImageAugmenter
from lmaas.data.table import Table
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks.architectures import Shape
from lmaas.tasks.image_classification.options import ImageDataOptions
from lmaas.tasks.image_classification.spec import SPEC
from lmaas.training.base import Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import ClassMeter, lineage
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.training.rows import take
from lmaas.types import ImageSpec

LOOKED_AT: Final = 200
"""Of how many images sizes and colours are seen where a recipe leaves them open."""
LARGEST_AUTO: Final = 128
GREY: Final = 8
"""How far the channels of a grey image may differ: JPEG rounds."""
SAMPLE: Final = 8
READY_BYTES: Final = 64 << 20
"""Up to this size, the training images are kept as the numbers that the network reads."""


class ImageClassification(SizedNetwork):
    """The problem of one recipe."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        options = data_options(recipe, ImageDataOptions)
        if recipe.method.type != "supervised" or recipe.adapter is not None:
            raise InvalidInput(
                "image-classification learns supervised, all weights: no method dpo, no adapter.",
                param="method" if recipe.adapter is None else "adapter",
            )
        self._recipe = recipe
        self._augmenter = ImageAugmenter(recipe.augmentation)
        self._splits = Splits(
            recipe, folder, fields=SPEC.trained.columns, content=("image",), label="label"
        )
        self.labels, self._targets = self._splits.labels("label")
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        self._name, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        column = self._splits.columns["image"]
        if self._base is not None and self._base.manifest.signature.image is not None:
            self.image = self._base.manifest.signature.image
            own = {name: getattr(self.image, name) for name in ImageDataOptions.__struct_fields__}
            self._base.read_as(**own)
        else:
            layout: Literal["CHW", "HWC"] = "CHW" if self._framework == "pytorch" else "HWC"
            self.image = _spec(self._splits.train.table, column, options, layout)
        self._pixels = {
            id(part.table): _decode(part.table, column, self.image, folder / "data")
            for part in self._splits.parts.values()
        }
        if self._base is None:
            self.image = self._standardised()
        train = self._splits.train
        pixels = self._pixels[id(train.table)]
        self._ready: np.ndarray | None = None
        if not recipe.augmentation and 4 * len(train) * pixels[0].size <= READY_BYTES:
            self._ready = codec.from_pixels(pixels[train.rows], self.image, "float32")
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        self.loss = Loss(name="cross-entropy", smoothing=recipe.label_smoothing)

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels in the model's layout; labels as numbers, or as shares where images are mixed."""
        part, targets = self._splits.parts[split], take(self._targets[split], indices)
        pixels = self._pixels[id(part.table)]
        rows = part.rows[indices]
        if epoch is not None and self._recipe.augmentation:
            images, targets = self._augmented(pixels, part.rows, indices, epoch)
            inputs = codec.from_pixels(images, self.image, "float32")
        elif self._ready is not None and split == "train":
            inputs = take(self._ready, indices)
        else:
            inputs = codec.from_pixels(pixels[rows], self.image, "float32")
        size = len(indices)
        return Feed(inputs={"pixels": inputs}, targets={"labels": targets}, size=size, weight=size)

    def _augmented(
        self, pixels: np.ndarray, rows: np.ndarray, indices: np.ndarray, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        numbers = self._targets["train"]
        shares = np.zeros((len(indices), len(self.labels)), np.float32)
        images = []
        for place, index in enumerate(indices.tolist()):
            random = generator(self._recipe.seed, epoch, index)
            image = self._augmenter(pixels[rows[index]], random)
            other = index

            def draw(random: np.random.Generator) -> np.ndarray:
                nonlocal other
                other = int(random.integers(len(rows)))
                return self._augmenter(pixels[rows[other]], random)

            image, share = self._augmenter.mix(image, draw, random)
            images.append(image)
            shares[place, numbers[index]] += share
            shares[place, numbers[other]] += 1 - share
        return np.stack(images), shares if self._augmenter.mixes else numbers[indices]

    def _shape(self) -> Shape:
        image = self.image
        pixels = image.channels * image.height * image.width
        return Shape(outputs=len(self.labels), features=pixels, channels=image.channels)

    def meter(self) -> Meter:
        """Accuracy and macro-F1."""
        return ClassMeter(len(self.labels))

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        module = importlib.import_module(f"lmaas.tasks.image_classification.training.{framework}")
        model = module.build(
            self._name, self._sizes, self.image, len(self.labels), self._recipe.seed
        )
        if self._base is not None and not self.resized:
            self._base.fill(model, head=self._base.manifest.signature.labels == self.labels)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `image-classification`."""
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
            outputs_are="logits",
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes, labels and overlap, and what images become."""
        counts = Counter(self._targets["train"].tolist())
        return {
            **self._splits.facts(),
            "labels": {label: counts[number] for number, label in enumerate(self.labels)},
            "image": msgspec.to_builtins(self.image),
        }

    def _standardised(self) -> ImageSpec:
        """The spec with the mean and deviation that each channel has in the training images."""
        part = self._splits.train
        rows = part.rows[:: max(1, len(part) // 10_000)]
        pixels = np.asarray(self._pixels[id(part.table)][rows], np.float64) / 255
        mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
        return msgspec.structs.replace(
            self.image,
            mean=tuple(round(float(m), 4) for m in mean),
            std=tuple(max(round(float(s), 4), 0.01) for s in std),
        )


def _spec(
    table: Table, column: str, options: ImageDataOptions, layout: Literal["CHW", "HWC"]
) -> ImageSpec:
    """The size and colour that the recipe says, or that the first images have."""
    channels = options.channels
    sizes, colour = [(LARGEST_AUTO, LARGEST_AUTO)], False
    if "auto" in (options.height, options.width, options.channels):
        as_it_is = ImageSpec(height=4096, width=4096, channels=3)
        pictures = [
            _open(table, column, row, as_it_is) for row in range(min(LOOKED_AT, len(table)))
        ]
        sizes = [picture.size for picture in pictures]
        small = np.stack([np.asarray(picture.resize((32, 32)), np.int16) for picture in pictures])
        colour = bool((small.max(axis=3) - small.min(axis=3)).max() > GREY)
    width, height = sizes[0]
    if len(set(sizes)) > 1 or max(width, height) > LARGEST_AUTO:
        width = height = min(int(np.median([min(size) for size in sizes])), LARGEST_AUTO)
    return ImageSpec(
        height=height if options.height == "auto" else options.height,
        width=width if options.width == "auto" else options.width,
        channels=(3 if colour else 1) if channels == "auto" else channels,
        layout=layout,
        resize=options.resize,
        invert=options.invert,
    )


def _open(table: Table, column: str, row: int, spec: ImageSpec) -> Any:
    try:
        return codec.decode(table.content(column, row), spec, Limits())
    except (InvalidInput, PayloadTooLarge) as error:
        name = table.values(column, [row])[0]
        place = f"{table.name}, {name}" if isinstance(name, str) else table.place(row)
        raise InvalidInput(f"{place}: {error.message}", param="data") from None


def _decode(table: Table, column: str, spec: ImageSpec, folder: Path) -> np.ndarray:
    """All images, (N, H, W, C) uint8, from a mapped file that is made once.

    Raises InvalidInput naming the image that does not decode.
    """
    plain = msgspec.structs.replace(spec, layout="HWC", scale=1.0, mean=(0.0,), std=(1.0,))
    told = msgspec.json.encode((table.digest, column, plain))
    path = folder / f"{hashlib.sha256(told).hexdigest()}.pixels"
    shape = (len(table), spec.height, spec.width, spec.channels)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{np.random.default_rng().integers(1 << 40):x}")
        try:
            pixels = np.memmap(part, np.uint8, "w+", shape=shape)
            for row in range(len(table)):
                pixels[row] = codec.to_array(_open(table, column, row, plain), plain, "uint8")
            pixels.flush()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    # As a plain array: numpy's own class for mapped files makes every access dearer.
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return ImageClassification(recipe, folder, base)
