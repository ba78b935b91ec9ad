"""Text classification on an encoder that is there: a checkpoint of transformers with a new head.

The base is an embedding model, or a classifier that such a run made: its package's `source/` is a
checkpoint again, with the head beside it. PyTorch only: transformers has no other.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint, encoder
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import text
from lmaas.tasks.text_classification.training.problem import LabelledTexts
from lmaas.training.problems.base_model import read_manifest, require

BASES: Final = ("embedding", "text-classification")
"""The tasks of what can be trained on."""


class EncoderTuning(LabelledTexts):
    """The problem of one recipe; `base` is the package of an encoder, `folder` the job's."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path) -> None:
        from transformers import AutoModel

        manifest = read_manifest(base)
        if manifest.task not in BASES:
            raise InvalidInput(
                f"The base model is one of {manifest.task}; text-classification is trained on one "
                f"of {' or '.join(BASES)}.",
                hint="Push an encoder's checkpoint with the task embedding.",
                param="model.base",
            )
        if recipe.framework not in ("auto", "pytorch"):
            raise InvalidInput(
                f"An encoder's checkpoint is trained in pytorch; received {recipe.framework}.",
                hint="Leave framework out, or train a network from nothing.",
                param="framework",
            )
        if recipe.model.architecture not in (None, "auto"):
            raise InvalidInput(
                f"The base model is a checkpoint, not a {recipe.model.architecture}.",
                hint="Leave model.architecture out.",
                param="model.architecture",
            )
        require(recipe.model.options, {}, "model.options")
        super().__init__(recipe, folder)
        self.model = recipe.model
        self._trained = folder / "trained"
        self._source = base / "source"
        self._same_classes = manifest.signature.labels == self.labels
        sizes = checkpoint.outline(AutoModel, self._source)
        self._parameters = sum(int(parameter.numel()) for parameter in sizes.parameters())
        self._width = int(sizes.config.hidden_size)
        tokenizer = checkpoint.load_tokenizer(self._source)
        known = encoder.describe(sizes, tokenizer, self._source, None)
        asked = {n: v for n, v in recipe.data.options.items() if n != "max_length"}
        require(asked, {"vocabulary": known.vocabulary_size}, "data.options")
        self._take_tokenizer(base)
        self._tokenizer = text.Tokenizer(self._path)
        length = self._options.max_length
        if length == "auto":
            length = min(self._usual_length(), known.context_length)
        elif length > known.context_length:
            raise InvalidInput(
                f"max_length is {length}; the base model takes {known.context_length} tokens.",
                hint=f"Leave it out, or give at most {known.context_length}.",
                param="data.options.max_length",
            )
        self._language = msgspec.structs.replace(known, context_length=length)

    def num_parameters(self) -> int:
        """See `base.Counted.num_parameters`."""
        return self._parameters + (self._width + 1) * len(self.labels)

    def build(self, framework: TrainingFramework) -> Any:
        """The encoder with a head: the base's where its classes are these, else from the seed."""
        from lmaas.tasks.text_classification.training.encoder import load

        assert framework == "pytorch", framework
        return load(
            self._source,
            self._language,
            len(self.labels),
            self._recipe.adapter,
            self._recipe.seed,
            head=self._same_classes,
        )

    def _kept(self, model: Any) -> Path:
        from lmaas.tasks.text_classification.training.encoder import save

        save(model, self._source, self._trained)
        return self._trained
