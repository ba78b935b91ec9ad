"""Text classification: texts with labels in, a classifier served by its task out.

The tokenizer is a byte-level BPE (Sennrich et al., 2016) trained on the training texts, or the
base's; it lies beside the compiled model, so serving reads texts as training did. A base that is a
checkpoint of an encoder is the matter of `encoder_tuning`.
"""

import importlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.data.augmentation import generator
from lmaas.data.augmentation.text import TextAugmenter
from lmaas.errors import InvalidInput
from lmaas.frameworks import package
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.tasks import text
from lmaas.tasks.architectures import Shape
from lmaas.tasks.text_classification.options import COMPARED, TextDataOptions
from lmaas.tasks.text_classification.serving import encode
from lmaas.tasks.text_classification.spec import SPEC
from lmaas.training.base import Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.problems import architectures
from lmaas.training.problems.base_model import BaseModel, read_manifest
from lmaas.training.problems.classification import ClassMeter, lineage
from lmaas.training.problems.frameworks import compares
from lmaas.training.problems.options import data_options
from lmaas.training.problems.sized import SizedNetwork
from lmaas.training.problems.splits import Splits
from lmaas.types import LanguageSpec

TOKENIZER: Final = "tokenizer.json"
PAD: Final = "<pad>"
LOOKED_AT: Final = 2000
"""Of how many texts the length is seen where a recipe leaves it open."""
STEP: Final = 16
LONGEST_AUTO: Final = 256
MOST_READ: Final = 200_000
"""How many texts the tokenizer is trained on."""
SAMPLE: Final = 8


class LabelledTexts:
    """The data of one recipe, and what becomes of it whatever network learns.

    Whoever derives from it says `model`, how texts are read (`_tokenizer` of the file `_path`, and
    `_language`), and builds the network.
    """

    primary = SPEC.primary
    model: ModelChoice
    _tokenizer: text.Tokenizer
    _language: LanguageSpec

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._framework: TrainingFramework = (
            "pytorch" if recipe.framework == "auto" else recipe.framework
        )
        self._options = data_options(recipe, TextDataOptions)
        if recipe.method.type != "supervised":
            raise InvalidInput("text-classification learns supervised, not by dpo.", param="method")
        self._recipe = recipe
        self._augmenter = TextAugmenter(recipe.augmentation)
        self._splits = Splits(
            recipe, folder, fields=SPEC.trained.columns, content=("text",), label="label"
        )
        self._column = self._splits.columns["text"]
        for table in {id(p.table): p.table for p in self._splits.parts.values()}.values():
            table.texts(self._column)
        self.labels, self._targets = self._splits.labels("label")
        self._path = folder / "data" / TOKENIZER
        self.loss = Loss(name="cross-entropy", smoothing=recipe.label_smoothing)

    def _take_tokenizer(self, base: Path) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        served = package.served_in(base, read_manifest(base))
        shutil.copyfile(served / TOKENIZER, self._path)

    def _usual_length(self) -> int:
        part = self._splits.train
        texts = part.table.values(self._column, part.rows[:LOOKED_AT])
        any_length = LanguageSpec(architecture="", context_length=1 << 20, vocabulary_size=1)
        tokens = self._tokenizer.encode(texts, any_length, param="data")
        most = float(np.percentile([len(each.ids) for each in tokens], 95))
        return min(LONGEST_AUTO, STEP * max(1, -(-int(most) // STEP)))

    def size(self, split: Split) -> int:
        """How many texts a split has."""
        return len(self._splits.parts[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Token ids and masks; labels as numbers."""
        part = self._splits.parts[split]
        texts = part.table.values(self._column, part.rows[indices])
        if epoch is not None and self._recipe.augmentation:
            seed = self._recipe.seed
            texts = [
                self._augmenter(each, generator(seed, epoch, index))
                for each, index in zip(texts, indices.tolist(), strict=True)
            ]
        size = len(texts)
        return Feed(
            inputs=encode(self._tokenizer, texts, self._language, cut=True),
            targets={"labels": self._targets[split][indices]},
            size=size,
            weight=size,
        )

    def meter(self) -> Meter:
        """Accuracy and macro-F1."""
        return ClassMeter(len(self.labels))

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `text-classification`, with its tokenizer."""
        split: Split = "validation" if self.size("validation") else "train"
        part, few = self._splits.parts[split], min(SAMPLE, self.size(split))
        texts = part.table.values(self._column, part.rows[:few])
        recipe = msgspec.structs.replace(facts.recipe, model=self.model)
        manifest = package.build(
            model,
            name=recipe.name,
            task=recipe.task,
            sample=encode(self._tokenizer, texts, self._language, cut=True),
            folder=folder,
            labels=self.labels,
            language=self._language,
            outputs_are="logits",
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
            source=self._kept(model),
        )
        shutil.copyfile(self._path, package.served_in(folder, manifest) / TOKENIZER)

    def _kept(self, model: Any) -> Path | None:
        """The folder that is the package's source; None: the framework writes the model itself."""
        return None

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes, labels and overlap; what texts become."""
        counts = Counter(self._targets["train"].tolist())
        return {
            **self._splits.facts(),
            "labels": {label: counts[number] for number, label in enumerate(self.labels)},
            "max_length": self._language.context_length,
            "vocabulary": self._language.vocabulary_size,
        }


class TextClassification(LabelledTexts, SizedNetwork):
    """A network of `architectures`, in any framework: new, or one that a run of ours made."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        if recipe.adapter is not None:
            raise InvalidInput(
                "A network of text-classification learns all weights: no adapter.",
                hint="An encoder's checkpoint as model.base takes one.",
                param="adapter",
            )
        super().__init__(recipe, folder)
        self._base = BaseModel(base, recipe, self._framework) if base is not None else None
        choice = self._base.model if self._base else recipe.model
        if choice.architecture in (None, "auto"):
            name = COMPARED if compares(recipe, base) else "bag"
            choice = msgspec.structs.replace(choice, architecture=name)
        self._name, self._sizes = architectures.resolve(recipe.task, choice)
        if base is None:
            self._train_tokenizer(self._options)
        else:
            self._take_tokenizer(base)
        self._tokenizer = text.Tokenizer(self._path)
        if self._base is not None and self._base.manifest.signature.language is not None:
            self._language = self._base.manifest.signature.language
            self._base.read_as(
                max_length=self._language.context_length, vocabulary=self._language.vocabulary_size
            )
        else:
            self._language = self._measured(self._options)
        self.model = msgspec.structs.replace(
            architectures.noted(self._name, self._sizes), base=recipe.model.base
        )

    def _train_tokenizer(self, options: TextDataOptions) -> None:
        """Write a tokenizer of the training texts; the same texts give the same one."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        raw = Tokenizer(models.BPE())
        forms = [normalizers.NFC(), *([normalizers.Lowercase()] if options.lowercase else [])]
        raw.normalizer = normalizers.Sequence(forms)
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=options.vocabulary,
            special_tokens=[PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        part = self._splits.train
        raw.train_from_iterator(part.table.values(self._column, part.rows[:MOST_READ]), trainer)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        raw.save(str(self._path))

    def _measured(self, options: TextDataOptions) -> LanguageSpec:
        """The vocabulary's size, and a length that 95 of 100 texts have at most."""
        from tokenizers import Tokenizer

        length = self._usual_length() if options.max_length == "auto" else options.max_length
        raw = Tokenizer.from_file(str(self._path))
        return LanguageSpec(
            architecture=self._name, context_length=length, vocabulary_size=raw.get_vocab_size()
        )

    def _shape(self) -> Shape:
        language = self._language
        return Shape(
            outputs=len(self.labels),
            tokens=language.vocabulary_size,
            places=language.context_length,
        )

    def build(self, framework: TrainingFramework) -> Any:
        """A new network with weights from the seed, or with those of the base."""
        assert framework == self._framework, (framework, self._framework)
        module = importlib.import_module(f"lmaas.tasks.text_classification.training.{framework}")
        model = module.build(
            self._name, self._sizes, self._language, len(self.labels), self._recipe.seed
        )
        if self._base is not None and not self.resized:
            self._base.fill(model, head=self._base.manifest.signature.labels == self.labels)
        return model


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    if base is not None and (base / "source" / "config.json").is_file():
        from lmaas.tasks.text_classification.training.encoder_tuning import EncoderTuning

        return EncoderTuning(recipe, folder, base)
    if compares(recipe, base):
        from lmaas.tasks.text_classification.training.compared_texts import ComparedTexts

        return ComparedTexts(recipe, folder, base)
    return TextClassification(recipe, folder, base)
