"""Translation from pairs of texts: a vocabulary and an encoder-decoder, new in any framework."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import Tensors, text_metrics
from lmaas.tasks.architectures import Shape
from lmaas.tasks.text_layout import TOKENIZER, TextLayout
from lmaas.tasks.translation.options import EncoderDecoder, PairDataOptions
from lmaas.tasks.translation.spec import SPEC
from lmaas.tasks.translation.training import packaging
from lmaas.training import encoder_decoder as layout
from lmaas.training import pairs
from lmaas.training.base import IGNORED, Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits

MOST_WRITTEN: Final = 1000
"""So many held-out texts are written out at an evaluation; the loss is that of all."""
CUT: Final = "Split the texts at sentences, raise data.options.max_length, or leave the pair out."


class Translation(SizedNetwork):
    """The data of one recipe, and the network that learns them."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        self._recipe = recipe
        self._options = data_options(recipe, PairDataOptions)
        _refuse(recipe, base)
        self._base = None if base is None else OwnBase(base, recipe, self._options)
        name, sizes = (
            architectures.resolve(recipe.task, recipe.model)
            if self._base is None
            else (packaging.ARCHITECTURE, self._base.sizes)
        )
        assert isinstance(sizes, EncoderDecoder)
        self._sizes: EncoderDecoder = sizes
        self.model = msgspec.structs.replace(
            architectures.noted(name, sizes), base=recipe.model.base
        )
        self.loss = Loss(name="next-token", smoothing=recipe.label_smoothing)
        self._splits = Splits(
            recipe, folder, fields=SPEC.trained.columns, content=SPEC.trained.columns
        )
        self._columns = [self._splits.columns[field] for field in SPEC.trained.columns]
        for table in {id(p.table): p.table for p in self._splits.parts.values()}.values():
            for column in self._columns:
                table.texts(column)
        self._path = folder / "data" / TOKENIZER
        self._take_vocabulary()
        self._vocabulary = pairs.Vocabulary(self._path)
        self._data = {split: self._encoded(split) for split in self._splits.parts}
        self._coder: Any = None

    @property
    def most(self) -> int:
        """The most tokens of a side."""
        return self._options.max_length if self._base is None else self._base.most

    def _take_vocabulary(self) -> None:
        if self._base is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._base.tokenizer, self._path)
            return
        part = self._splits.train
        rows = part.rows[: pairs.MOST_READ // 2]
        texts = (text for column in self._columns for text in part.table.values(column, rows))
        pairs.learn_vocabulary(texts, self._options.vocabulary, self._path)

    def _encoded(self, split: Split) -> pairs.Encoded:
        part = self._splits.parts[split]
        sources, targets = (part.table.values(column, part.rows) for column in self._columns)
        found = pairs.Encoded(self._vocabulary.encode(sources), self._vocabulary.encode(targets))
        found.check(self.most, lambda index: part.table.place(int(part.rows[index])), CUT)
        return found

    def size(self, split: Split) -> int:
        """How many pairs a split has."""
        return len(self._data[split])

    def lengths(self) -> np.ndarray:
        """The tokens of each pair to train on."""
        train = self._data["train"]
        return np.array(
            [len(s) + len(t) for s, t in zip(train.sources, train.targets, strict=True)]
        )

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Token ids and masks of both sides, and what follows each token."""
        return self._data[split].feed(indices)

    def meter(self) -> Meter:
        """Metrics of what the model writes, and of its next tokens."""
        return _Written(self._write, self._vocabulary.decode)

    def _write(self, feed: Feed) -> list[list[int]]:
        """What the network as it is now writes; a quarter more than the longest right answer has
        ends a text.
        """
        most = min(self.most - 1, feed.targets["labels"].shape[1] * 5 // 4 + 8)
        return pairs.write_greedily(self._coder, feed, most)

    def _shape(self) -> Shape:
        return Shape(tokens=self._vocabulary.size, places=self.most)

    def _network(self) -> Any:
        return importlib.import_module(f"lmaas.training.{self._framework}.encoder_decoder")

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        size = self._vocabulary.size
        weights = layout.draw(self._sizes, size, self._recipe.seed)
        if self._base is not None and not self.resized:
            weights = self._base.weights(weights)
        model = self._network().build(self._sizes, size, self.most, weights)
        self._coder = self._network().decoder_of(model)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `translation`, with its vocabulary."""
        pair = _both((self._options.source_language, self._options.target_language))
        if pair is None and self._base is not None:
            pair = self._base.pair
        packaging.write(
            folder,
            facts,
            packaging.Trained(
                framework=self._framework,
                model=model,
                weights=self._network().weights_of(model, self._sizes),
                sizes=self._sizes,
                choice=self.model,
                most=self.most,
                tokenizer=self._path,
                layout=TextLayout(after=(layout.EOS,), pair=pair),
                samples=[self._vocabulary.encode([text])[0] for text in self._some()],
                coder=self._network().decoder_of(model),
            ),
        )

    def _some(self) -> list[str]:
        split: Split = "validation" if self.size("validation") else "train"
        part = self._splits.parts[split]
        return list(part.table.values(self._columns[0], part.rows[:8]))

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes and overlap; what texts become."""
        return {
            **self._splits.facts(),
            "max_length": self.most,
            "vocabulary": self._vocabulary.size,
            "tokens": int(self.lengths().sum()),
            "measured": {
                "bleu": text_metrics.BLEU_SIGNATURE,
                "chrf": text_metrics.CHRF_SIGNATURE,
                "written": f"greedily, at most {MOST_WRITTEN} texts of a split",
            },
        }


class _Written:
    """Counts over the learned tokens, and over texts that are written out."""

    def __init__(
        self, write: Callable[[Feed], list[list[int]]], decode: Callable[[list[int]], str]
    ) -> None:
        self._write, self._decode = write, decode
        self._counts = text_metrics.Counts()
        self._texts = self._hits = self._tokens = 0

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count one feed."""
        (logits,) = outputs.values()
        labels = feed.targets["labels"]
        there = labels != IGNORED
        self._hits += int((logits.argmax(-1) == labels)[there].sum())
        self._tokens += int(there.sum())
        if self._texts >= MOST_WRITTEN:
            return
        self._texts += feed.size
        for ids, right in zip(self._write(feed), labels.tolist(), strict=True):
            # The last label is the end's; the vocabulary loses nothing of a text.
            wanted = [label for label in right if label != IGNORED][:-1]
            self._counts.add(self._decode(ids), self._decode(wanted))

    def result(self) -> dict[str, float]:
        """The metrics."""
        accuracy = self._hits / max(1, self._tokens)
        return {**self._counts.result(), "token_accuracy": accuracy}


class OwnBase:
    """A translation model that a run of ours made, in any framework, to be trained on."""

    def __init__(self, folder: Path, recipe: Recipe, options: PairDataOptions) -> None:
        found = packaging.read(folder)
        self.sizes, self.most, self.pair = found.sizes, found.most, found.layout.pair
        self.tokenizer = found.tokenizer
        self._file = found.weights
        for field, own in (("max_length", found.most), ("vocabulary", None)):
            if field in recipe.data.options and recipe.data.options[field] != own:
                raise InvalidInput(
                    f"data.options.{field} is the base model's matter.",
                    hint="Leave it out.",
                    param=f"data.options.{field}",
                )
        if recipe.model.options or recipe.model.architecture not in (
            None,
            "auto",
            packaging.ARCHITECTURE,
        ):
            raise InvalidInput(
                "The base says the architecture and its options.",
                hint="Leave model.architecture and model.options out.",
                param="model.options",
            )

    def weights(self, like: layout.Weights) -> layout.Weights:
        """The base's weights. Raises InvalidInput for those of another network."""
        from safetensors.numpy import load_file

        given = load_file(self._file)
        found = {name: given.get(f"model.{name}") for name in like}
        for name, array in found.items():
            if array is None or array.shape != like[name].shape:
                raise InvalidInput(
                    f"The base has weights of another network: {name} is "
                    f"{None if array is None else array.shape}; expected {like[name].shape}.",
                    param="model.base",
                )
        return {name: array for name, array in found.items() if array is not None}


def _refuse(recipe: Recipe, base: Path | None) -> None:
    if recipe.method.type != "supervised":
        raise InvalidInput("translation learns supervised, not by dpo.", param="method")
    if recipe.augmentation:
        raise InvalidInput("translation takes no augmentation.", param="augmentation")
    if recipe.adapter is not None:
        told = "needs a checkpoint as model.base" if base is None else "is for checkpoints"
        raise InvalidInput(f"An adapter {told}; this network learns all weights.", param="adapter")


def _both(pair: tuple[str | None, str | None]) -> tuple[str, str] | None:
    source, target = pair
    return None if source is None or target is None else (source, target)


def least_parameters(recipe: Recipe) -> int:
    """What a new model will have at least, known before it is made; its tokens are not yet."""
    _, sizes = architectures.resolve(recipe.task, recipe.model)
    assert isinstance(sizes, EncoderDecoder)
    return sizes.parameters(Shape())


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    return Translation(recipe, folder, base)
