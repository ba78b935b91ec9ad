"""Translation on a checkpoint that is there (M2M100, NLLB, mBART, Marian, T5), whole or by adapter.

PyTorch only: transformers has no other. The vocabulary is kept, and how languages are named.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import lmaas
from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.frameworks.sequence import marian_tokens
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks import text_layout
from lmaas.tasks.sequence_text import SequenceTokenizer
from lmaas.tasks.translation.languages import require, resolve
from lmaas.tasks.translation.training.pair_problem import PairProblem, most_written
from lmaas.training import pairs
from lmaas.training.base import Facts, Feed
from lmaas.training.problems import base_model
from lmaas.types import PushOptions, SequenceSpec


class CheckpointTuning(PairProblem):
    """The problem of one recipe; `base` is the package of a checkpoint, `folder` the job's."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path) -> None:
        manifest = base_model.read_manifest(base)
        spec = manifest.signature.sequence
        if manifest.task != recipe.task or spec is None or spec.source != "tokens":
            raise InvalidInput(
                f"The base is a model of {manifest.task}; translation is trained on one of "
                f"{recipe.task}.",
                hint="Push the checkpoint with --task translation.",
                param="model.base",
            )
        if recipe.framework not in ("auto", "pytorch"):
            raise InvalidInput(
                f"A checkpoint is trained in pytorch; received {recipe.framework}.",
                hint="Leave framework out, or train a network from nothing.",
                param="framework",
            )
        if recipe.model.architecture not in (None, "auto"):
            raise InvalidInput(
                f"The base model is a checkpoint, not a {recipe.model.architecture}.",
                hint="Leave model.architecture out.",
                param="model.architecture",
            )
        base_model.require(recipe.model.options, {}, "model.options")
        if "vocabulary" in recipe.data.options:
            raise InvalidInput(
                "The vocabulary is the base model's.",
                hint="Leave it out.",
                param="data.options.vocabulary",
            )
        super().__init__(recipe, folder)
        self.model = recipe.model
        self._spec: SequenceSpec = spec
        self._folder, self._source = folder, base / "source"
        self._layout = text_layout.read(base / "compiled")
        self._tokenizer = SequenceTokenizer(base / "compiled")
        self._targets: Any = None
        if (base / "compiled" / text_layout.TARGET_TOKENIZER).is_file():
            self._targets = marian_tokens.target_reader(self._source)
        self._parameters = manifest.num_parameters
        self._before, self._after, self._prompt, self._prefix = self._direction()
        self._load({"source": self._most(spec.most_source), "target": self._most(spec.most_target)})
        self._coder: Any = None

    def _most(self, known: int) -> int:
        if "max_length" not in self._recipe.data.options:
            return known - len(self._prompt)
        if self._options.max_length > known:
            raise InvalidInput(
                f"max_length is {self._options.max_length}; the base model takes {known} tokens.",
                hint=f"Leave it out, or give at most {known}.",
                param="data.options.max_length",
            )
        return self._options.max_length

    def _direction(
        self,
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
        """What stands around a source, how an answer begins, and the words before a source."""
        spec, layout = self._spec, self._layout
        source, target = self._options.source_language, self._options.target_language
        if spec.languages:
            if source is None or target is None:
                raise InvalidInput(
                    "The base knows many languages: it must be told which are learned.",
                    hint="Give data.options.source_language and target_language.",
                    param="data.options.source_language",
                )
            param = "data.options.{}_language"
            own = spec.languages[require(source, spec.languages, param.format("source"))]
            other = spec.languages[require(target, spec.languages, param.format("target"))]
            before, after = (
                tuple(own if index < 0 else index for index in ids)
                for ids in (layout.before, layout.after)
            )
            start = {
                "none": spec.start,
                "after-start": (*spec.start, other),
                "is-start": (other,),
            }[layout.target]
            return before, after, start, ""
        prefix = ""
        for prompt in layout.prompts.values():
            if prompt.source is None or prompt.target is None or source is None or target is None:
                continue
            if resolve(source, (prompt.source,)) and resolve(target, (prompt.target,)):
                prefix = prompt.prefix
        return layout.before, layout.after, spec.start, prefix

    def _encode(self, sources: list[str], targets: list[str]) -> pairs.Encoded:
        read = self._tokenizer.encode([self._prefix + text for text in sources], param="data")
        if self._targets is None:
            written = self._tokenizer.encode(targets, param="data")
        else:
            encodings = self._targets.encode_batch(targets, add_special_tokens=False)
            written = [each.ids for each in encodings]
        stop = self._spec.stop_token_ids[0]
        return pairs.Encoded(
            [np.array([*self._before, *ids, *self._after], np.int32) for ids in read],
            [np.array([*ids, stop], np.int32) for ids in written],
            self._prompt,
            self._spec.pad_token_id,
        )

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def _write(self, feed: Feed) -> list[list[int]]:
        most = min(self._spec.most_target - len(self._prompt), most_written(feed))
        spec = self._spec
        return pairs.write_greedily(
            self._coder, feed, most, self._prompt, spec.stop_token_ids, spec.suppressed
        )

    def num_parameters(self) -> int:
        """See `base.Counted.num_parameters`."""
        return self._parameters

    def build(self, framework: TrainingFramework) -> Any:
        """The model in float32, with adapters where the recipe has them."""
        from lmaas.training.pytorch import sequence

        assert framework == "pytorch", framework
        model = sequence.load(self._source, self._recipe.adapter, self._recipe.seed)
        self._coder = sequence.decoder_of(model)
        return model

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """The trained checkpoint (adapters merged), compiled for serving."""
        from lmaas.training.pytorch.language import save

        trained = self._folder / "trained"
        save(model, self._source, trained, original_names=False)
        options = PushOptions(
            name=self._recipe.name, task="translation", card=facts.card or self._recipe.card
        )
        manifest = checkpoint.build(trained, folder, options)
        self._keep_direction(folder)
        spec = manifest.signature.sequence
        assert spec is not None
        layout = text_layout.read(folder / "compiled")
        lineage = msgspec.structs.replace(
            manifest.lineage,
            origin="train",
            code=f"lmaas {lmaas.__version__}",
            parent=self._recipe.model.base,
            recipe={
                **manifest.lineage.recipe,
                "recipe": msgspec.to_builtins(facts.recipe),
                "job": facts.job,
            },
            data_sha256=facts.data.get("sha256"),
        )
        signature = msgspec.structs.replace(
            manifest.signature,
            sequence=msgspec.structs.replace(spec, directions=layout.directions),
        )
        manifest = msgspec.structs.replace(
            manifest, metrics=facts.metrics, lineage=lineage, signature=signature
        )
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    def _keep_direction(self, folder: Path) -> None:
        """A model without tokens of languages has the languages that the recipe names."""
        source, target = self._options.source_language, self._options.target_language
        if self._spec.languages or self._prefix or source is None or target is None:
            return
        compiled = folder / "compiled"
        layout = msgspec.structs.replace(text_layout.read(compiled), pair=(source, target))
        text_layout.write(layout, compiled)
