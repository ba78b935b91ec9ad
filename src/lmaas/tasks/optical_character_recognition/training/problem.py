"""Reading: images of lines with texts in, a CTC model served by its task out.

Images are decoded and laid down once, into a mapped file in the job's folder, by the codec that
serves; augmentation changes those pixels.
"""

import importlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.codecs import image as codec
from lmaas.data.augmentation import generator
from lmaas.data.augmentation.line import LineAugmenter
from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.optical_character_recognition import lattice, score
from lmaas.tasks.optical_character_recognition.options import COLUMNS, ROWS, ReadingDataOptions
from lmaas.tasks.optical_character_recognition.spec import SPEC
from lmaas.tasks.optical_character_recognition.training import written
from lmaas.training.base import IGNORED, Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel
from lmaas.training.problems.classification import lineage
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.types import BATCH, ImageSpec, ReadingSpec, Signature, TensorSpec

SAMPLE: Final = 4


class CharacterReading(SizedNetwork):
    """The problem of one recipe."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        options = data_options(recipe, ReadingDataOptions)
        if recipe.method.type != "supervised" or recipe.adapter is not None:
            raise InvalidInput(
                f"{SPEC.name} learns supervised, all weights: no method dpo, no adapter.",
                param="method" if recipe.adapter is None else "adapter",
            )
        if recipe.label_smoothing:
            raise InvalidInput("CTC takes no label_smoothing.", param="label_smoothing")
        self._recipe = recipe
        self._augmenter = LineAugmenter(recipe.augmentation)
        self._splits = Splits(recipe, folder, fields=SPEC.trained.columns, content=("image",))
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        self._name, self._sizes = architectures.resolve(
            recipe.task, self._base.model if self._base else recipe.model
        )
        if self._base is not None:
            options = self._of_base(self._base)
        columns, train = self._splits.columns, self._splits.train
        parts = {id(part.table): part.table for part in self._splits.parts.values()}
        texts = {
            key: written.texts_of(table, columns["text"], options) for key, table in parts.items()
        }
        if self._base is None:
            learned = texts[id(train.table)]
            self.reading = ReadingSpec(
                characters=written.characters_of(learned), pattern=options.pattern
            )
            layout: Literal["CHW", "HWC"] = "CHW" if self._framework == "pytorch" else "HWC"
            longest = max(map(written.least_steps, learned))
            self.image: ImageSpec = written.spec_of(
                train.table, columns["image"], options, layout, longest
            )
        self._classes = {key: self._spelled(parts[key], found) for key, found in texts.items()}
        # One width for all batches: TensorFlow traces a graph for each shape.
        self._most = max(len(each) for found in self._classes.values() for each in found)
        if self._base is None and self.image.resize == "line":
            self.image = msgspec.structs.replace(self.image, fill=127)
        self._pixels = {
            key: written.pixels_of(table, columns["image"], self.image, folder / "data")
            for key, table in parts.items()
        }
        if self._base is None:
            pixels = self._pixels[id(train.table)]
            self.image = written.standardised(self.image, pixels, train.rows)
        self.model: ModelChoice = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )
        self.loss = Loss(name="ctc")

    def _of_base(self, base: BaseModel) -> ReadingDataOptions:
        """The base's own options; its image and its characters are kept."""
        signature = base.manifest.signature
        assert signature.image is not None
        assert signature.reading is not None
        self.image, self.reading = signature.image, signature.reading
        own = {name: getattr(self.image, name) for name in ("height", "width", "channels")}
        base.read_as(**own, resize=self.image.resize, pattern=self.reading.pattern)
        given = base.own_options() | self._recipe.data.options
        return msgspec.convert(given, ReadingDataOptions)

    def _spelled(self, table: Table, texts: list[str]) -> list[list[int]]:
        reading = self.reading
        first = lattice.first_of(reading)
        numbers = {each: first + number for number, each in enumerate(reading.characters)}
        wanted = lattice.automaton_of(reading, reading.pattern) if reading.pattern else None
        return written.spelled(table, texts, numbers, self._steps, wanted)

    @property
    def _steps(self) -> int:
        return self.image.width // COLUMNS

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels in the model's layout; characters with the steps in which they are."""
        part = self._splits.parts[split]
        key, rows = id(part.table), part.rows[indices]
        pixels = self._pixels[key][rows]
        if epoch is not None and self._recipe.augmentation:
            pixels = np.stack(
                [
                    self._augmenter(each, generator(self._recipe.seed, epoch, index))
                    for each, index in zip(pixels, indices.tolist(), strict=True)
                ]
            )
        labels = np.full((len(rows), self._most), IGNORED, np.int64)
        for place, row in enumerate(rows.tolist()):
            classes = self._classes[key][row]
            labels[place, : len(classes)] = classes
        size = len(rows)
        return Feed(
            inputs={"pixels": codec.from_pixels(pixels, self.image, "float32")},
            targets={"labels": labels, "lengths": np.full(size, self._steps, np.int64)},
            size=size,
            weight=size,
        )

    def _shape(self) -> Shape:
        return Shape(
            outputs=len(self.reading.characters) + 1,
            channels=self.image.channels,
            places=self.image.height // ROWS,
        )

    def signature(self) -> Signature:
        """How the network's output is read."""
        image = self.image
        sides = (image.height, image.width)
        shape = (image.channels, *sides) if image.layout == "CHW" else (*sides, image.channels)
        classes = len(self.reading.characters) + 1
        return Signature(
            inputs=(TensorSpec(name="pixels", dtype="float32", shape=(BATCH, *shape)),),
            outputs=(
                TensorSpec(name="logits", dtype="float32", shape=(BATCH, self._steps, classes)),
            ),
            image=image,
            reading=self.reading,
            outputs_are="logits",
        )

    def meter(self) -> Meter:
        """Exact texts and errors of characters; by the pattern, where there is one."""
        return ReadingMeter(self.signature())

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        home = "lmaas.tasks.optical_character_recognition.training"
        module = importlib.import_module(f"{home}.{framework}")
        classes = len(self.reading.characters) + 1
        model = module.build(self._sizes, self.image, classes, self._recipe.seed)
        if self._base is not None and not self.resized:
            self._base.fill(model, head=True)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `optical-character-recognition`."""
        split: Split = "validation" if self.size("validation") else "train"
        sample = self.feed(split, np.arange(min(SAMPLE, self.size(split))), epoch=None)
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        package.build(
            model,
            name=recipe.name,
            task=recipe.task,
            sample=next(iter(sample.inputs.values())),
            folder=folder,
            image=self.image,
            reading=self.reading,
            outputs_are="logits",
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
        )

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and overlap; what images become, and what can be read."""
        return {
            **self._splits.facts(),
            "image": msgspec.to_builtins(self.image),
            "characters": "".join(self.reading.characters),
            "pattern": self.reading.pattern,
            "longest": self._most,
        }


class ReadingMeter:
    """Exact texts and errors of characters over the feeds of an evaluation."""

    def __init__(self, signature: Signature) -> None:
        assert signature.reading is not None
        self._signature, self._spec = signature, signature.reading
        pattern = self._spec.pattern
        self._wanted = lattice.automaton_of(self._spec, pattern) if pattern else None
        self._tally = score.Tally()

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count the images of a feed."""
        first = lattice.first_of(self._spec)
        rows = lattice.probabilities(next(iter(outputs.values())), self._signature)
        for row, numbers in zip(rows, feed.targets["labels"], strict=True):
            there = "".join(self._spec.characters[n - first] for n in numbers[numbers >= 0])
            self._tally.add(lattice.read(row, self._spec, self._wanted).text, there)

    def result(self) -> dict[str, float]:
        """See `score.Tally.result`."""
        return self._tally.result()


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return CharacterReading(recipe, folder, base)
