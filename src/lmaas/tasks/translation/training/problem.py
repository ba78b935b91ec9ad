"""Translation from pairs of texts: a vocabulary and an encoder-decoder, new in any framework."""

import importlib
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks.architectures import Shape
from lmaas.tasks.text_layout import TOKENIZER, TextLayout
from lmaas.tasks.translation.options import EncoderDecoder
from lmaas.tasks.translation.training import packaging
from lmaas.tasks.translation.training.pair_problem import PairProblem, most_written
from lmaas.training import encoder_decoder as layout
from lmaas.training import pairs
from lmaas.training.base import Facts, Feed, Problem
from lmaas.training.problems import architectures
from lmaas.training.problems.sized import SizedNetwork

MOST_WRITTEN: Final = 1000
"""So many held-out texts are written out at an evaluation; the loss is that of all."""
CUT: Final = "Split the texts at sentences, raise data.options.max_length, or leave the pair out."


class Translation(PairProblem, SizedNetwork):
    """The data of one recipe, and the new network that learns them."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        if recipe.adapter is not None:
            told = "needs a checkpoint as model.base" if base is None else "is for checkpoints"
            raise InvalidInput(
                f"An adapter {told}; this network learns all weights.", param="adapter"
            )
        super().__init__(recipe, folder)
        self._base = None if base is None else OwnBase(base, recipe)
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
        self._path = folder / "data" / TOKENIZER
        self._take_vocabulary()
        self._vocabulary = pairs.Vocabulary(self._path)
        self._load({"source": self.most, "target": self.most})
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

    def _encode(self, sources: list[str], targets: list[str]) -> pairs.Encoded:
        return pairs.Encoded(self._vocabulary.encode(sources), self._vocabulary.encode(targets))

    def _decode(self, ids: list[int]) -> str:
        return self._vocabulary.decode(ids)

    def _write(self, feed: Feed) -> list[list[int]]:
        most = min(self.most - 1, most_written(feed))
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

    def facts(self) -> dict[str, Any]:
        """As every pair problem's, and the vocabulary."""
        return {
            **super().facts(),
            "max_length": self.most,
            "vocabulary": self._vocabulary.size,
        }


class OwnBase:
    """A translation model that a run of ours made, in any framework, to be trained on."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
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
    if base is not None and not packaging.is_own(base):
        from lmaas.tasks.translation.training.tuning import CheckpointTuning

        return CheckpointTuning(recipe, folder, base)
    return Translation(recipe, folder, base)
