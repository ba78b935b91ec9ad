"""Models that read: from a Hugging Face checkpoint to a package for `embedding` or `text-ranking`.

Pooling and normalisation are part of the compiled graph, as sentence-transformers' files describe
them: mean, first or last token. Where there are no such files: mean (last token for a model that
reads from left to right), at length 1. Prompts that such files name are the caller's to send.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from lmaas import tasks
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime import ov
from lmaas.tasks import Row, text
from lmaas.types import (
    BATCH,
    LanguageSpec,
    Lineage,
    Manifest,
    PushOptions,
    Signature,
    TensorSpec,
)

Pooling = Literal["mean", "cls", "last"]
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
MASKED: Final = -1e9
SAMPLE: Final = (
    ("A cat.", "An animal."),
    ("The weather is fine today, is it not?", "It rains in the mountains."),
    (
        "A library lends books; this one has twelve rooms, four floors and a garden behind it.",
        "The reading room closes at eight in the evening, and at noon on Saturdays.",
    ),
)
"""Texts, and second texts of pairs, on which source and compiled model are compared."""
EXTRA_PADDING: Final = 24


class Layers(NamedTuple):
    """What follows the network: how its vectors become one, and whether that has length 1."""

    pooling: Pooling
    normalize: bool


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    config = checkpoint.read_config(folder)
    task = options.task or checkpoint.task_of(config)
    ranks = task == "text-ranking"
    tokenizer = checkpoint.load_tokenizer(folder)
    if config.get("is_encoder_decoder"):
        raise ModelRefused("Encoder-decoder models are not served: expected an encoder.")
    if ranks:
        model = checkpoint.load_model(
            AutoModelForSequenceClassification, folder, torch.float32, spare=SPARE[:1]
        )
        if model.config.num_labels != 1:
            raise ModelRefused(
                f"A reranker gives one score; this model has {model.config.num_labels} labels.",
                hint="Train it with num_labels=1.",
            )
    else:
        model = checkpoint.load_model(AutoModel, folder, torch.float32, spare=SPARE)
    causal = _is_causal(model)
    layers = None if ranks else read_layers(folder, causal=causal)
    spec = describe(model, tokenizer, folder, layers)
    compiled = target / "compiled"
    compiled.mkdir(parents=True)
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(folder / name, compiled / name)
    types = ranks and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
    batches = references(model, spec, layers, compiled, types=types)
    graph = convert(model, layers, batches[3], causal=causal)
    signature = _signature(spec, [*batches[3][0]], next(iter(batches[3][1])))
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
    modules = _read(folder / "modules.json")
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
    pooling = _read(folder / "1_Pooling" / "config.json")
    if pooling is None:
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
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > vocabulary:
        raise ModelRefused(
            f"The tokenizer has {len(tokenizer)} tokens; the model's embedding has {vocabulary}."
        )
    return LanguageSpec(
        architecture=type(model).__name__,
        context_length=_context(model, tokenizer, folder),
        vocabulary_size=vocabulary,
        dimensions=int(model.config.hidden_size) if layers else None,
        pooling=layers.pooling if layers else None,
        normalize=layers.normalize if layers else False,
    )


def _context(model: Any, tokenizer: Any, folder: Path) -> int:
    """The least of what sentence-transformers, the tokenizer and the positions allow."""
    bounds = [(_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length")]
    bounds.append(tokenizer.model_max_length)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        table = [m for n, m in model.named_modules() if n.endswith("position_embeddings")]
        skipped = getattr(table[0], "padding_idx", None) if table else None
        bounds.append(positions - (skipped + 1 if skipped is not None else 0))
    known = [int(bound) for bound in bounds if isinstance(bound, int) and 0 < bound < 1 << 30]
    return min(known, default=DEFAULT_CONTEXT)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} is not valid JSON: {error}.") from None


def _is_causal(model: Any) -> bool:
    """Whether what a token becomes depends only on the tokens before it."""
    import torch

    network = model.base_model
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    with torch.inference_mode():
        hidden = network(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return bool(torch.allclose(hidden[0, 0], hidden[1, 0], atol=1e-6))


# What source and compiled model are compared on


def references(
    model: Any, spec: LanguageSpec, layers: Layers | None, compiled: Path, *, types: bool
) -> dict[int, tuple[Row, Row]]:
    """Padded inputs by batch size, and the source's own answers to each text alone, unpadded."""
    import torch

    reader = text.Tokenizer(compiled / "tokenizer.json")
    texts = [pair if layers is None else pair[0] for pair in SAMPLE]
    long = msgspec.structs.replace(spec, context_length=DEFAULT_CONTEXT)
    tokens = [_cut(each, spec) for each in reader.encode(texts, long, param="sample")]
    answers = []
    with torch.inference_mode():
        for each in tokens:
            given = {text.IDS: torch.tensor([each.ids]), text.MASK: torch.ones(1, len(each.ids))}
            if types:
                given[text.TYPES] = torch.tensor([each.types])
            given[text.MASK] = given[text.MASK].long()
            answers.append(_pool_one(model(**given)[0], layers)[0].numpy())
    name = "embedding" if layers else "logits"
    batches = {}
    for size, padding in ((1, 0), (2, EXTRA_PADDING), (3, 0)):
        length = max(len(each.ids) for each in tokens[:size]) + padding
        inputs = text.pad(tokens[:size], min(length, spec.context_length), types=types)
        batches[size] = inputs, {name: np.stack(answers[:size]).astype(np.float32)}
    return batches


def _cut(tokens: text.Tokens, spec: LanguageSpec) -> text.Tokens:
    """The sample is ours, so that a model with a small context gets the start of it."""
    types = None if tokens.types is None else tokens.types[: spec.context_length]
    return text.Tokens(tokens.ids[: spec.context_length], types)


def _pool_one(hidden: Any, layers: Layers | None) -> Any:
    """The answer to one text without padding, straight from the definition."""
    if layers is None:
        return hidden
    vector = {"mean": hidden.mean(1), "cls": hidden[:, 0], "last": hidden[:, -1]}[layers.pooling]
    return vector / vector.norm(dim=1, keepdim=True) if layers.normalize else vector


# The graph


def convert(model: Any, layers: Layers | None, sample: tuple[Row, Row], *, causal: bool) -> Any:
    """The network and its layers as an `openvino.Model`.

    Masks are given ready made, because what makes them does not trace; a network that reads them
    otherwise gets the plain mask. Raises InvalidInput when neither gives the source's answers.
    """
    import torch

    inputs, (want,) = sample[0], sample[1].values()
    example = tuple(torch.from_numpy(array) for array in inputs.values())
    told = "the source's answers are not reached"
    for ready_made in (True, False):
        graph = _graph(model, layers, list(inputs), causal=causal, ready_made=ready_made)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of itself and of every Python branch
            try:
                if not np.allclose(graph(*example).numpy(), want, atol=1e-4):
                    continue
                return ov.load().convert_model(graph, example_input=example)
            except Exception as error:  # noqa: BLE001 - OpenVINO wraps whatever tracing raised
                told = " ".join(str(error).split())[:300]
    raise InvalidInput(f"The model cannot be compiled: {told}.")


def _graph(
    model: Any, layers: Layers | None, names: Sequence[str], *, causal: bool, ready_made: bool
) -> Any:
    import torch

    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    options = {"use_cache": False} if causal else {}

    class Graph(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Token ids and mask in, one row for each text out; padding is the model's own."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            """The answer to padded texts."""
            given = dict(zip(names, tensors, strict=True))
            mask = given[text.MASK]
            given[text.IDS] = given[text.IDS] * mask + (1 - mask) * pad
            if ready_made:
                given[text.MASK] = _additive(mask, causal=causal)
            return _pool(self.model(**given, **options)[0], mask, layers)

    return Graph().eval()


def _additive(mask: Any, *, causal: bool) -> Any:
    """[batch, 1, 1 or length, length]: 0 where a token may look, a large negative number else."""
    import torch

    hidden = (1.0 - mask[:, None, None, :].to(torch.float32)) * MASKED
    if causal:
        place = torch.arange(mask.shape[1])
        hidden = hidden + (place[None, :] > place[:, None]).to(torch.float32) * MASKED
    return hidden


def _pool(hidden: Any, mask: Any, layers: Layers | None) -> Any:
    """One vector for each text, whatever its padding."""
    import torch

    if layers is None:
        return hidden
    if layers.pooling == "cls":
        vector = hidden[:, 0]
    else:
        weight = mask
        if layers.pooling == "last":
            weight = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True)).to(mask.dtype)
        weight = weight.to(hidden.dtype)[:, :, None]
        vector = (hidden * weight).sum(1) / weight.sum(1)
    return torch.nn.functional.normalize(vector, dim=1) if layers.normalize else vector


def _signature(spec: LanguageSpec, inputs: Sequence[str], output: str) -> Signature:
    return Signature(
        inputs=tuple(TensorSpec(name=n, dtype="int64", shape=(BATCH, BATCH)) for n in inputs),
        outputs=(TensorSpec(name=output, dtype="float32", shape=(BATCH, spec.dimensions or 1)),),
        language=spec,
    )


def _name_ports(graph: Any, signature: Signature) -> None:
    for ports, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        if len(ports) != len(specs):
            raise InvalidInput("The model cannot be compiled: an input does not reach its output.")
        for port, spec in zip(ports, specs, strict=True):
            port.get_tensor().set_names({spec.name})
    graph.reshape({port: [-1, -1] for port in graph.inputs})


def _save_sample(batches: dict[int, tuple[Row, Row]], path: Path) -> None:
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
