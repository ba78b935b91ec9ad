"""Face recognition: folders of people in, a model that makes vectors of faces out.

It learns to tell the people of the training data apart (ArcFace), and is measured on others: the
parts that are held out have people of their own. Their pairs also give the thresholds that are
served.
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
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.face_recognition import verification
from lmaas.tasks.face_recognition.options import FaceDataOptions
from lmaas.tasks.face_recognition.spec import SPEC
from lmaas.training.base import IGNORED, Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import lineage
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.training.rows import take
from lmaas.types import FaceSpec, ImageSpec

SAMPLE: Final = 8
READY_BYTES: Final = 256 << 20
"""Up to this size, the training images are kept as the numbers that the network reads."""
PERSON: Final = "person"
"""The target with the number of a person who is not learned."""
EMBEDDING: Final = "embedding"
NAMED: Final = 3


class FaceRecognition(SizedNetwork):
    """The problem of one recipe."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        options = data_options(recipe, FaceDataOptions)
        self._augmenter = ImageAugmenter(recipe.augmentation)
        _check(recipe, self._augmenter)
        self._recipe = recipe
        self._splits = Splits(
            recipe,
            folder,
            fields=SPEC.trained.columns,
            content=("image",),
            label="label",
            apart=True,
        )
        column = self._splits.columns["label"]
        names = {s: p.table.labels(column, p.rows) for s, p in self._splits.parts.items()}
        _refuse_shared(names)
        self.people = tuple(sorted(set(names["train"])))
        if len(self.people) < 2:
            raise InvalidInput(
                "The training data has one person only: there is nothing to tell apart.",
                param="data",
            )
        self._numbers = {split: _numbered(own) for split, own in names.items()}
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        _, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        if self._base is not None and self._base.manifest.signature.image is not None:
            self.image = self._base.manifest.signature.image
            self._base.read_as(size=self.image.height, channels=self.image.channels)
        else:
            layout: Literal["CHW", "HWC"] = "CHW" if self._framework == "pytorch" else "HWC"
            self.image = ImageSpec(
                height=options.size,
                width=options.size,
                channels=options.channels,
                layout=layout,
                mean=(0.5,),
                std=(0.5,),
            )
        images = self._splits.columns["image"]
        self._pixels = {
            id(part.table): _decode(part.table, images, self.image, folder / "data")
            for part in self._splits.parts.values()
        }
        train = self._splits.train
        pixels = self._pixels[id(train.table)]
        self._ready: np.ndarray | None = None
        if not recipe.augmentation and 4 * len(train) * pixels[0].size <= READY_BYTES:
            self._ready = codec.from_pixels(pixels[train.rows], self.image, "float32")
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted("facenet", self._sizes), base=recipe.model.base
        )
        self.loss = Loss(
            name="angular-margin",
            outputs=("cosines",),
            scale=self._sizes.scale,  # type: ignore[attr-defined]
            margin=self._sizes.margin,  # type: ignore[attr-defined]
        )

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels in the model's layout; who is learned as `labels`, who is not as `person`."""
        part, numbers = self._splits.parts[split], take(self._numbers[split], indices)
        pixels = self._pixels[id(part.table)]
        if epoch is not None and self._recipe.augmentation:
            images = [
                self._augmenter(
                    pixels[part.rows[index]], generator(self._recipe.seed, epoch, index)
                )
                for index in indices.tolist()
            ]
            inputs = codec.from_pixels(np.stack(images), self.image, "float32")
        elif self._ready is not None and split == "train":
            inputs = take(self._ready, indices)
        else:
            inputs = codec.from_pixels(pixels[part.rows[indices]], self.image, "float32")
        targets = {"labels": numbers}
        if split != "train":
            targets = {"labels": np.full_like(numbers, IGNORED), PERSON: numbers}
        size = len(indices)
        return Feed(inputs={"pixels": inputs}, targets=targets, size=size, weight=size)

    def _shape(self) -> Shape:
        image = self.image
        pixels = image.channels * image.height * image.width
        return Shape(outputs=len(self.people), features=pixels, channels=image.channels)

    def meter(self) -> Meter:
        """Verification and identification of people who are not learned."""
        return FaceMeter()

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base; the vectors of
        people are always new."""
        assert framework == self._framework, (framework, self._framework)
        module = self._module()
        model = module.build(self._sizes, self.image, len(self.people), self._recipe.seed)
        if self._base is not None:
            self._base.fill(module.embedder(model), head=True)
        return model

    def _module(self) -> Any:
        return importlib.import_module(f"lmaas.tasks.face_recognition.training.{self._framework}")

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `face-recognition`."""
        split: Split = "validation" if self.size("validation") else "train"
        sample = self.feed(split, np.arange(min(SAMPLE, self.size(split))), epoch=None)
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        package.build(
            self._module().embedder(model),
            name=recipe.name,
            task=recipe.task,
            sample=next(iter(sample.inputs.values())),
            folder=folder,
            image=self.image,
            face=verification.read_rates(
                FaceSpec(dimensions=self._sizes.dimensions),  # type: ignore[attr-defined]
                facts.metrics,
            ),
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and people, and what images become."""
        counts = Counter(Counter(self._numbers["train"].tolist()).values())
        return {
            **self._splits.facts(),
            "people": {s: len(set(own.tolist())) for s, own in self._numbers.items()},
            "photos_a_person": {str(photos): people for photos, people in sorted(counts.items())},
            "image": msgspec.to_builtins(self.image),
        }


class FaceMeter:
    """The task's metrics over the feeds of an evaluation."""

    def __init__(self) -> None:
        self._vectors: list[np.ndarray] = []
        self._people: list[np.ndarray] = []

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Keep the vectors of people who are not learned."""
        if PERSON in feed.targets:
            self._vectors.append(outputs[EMBEDDING])
            self._people.append(feed.targets[PERSON])

    def result(self) -> dict[str, float]:
        """See `verification.measure`."""
        if not self._vectors:
            return {}
        return verification.measure(np.concatenate(self._vectors), np.concatenate(self._people))


def _check(recipe: Recipe, augmenter: ImageAugmenter) -> None:
    if recipe.method.type != "supervised" or recipe.adapter is not None:
        raise InvalidInput(
            "face-recognition learns supervised, all weights: no method dpo, no adapter.",
            param="method" if recipe.adapter is None else "adapter",
        )
    if recipe.label_smoothing:
        raise InvalidInput(
            "face-recognition learns by angles, which label_smoothing does not change.",
            hint="Leave it out.",
            param="label_smoothing",
        )
    if augmenter.mixes:
        raise InvalidInput(
            "A mixture of two people is nobody: mixup and cutmix are not for faces.",
            param="augmentation",
        )


def _refuse_shared(names: dict[Split, list[str]]) -> None:
    """Raise InvalidInput where somebody is in two parts: how well strangers are told apart is what
    is measured."""
    seen: dict[str, Split] = {}
    for split, own in names.items():
        shared = sorted(name for name in set(own) if seen.setdefault(name, split) != split)
        if shared:
            told = ", ".join(map(repr, shared[:NAMED])) + (" …" if len(shared) > NAMED else "")
            raise InvalidInput(
                f"{told}: in the {seen[shared[0]]} data and in the {split} data. The people that "
                "a model is measured by are not those that it learns.",
                hint="Give folders of different people, or a share: data.validation 0.2 holds out "
                "a fifth of the people.",
                param=f"data.{split}",
            )


def _numbered(names: list[str]) -> np.ndarray:
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([known[name] for name in names], np.int64)


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
                try:
                    image = codec.decode(table.content(column, row), plain, Limits())
                except (InvalidInput, PayloadTooLarge) as error:
                    place = f"{table.name}, {table.values(column, [row])[0]}"
                    raise InvalidInput(f"{place}: {error.message}", param="data") from None
                pixels[row] = codec.to_array(image, plain, "uint8")
            pixels.flush()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    # As a plain array: numpy's own class for mapped files makes every access dearer.
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return FaceRecognition(recipe, folder, base)
