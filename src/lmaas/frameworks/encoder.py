"""Models that read: from a Hugging Face checkpoint to a package for its task.

Pooling and normalisation are part of the compiled graph, as sentence-transformers' files describe
them: mean, first or last token. Where there are no such files: mean (last token for a model that
reads from left to right), at length 1. Prompts that such files name are the caller's to send.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas import tasks
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.encoder_graph import (
    EXTRA_PADDING,
    TOKENS,
    Layers,
    Pooling,
    answer_of,
    convert,
    pool_one,
)
from lmaas.runtime import ov
from lmaas.tasks import Tensors, text
from lmaas.types import (
    BATCH,
    LanguageSpec,
    Lineage,
    Manifest,
    PushOptions,
    Signature,
    TensorSpec,
)

POOLINGS: Final[dict[str, Pooling]] = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
}
"""By the names in 1_Pooling/config.json, older ones (`pooling_mode_…`: true) first."""
MODULES: Final = ("Transformer", "Pooling", "Normalize")
SPARE: Final = ("position_ids", "pooler.", "lm_head.")
"""Tensors that do not reach an embedding: they may be missing or left over."""
DEFAULT_CONTEXT: Final = 512
SAMPLE: Final = (
    ("A cat.", "An animal."),
    ("The weather is fine today, is it not?", "It rains in the mountains."),
    (
        "A library lends books; this one has twelve rooms, four floors and a garden behind it.",
        "The reading room closes at eight in the evening, and at noon on Saturdays.",
    ),
)
"""Texts, and second texts of pairs, on which source and compiled model are compared."""


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    import transformers

    config = checkpoint.read_config(folder)
    task = options.task or checkpoint.task_of(config)
    kind = tasks.checkpoints()[task]
    tokenizer = checkpoint.load_tokenizer(folder)
    if config.get("is_encoder_decoder"):
        raise ModelRefused("Encoder-decoder models are not served: expected an encoder.")
    loads = getattr(transformers, kind.loads)
    spare = SPARE if kind.gives == "vector" else SPARE[:1]
    model = checkpoint.load_model(loads, folder, torch.float32, spare=spare)
    if kind.gives == "score" and model.config.num_labels != 1:
        raise ModelRefused(
            f"A reranker gives one score; this model has {model.config.num_labels} labels.",
            hint="Train it with num_labels=1.",
        )
    causal = is_causal(model)
    layers = None if kind.gives in ("score", "class-scores") else TOKENS
    if kind.gives == "vector":
        layers = read_layers(folder, causal=causal)
    spec = describe(model, tokenizer, folder, layers)
    compiled = target / "compiled"
    compiled.mkdir(parents=True)
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(folder / name, compiled / name)
    kinds = int(getattr(model.config, "type_vocab_size", 0) or 0)
    types = kind.pairs and kinds > 1 and text.TYPES in tokenizer.model_input_names
    batches = references(model, spec, layers, compiled, types=types, pairs=kind.pairs)
    graph = convert(model, layers, batches[3], causal=causal)
    labels = _labels(model) if kind.gives in ("token-scores", "class-scores") else None
    signature = _signature(spec, batches[3], labels, of_tokens=layers == TOKENS)
    _name_ports(graph, signature)
    ov.load().save_model(graph, compiled / "model.xml", compress_to_fp16=False)
    _save_sample(batches, target / "sample.safetensors")
    manifest = Manifest(
        name=options.name,
        task=task,
        framework="pytorch",
        signature=tasks.get(task).check_signature(signature),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def read_layers(folder: Path, *, causal: bool) -> Layers:
    """Pooling and normalisation as sentence-transformers' files say. Raises ModelRefused."""
    normalize = True
    kinds: list[str] = []
    modules = _read(folder / "modules.json", list)
    if modules is not None:
        try:
            kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        except (TypeError, KeyError):
            raise ModelRefused("modules.json is not a list of modules with a type.") from None
        unknown = [kind for kind in kinds if kind not in MODULES]
        if unknown:
            raise ModelRefused(
                f"modules.json has a {unknown[0]} module; served are {', '.join(MODULES)}.",
                hint="Publish a model without it, or the live model with task tensor.",
            )
        normalize = "Normalize" in kinds
    pooling = _read(folder / "1_Pooling" / "config.json", dict)
    if pooling is None:
        if "Pooling" in kinds:
            raise ModelRefused("modules.json has a Pooling module, but there is no 1_Pooling.")
        return Layers("last" if causal else "mean", normalize)
    flag = "pooling_mode_"
    modes = [name.removeprefix(flag) for name in pooling if name.startswith(flag) and pooling[name]]
    if "pooling_mode" in pooling:
        modes.append(str(pooling["pooling_mode"]))
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelRefused(
            f"1_Pooling/config.json asks for {modes}; served is one of {', '.join(POOLINGS)}."
        )
    return Layers(POOLINGS[modes[0]], normalize)


def describe(model: Any, tokenizer: Any, folder: Path, layers: Layers | None) -> LanguageSpec:
    """What is fixed about the model. `layers` None: a reranker."""
    pooling = layers.pooling if layers else None
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > vocabulary:
        raise ModelRefused(
            f"The tokenizer has {len(tokenizer)} tokens; the model's embedding has {vocabulary}."
        )
    return LanguageSpec(
        architecture=type(model).__name__,
        context_length=_context(model, tokenizer, folder),
        vocabulary_size=vocabulary,
        dimensions=int(model.config.hidden_size) if pooling else None,
        pooling=pooling,
        normalize=layers.normalize if layers else False,
    )


def _context(model: Any, tokenizer: Any, folder: Path) -> int:
    """The least of what sentence-transformers, the tokenizer and the positions allow."""
    bounds = [(_read(folder / "sentence_bert_config.json", dict) or {}).get("max_seq_length")]
    bounds.append(tokenizer.model_max_length)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        table = [m for n, m in model.named_modules() if n.endswith("position_embeddings")]
        skipped = getattr(table[0], "padding_idx", None) if table else None
        bounds.append(positions - (skipped + 1 if skipped is not None else 0))
    known = [int(bound) for bound in bounds if isinstance(bound, int) and 0 < bound < 1 << 30]
    return min(known, default=DEFAULT_CONTEXT)


def _read(path: Path, kind: type) -> Any:
    """The file's JSON, a value of `kind`; None where there is no file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} is not valid JSON: {error}.") from None
    if not isinstance(value, kind):
        raise ModelRefused(f"{path.name} must hold a {kind.__name__}.")
    return value


def is_causal(model: Any) -> bool:
    """Whether what a token becomes depends only on the tokens before it."""
    import torch

    network = model.base_model
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    with torch.inference_mode():
        hidden = network(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return bool(torch.allclose(hidden[0, 0], hidden[1, 0], atol=1e-6))


def references(
    model: Any,
    spec: LanguageSpec,
    layers: Layers | None,
    compiled: Path,
    *,
    types: bool,
    pairs: bool = False,
) -> dict[int, tuple[Tensors, Tensors]]:
    """Padded inputs by batch size, and the source's own answers to each text alone, unpadded."""
    import torch

    reader = text.Tokenizer(compiled / "tokenizer.json")
    texts = [pair if pairs else pair[0] for pair in SAMPLE]
    long = msgspec.structs.replace(spec, context_length=DEFAULT_CONTEXT)
    tokens = [_cut(each, spec) for each in reader.encode(texts, long, param="sample")]
    answers = []
    with torch.inference_mode():
        for each in tokens:
            given = {text.IDS: torch.tensor([each.ids]), text.MASK: torch.ones(1, len(each.ids))}
            if types:
                given[text.TYPES] = torch.tensor([each.types])
            given[text.MASK] = given[text.MASK].long()
            answers.append(pool_one(answer_of(model(**given)), layers)[0].numpy())
    name = "embedding" if layers and layers.pooling else "logits"
    batches = {}
    for size, padding in ((1, 0), (2, EXTRA_PADDING), (3, 0)):
        length = max(len(each.ids) for each in tokens[:size]) + padding
        inputs = text.pad(tokens[:size], min(length, spec.context_length), types=types)
        told = answers[:size]
        if layers == TOKENS:
            told = [_padded(answer, inputs[text.IDS].shape[1]) for answer in told]
        batches[size] = inputs, {name: np.stack(told).astype(np.float32)}
    return batches


def _cut(tokens: text.Tokens, spec: LanguageSpec) -> text.Tokens:
    """The sample is ours, so that a model with a small context gets the start of it."""
    types = None if tokens.types is None else tokens.types[: spec.context_length]
    return text.Tokens(tokens.ids[: spec.context_length], types)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """The scores of a text's tokens, and zeros where there is none."""
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


def _labels(model: Any) -> tuple[str, ...]:
    """The labels in the order of the scores. Raises ModelRefused."""
    told = {int(number): str(label) for number, label in model.config.id2label.items()}
    labels = tuple(told[number] for number in sorted(told))
    if len(set(labels)) != int(model.config.num_labels):
        raise ModelRefused(
            f"config.json names {len(set(labels))} labels in id2label; the model has "
            f"{model.config.num_labels}."
        )
    return labels


def _signature(
    spec: LanguageSpec,
    sample: tuple[Tensors, Tensors],
    labels: tuple[str, ...] | None,
    *,
    of_tokens: bool,
) -> Signature:
    """Token ids in; out for each text one row of numbers, or one for each of its tokens."""
    inputs, outputs = sample
    ((output, array),) = outputs.items()
    shape = (BATCH, *([BATCH] if of_tokens else []), array.shape[-1])
    return Signature(
        inputs=tuple(TensorSpec(name=n, dtype="int64", shape=(BATCH, BATCH)) for n in inputs),
        outputs=(TensorSpec(name=output, dtype="float32", shape=shape),),
        labels=labels,
        outputs_are="logits" if labels else None,
        language=spec,
    )


def _name_ports(graph: Any, signature: Signature) -> None:
    for ports, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        if len(ports) != len(specs):
            raise InvalidInput("The model cannot be compiled: an input does not reach its output.")
        for port, spec in zip(ports, specs, strict=True):
            port.get_tensor().set_names({spec.name})
    graph.reshape({port: [-1, -1] for port in graph.inputs})


def _save_sample(batches: dict[int, tuple[Tensors, Tensors]], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(
        {
            f"{side}.{size}.{name}": np.ascontiguousarray(array)
            for size, pair in batches.items()
            for side, arrays in zip(("in", "out"), pair, strict=True)
            for name, array in arrays.items()
        },
        path,
    )
