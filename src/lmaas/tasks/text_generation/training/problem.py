"""Language models that write: fine-tuned on conversations, whole or by low-rank adapters.

The base is a Hugging Face checkpoint (a registered model's source), or a new one of an
`architecture` with a tokenizer trained on the data. PyTorch only: transformers has no other.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import lmaas
from lmaas.data.conversations import Example, Read, read_examples
from lmaas.data.table import digest_of
from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.tokens import Tokens
from lmaas.tasks import Tensors
from lmaas.tasks.architectures import Shape
from lmaas.tasks.text_generation.options import ConversationDataOptions, Decoder
from lmaas.tasks.text_generation.spec import SPEC
from lmaas.tasks.text_generation.training.encoding import Encoded, Encoder, pack
from lmaas.training.base import IGNORED, Facts, Feed, Loss, Meter, Problem, Split
from lmaas.training.memory import stored
from lmaas.training.problems import architectures
from lmaas.training.problems.options import data_options
from lmaas.training.problems.splits import EXAMPLES, refuse_same
from lmaas.types import PushOptions

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML: Final = (
    "{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' %}"
    "{%- if tools %}"
    "{{ '<|im_start|>system\n' }}"
    "{%- if system %}{{ system + '\n\n' }}{% endif %}"
    "{{ 'These functions can be called:\n' }}"
    "{%- for tool in tools %}{{ tool.function | tojson + '\n' }}{% endfor %}"
    "{{ 'A call is written so:\n<tool_call>\n"
    '{"name": NAME, "arguments": {...}}'
    "\n</tool_call><|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (tools and system and loop.first) %}"
    "{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- if message.content or not loop.first %}{{ '\n' }}{% endif %}"
    "{{ '<tool_call>\n{\"name\": ' + call.function.name | tojson }}"
    "{{ ', \"arguments\": ' + call.function.arguments | tojson + '}\n</tool_call>' }}"
    "{%- endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of new models. Tools and calls are written as serving reads them
(`runtime.language.text`); it knows no reasoning."""


FAMILIES: Final = {"qwen3": "Qwen3", "llama": "Llama"}
"""What transformers calls the architectures."""


class TextGeneration:
    """The problem of one recipe; `folder` is the job's, `base` a checkpoint's."""

    primary = SPEC.primary

    def __init__(self, recipe: Recipe, folder: Path, base: Path | None) -> None:
        if recipe.framework != "pytorch":
            raise InvalidInput(
                f"text-generation is trained in pytorch; received {recipe.framework}.",
                param="framework",
            )
        for name in ("augmentation", "label_smoothing"):
            if getattr(recipe, name):
                raise InvalidInput(f"text-generation takes no {name}.", param=name)
        if recipe.adapter is not None and base is None:
            raise InvalidInput("An adapter needs a base to adapt.", param="adapter")
        self.loss = Loss(name="next-token")
        self._recipe = recipe
        self._folder = folder
        options = data_options(recipe, ConversationDataOptions)
        self._notes: list[str] = []
        train = self._samples(Path(recipe.data.train))
        if base is not None and not (base / "config.json").is_file():
            # A package: the checkpoint is what it was made of.
            base = base / "source"
        self._base = base if base is not None else _new(recipe, train, folder / "new")
        config = checkpoint.read_config(self._base)
        tokenizer = checkpoint.load_tokenizer(self._base)
        if tokenizer.eos_token_id is None:
            raise InvalidInput("The base's tokenizer has no end token.", param="model.base")
        from transformers import AutoConfig

        from lmaas.frameworks.causal import context_length

        longest = context_length(
            AutoConfig.from_pretrained(self._base, local_files_only=True).get_text_config()
        )
        if options.max_length > longest:
            more = "" if base is not None else " or raise model.options.context"
            raise InvalidInput(
                f"max_length is {options.max_length}; the model takes {longest} tokens.",
                hint=f"Leave it out, give at most {longest}{more}.",
                param="data.options.max_length",
            )
        self._longest = options.max_length or longest
        self._pad = int(tokenizer.pad_token_id or tokenizer.eos_token_id)
        self._architecture = checkpoint.architecture_of(config)
        self._encoder = Encoder(
            Tokens(self._base),
            Template.load(self._base),
            int(tokenizer.eos_token_id),
            self._longest,
            _too_long(self._longest, longest, new=base is None),
        )
        self._rows: dict[Split, list[list[Encoded]]] = {}
        self._read(train)

    def _samples(self, path: Path) -> list[Any]:
        """What a file holds; what is to be told of it is noted."""
        found = self._file(path)
        self._notes += found.notes
        return found.samples

    def _file(self, path: Path) -> Read[Any]:
        return read_examples(path, self._recipe.data.encoding)

    def _encoded(self, sample: Any, place: str) -> list[list[Encoded]]:
        """A sample's rows, each of what stands in it."""
        return [[encoded] for encoded in self._encoder.encode(sample, place)]

    def _read(self, train: list[Any]) -> None:
        data, seed = self._recipe.data, self._recipe.seed
        held: dict[Split, str | float | None] = {"validation": data.validation, "test": data.test}
        order = np.random.default_rng(seed).permutation(len(train))
        source = Path(data.train)
        places: dict[Split, list[str]] = {}
        taken = 0

        def encoded(split: Split, samples: Iterable[Any]) -> None:
            self._rows[split], places[split] = [], []
            for sample in samples:
                rows = self._encoded(sample, sample.place)
                self._rows[split] += rows
                places[split] += [sample.place] * len(rows)

        for split, given in held.items():
            if given is None:
                encoded(split, ())
            elif isinstance(given, str):
                samples = self._samples(Path(given))
                refuse_same(split, digest_of(Path(given)), digest_of(source))
                encoded(split, samples)
            else:
                count = round(given * len(train))
                encoded(split, (train[i] for i in order[taken : taken + count]))
                taken += count
        rest = [int(i) for i in sorted(order[taken:])]
        if not rest:
            raise InvalidInput("Nothing is left to train on.", param="data.validation")
        encoded("train", (train[i] for i in rest))
        self._counts = {split: len(self._rows[split]) for split in ("train", *held)}
        seen = {_content(row) for row in self._rows["train"]}
        self._overlap = {}
        for split in held:
            rows = zip(self._rows[split], places[split], strict=True)
            if twice := [place for row, place in rows if _content(row) in seen]:
                self._overlap[split] = {"samples": len(twice), "places": twice[:EXAMPLES]}
        if self._recipe.method.packing:
            alone = [row[0] for row in self._rows["train"]]
            packed = pack(alone, self._longest)
            self._rows["train"] = [[alone[i] for i in row] for row in packed]

    def size(self, split: Split) -> int:
        """Rows of a split: samples, or for training with packing what they were packed into."""
        return len(self._rows[split])

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Rows padded to the longest: `input_ids`, `position_ids` and, unless samples share a row,
        `attention_mask`, each (N, T) int64."""
        inputs, labels = self._padded([self._rows[split][i] for i in indices])
        learned = float((labels != IGNORED).sum())
        return Feed(inputs=inputs, targets={"labels": labels}, size=len(labels), weight=learned)

    def _padded(self, rows: list[list[Encoded]]) -> tuple[Tensors, np.ndarray]:
        """The inputs and the labels of rows."""
        length = max(sum(len(s.ids) for s in row) for row in rows)
        ids = np.full((len(rows), length), self._pad, np.int64)
        labels = np.full((len(rows), length), IGNORED, np.int64)
        positions = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for r, row in enumerate(rows):
            at = 0
            for sample in row:
                end = at + len(sample.ids)
                ids[r, at:end], labels[r, at:end] = sample.ids, sample.labels
                positions[r, at:end] = np.arange(len(sample.ids))
                at = end
            mask[r, :at] = 1
            # Padding is a sample of its own: nothing attends to it.
            positions[r, at:] = np.arange(length - at)
        inputs: Tensors = {"input_ids": ids, "position_ids": positions}
        if all(len(row) == 1 for row in rows):
            inputs["attention_mask"] = mask
        return inputs, labels

    def num_parameters(self) -> int:
        """The numbers in the base's files."""
        from safetensors import safe_open

        shapes = []
        for path in sorted(self._base.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                shapes += [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        return stored(shapes)

    def meter(self) -> Meter:
        """Perplexity and the share of tokens that greedy decoding would have given."""
        return _Tokens()

    def build(self, framework: TrainingFramework) -> Any:
        """The model in float32, with adapters where the recipe has them."""
        from lmaas.training.pytorch.language import load

        return load(self._base, self._recipe.adapter, self._recipe.seed)

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """The trained checkpoint (adapters merged), compiled for serving."""
        from lmaas.training.pytorch.language import save

        trained = self._folder / "trained"
        save(model, self._base, trained)
        options = PushOptions(
            name=self._recipe.name, task="text-generation", card=facts.card or self._recipe.card
        )
        manifest = checkpoint.build(trained, folder, options)
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
        manifest = msgspec.structs.replace(manifest, metrics=facts.metrics, lineage=lineage)
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    def facts(self) -> dict[str, Any]:
        """Digest, sizes and overlap of the data; `rows` is what samples were packed into."""
        import hashlib

        digest = hashlib.sha256()
        for split in ("train", "validation", "test"):
            for row in self._rows[split]:
                for sample in row:
                    digest.update(sample.ids.tobytes())
        return {
            "sha256": digest.hexdigest(),
            "samples": self._counts,
            "rows": len(self._rows["train"]),
            "tokens": sum(len(s.ids) for row in self._rows["train"] for s in row),
            "overlap": self._overlap,
            "notes": self._notes,
        }


def _too_long(most: int, context: int, *, new: bool) -> str:
    """What can be done about a sample of more than `most` tokens and is not refused again."""
    ways = ["Leave it out", "shorten it"]
    if most < context:
        ways.append(f"raise data.options.max_length (to {context} at most)")
    elif new:
        ways.append("raise model.options.context")
    else:
        ways.append("train on a base with a longer context")
    return f"{', '.join(ways[:-1])}, or {ways[-1]}."


def _content(row: list[Encoded]) -> bytes:
    return b"".join(sample.ids.tobytes() for sample in row)


class _Tokens:
    """Counts over the learned tokens."""

    def __init__(self) -> None:
        self._right = 0
        self._tokens = 0
        self._nll = 0.0

    def add(self, outputs: Tensors, feed: Feed) -> None:
        """Count one feed."""
        (logits,) = outputs.values()
        labels = feed.targets["labels"]
        where = labels != IGNORED
        chosen = logits[where].astype(np.float32)
        wanted = labels[where]
        self._right += int((chosen.argmax(-1) == wanted).sum())
        self._tokens += len(wanted)
        top = chosen.max(-1, keepdims=True)
        summed = np.log(np.exp(chosen - top).sum(-1)) + top[:, 0]
        self._nll += float((summed - chosen[np.arange(len(wanted)), wanted]).sum())

    def result(self) -> dict[str, float]:
        """The metrics."""
        tokens = max(1, self._tokens)
        return {
            "perplexity": float(np.exp(self._nll / tokens)),
            "token_accuracy": self._right / tokens,
        }


def least_parameters(recipe: Recipe) -> int:
    """What a new model will have at least, known before it is made; its tokens are not yet."""
    _, sizes = architectures.resolve(recipe.task, recipe.model)
    assert isinstance(sizes, Decoder)
    return sizes.parameters(Shape())


def _new(recipe: Recipe, examples: list[Example], folder: Path) -> Path:
    """A new checkpoint with weights from the seed and a tokenizer trained on the examples."""
    name, sizes = architectures.resolve(recipe.task, recipe.model)
    if (folder / "config.json").is_file():
        return folder
    from lmaas.training.pytorch.language import create

    texts = [text for e in examples for message in e.messages for text in message.texts]
    texts += [text for e in examples for text in (e.prompt, e.completion) if text]
    for example in examples:
        texts += [
            json.dumps(told, ensure_ascii=False)
            for tool in example.tools
            for told in (tool.name, tool.description, tool.parameters)
            if told
        ]
        texts += [
            f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'
            for message in example.messages
            for call in message.tool_calls
        ]
    create(folder, FAMILIES[name], sizes, texts, SPECIAL, CHATML, recipe.seed)
    return folder


def open_problem(recipe: Recipe, folder: Path, base: Path | None) -> Problem:
    """The problem of a recipe."""
    if recipe.method.type == "dpo":
        from lmaas.tasks.text_generation.training.preference_tuning import PreferenceTuning

        return PreferenceTuning(recipe, folder, base)
    return TextGeneration(recipe, folder, base)
