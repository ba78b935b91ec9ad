"""Texts of whose model nothing is said: n-grams of characters and a network are compared.

Small sets of texts are often told best by a linear model over runs of characters. It reads bytes
and the network tokens, each with a tokenizer of its own; the winner's is served.
"""

import importlib
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np

from lmaas.frameworks.ngrams import Ngrams
from lmaas.recipe import Recipe
from lmaas.tasks import Tensors, text
from lmaas.tasks.text_classification.options import Bag
from lmaas.tasks.text_classification.serving import encode
from lmaas.tasks.text_classification.training.problem import PAD, TextClassification
from lmaas.tasks.text_classification.training.rivals import RivalLearner, Texts
from lmaas.training.base import Facts, Feed, Learner, Split
from lmaas.training.group import ALONE
from lmaas.types import LanguageSpec

NETWORK: Final = "bag"
BYTES_FILE: Final = "bytes.json"
STEP: Final = 64
LONGEST: Final = 2048
"""Bytes of a text that are read at most; what is longer is cut in training."""
EPOCHS: Final = 30
LEAST_BATCH, MOST_BATCH, BATCHES_AN_EPOCH = 8, 64, 50
RATE: Final = 1e-3


class ComparedTexts(TextClassification):
    """The problem of one recipe whose architecture is "compared"."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        super().__init__(recipe, folder, base)
        self._name, self._sizes = NETWORK, Bag()
        self._language = msgspec.structs.replace(self._language, architecture=NETWORK)
        self._bytes_path = folder / "data" / BYTES_FILE
        _byte_tokenizer(self._options.lowercase).save(str(self._bytes_path))
        self._bytes = text.Tokenizer(self._bytes_path)
        self._symbols = LanguageSpec(
            architecture="ngrams", context_length=self._longest(), vocabulary_size=257
        )

    def _longest(self) -> int:
        """So many bytes as the longest text has, if that is not too many."""
        part = self._splits.train
        texts = part.table.values(self._column, part.rows)
        most = max(len(each.encode()) for each in texts) + 1
        return min(LONGEST, STEP * -(-most // STEP))

    def resolved(self, recipe: Recipe) -> Recipe:
        """A batch is all samples; the first step fits the one, each other is the network's epoch.

        The numbers are those of the network.
        """
        every, looks = recipe.checkpoints.every_steps, recipe.evaluation.every_steps
        return msgspec.structs.replace(
            recipe,
            batch_size=self.size("train"),
            epochs=1 + EPOCHS,
            early_stopping=None,
            optimizer=msgspec.structs.replace(recipe.optimizer, learning_rate=RATE),
            checkpoints=msgspec.structs.replace(
                recipe.checkpoints, every_steps=1 if every == "auto" else every
            ),
            evaluation=msgspec.structs.replace(
                recipe.evaluation, every_steps=1 + EPOCHS if looks == "auto" else looks
            ),
        )

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Of training samples their number, of held-out ones also their rows for `RivalLearner`."""
        if epoch is not None:
            return Feed(inputs={}, targets={}, size=len(indices), weight=len(indices))
        told = self._tokens(split, indices, None)
        first = self.size("validation") if split == "test" else 0
        return msgspec.structs.replace(told, inputs={**told.inputs, "rows": indices + first})

    def _tokens(self, split: Split, indices: np.ndarray, epoch: int | None) -> Feed:
        return super().feed(split, indices, epoch=epoch)

    def _read_bytes(self, split: Split, indices: np.ndarray) -> Tensors:
        part = self._splits.parts[split]
        texts = part.table.values(self._column, part.rows[indices])
        return encode(self._bytes, texts, self._symbols, cut=True)

    def learner(self, model: Any, recipe: Recipe) -> Learner:
        """What fits both."""
        module = importlib.import_module("lmaas.training.pytorch.learner")
        net = cast(Learner, module.LEARNER(model, self.loss, recipe, ALONE))
        texts = Texts(
            size=self.size,
            symbols=self._read_bytes,
            feed=self._tokens,
            targets=self._targets,
            classes=len(self.labels),
            kinds=self._symbols.vocabulary_size,
        )
        wanted = self.size("train") // BATCHES_AN_EPOCH
        batch = min(MOST_BATCH, max(LEAST_BATCH, 1 << max(0, wanted.bit_length() - 1)))
        return RivalLearner(texts, net, batch=batch, epochs=EPOCHS, seed=recipe.seed)

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package of the winner, with its own tokenizer."""
        if isinstance(model, Ngrams):
            self._language, self._tokenizer, self._path = (
                self._symbols,
                self._bytes,
                self._bytes_path,
            )
            name, sizes = "ngrams", {}
        else:
            name, sizes = NETWORK, msgspec.to_builtins(self._sizes)
        self.model = msgspec.structs.replace(self.model, architecture=name, options=sizes)
        super().package(model, folder, facts)


def _byte_tokenizer(lowercase: bool) -> Any:
    """A tokenizer whose tokens are bytes: nothing is unknown, nothing is joined."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {PAD: 0, **{symbol: number for number, symbol in enumerate(alphabet, 1)}}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.add_special_tokens([PAD])
    forms = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    raw.normalizer = normalizers.Sequence(forms)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    return raw
