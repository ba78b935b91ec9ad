"""Language models that write: from a checkpoint to the model and tokenizer that engines serve.

The weights keep the type they have in the checkpoint, so that nothing is lost on the way.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint, refuse_checkpoint
from lmaas.language import ChatMessage
from lmaas.runtime import ov
from lmaas.runtime.language.template import Template
from lmaas.types import LanguageSpec, Lineage, Manifest, PushOptions, Signature

SEED = 0
SEQUENCES = ((1, 24), (2, 12))
"""Batch and length of the token sequences on which source and compiled model are compared."""
MODEL = "openvino_model.xml"
KV_ELEMENT_BYTES = 2
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
KEPT_LENGTH = ("default", "llama3", "longrope", "su", "proportional")
"""Rope scalings whose config already tells the scaled length."""


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused.

    An architecture that does not compile is kept as it is, for engines that run the source; why
    stands in the lineage's recipe as `not_compiled`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = checkpoint.load_tokenizer(folder)
    template = check_template(folder)
    model = checkpoint.load_model(AutoModelForCausalLM, folder, torch.float32)
    vocabulary = check_vocabulary(model, tokenizer)
    length = context_length(model.config.get_text_config())
    stops = stop_ids(model, tokenizer, vocabulary)
    write_sample(model, vocabulary, length, target / "sample.safetensors")
    kv_bytes = kv_bytes_of(model.config.get_text_config())
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    own = stored_dtype(folder)
    if own != torch.float32:
        del model
        model = checkpoint.load_model(AutoModelForCausalLM, folder, own)
    compiled = target / "compiled"
    recipe = {}
    try:
        export(model, compiled)
        export_tokenizer(tokenizer, compiled)
        kv_bytes = kv_bytes_per_token(compiled / MODEL)
    except ModelRefused as error:
        shutil.rmtree(compiled, ignore_errors=True)
        recipe["not_compiled"] = error.message
    spec = LanguageSpec(
        architecture=checkpoint.architecture_of(checkpoint.read_config(folder)),
        context_length=length,
        vocabulary_size=vocabulary,
        kv_bytes_per_token=kv_bytes,
        stop_token_ids=stops,
        chat_template=template is not None,
        reasoning="<think>" in (template or "") or "<think>" in tokenizer.get_vocab(),
        tools="tools" in (template or ""),
    )
    manifest = Manifest(
        name=options.name,
        task="text-generation",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), language=spec),
        num_parameters=num_parameters,
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push", recipe=recipe),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def check_template(folder: Path) -> str | None:
    """The chat template's source; None when there is none.

    Raises ModelRefused when it does not render the simplest conversation within its bounds.
    """
    template = Template.load(folder)
    if template is None:
        return None
    try:
        template.render([ChatMessage(role="user", content="Hello")])
    except InvalidInput as error:
        raise ModelRefused(
            f"The chat template does not render a user's message: {error.message}",
            hint="Mend chat_template.jinja, or remove it: then there is no chat, only completions.",
        ) from None
    return template.source


def check_vocabulary(model: Any, tokenizer: Any) -> int:
    """The number of tokens the model knows. Raises ModelRefused when the tokenizer has more."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise ModelRefused(
            f"The tokenizer gives tokens up to {highest}; the model's embedding has {vocabulary}.",
            hint="Take the tokenizer that the model was trained with.",
        )
    return vocabulary


def context_length(config: Any) -> int:
    """The most tokens of prompt and answer together, rope scaling included.

    Raises ModelRefused when the config tells no length.
    """
    told = next((getattr(config, key, None) for key in LENGTH_KEYS if getattr(config, key, 0)), 0)
    if not isinstance(told, int) or told < 1:
        raise ModelRefused(f"The config tells no context length ({', '.join(LENGTH_KEYS)}).")
    rope = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") in KEPT_LENGTH:
        return told
    scaled = told
    if rope.get("rope_type") == "yarn":
        scaled = rope.get("original_max_position_embeddings") or told
    return max(told, int(scaled * rope.get("factor", 1.0)))


def stop_ids(model: Any, tokenizer: Any, vocabulary: int) -> tuple[int, ...]:
    """The tokens that end an answer, as generation config, config and tokenizer name them.

    Raises ModelRefused for one outside the vocabulary.
    """
    found: set[int] = set()
    for said in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found.update(said if isinstance(said, list | tuple) else () if said is None else (said,))
    for token in found:
        if not 0 <= token < vocabulary:
            raise ModelRefused(f"The stop token {token} is outside the vocabulary of {vocabulary}.")
    return tuple(sorted(found))


def stored_dtype(folder: Path) -> Any:
    """The torch dtype in which most of the checkpoint's weights are stored."""
    import torch

    types = refuse_checkpoint.stored_types(refuse_checkpoint.weight_files(folder))
    known = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    name = max((name for name in types if name in known), key=types.__getitem__, default="F32")
    return known[name]


def write_sample(model: Any, vocabulary: int, most: int, path: Path) -> None:
    """Seeded token sequences and the source's log-probabilities for each next token."""
    import torch
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED)
    tensors: dict[str, np.ndarray] = {}
    for batch, length in SEQUENCES:
        ids = rng.integers(0, vocabulary, (batch, min(length, most)))
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits
        tensors[f"in.{batch}.input_ids"] = ids
        tensors[f"out.{batch}.logprobs"] = torch.log_softmax(logits.float(), -1).numpy()
    save_file(tensors, path)


def export(model: Any, folder: Path) -> None:
    """Write openvino_model.xml with its KV cache as state, and the configs beside it.

    Raises ModelRefused for an architecture that cannot be exported.
    """
    ov.load()
    import torch
    from optimum.exporters.openvino.convert import export_from_model

    try:
        export_from_model(
            model,
            folder,
            task="text-generation-with-past",
            stateful=True,
            patch_16bit_model=model.dtype != torch.float32,
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        told = checkpoint.short(error)
        if "alloc" in told:
            raise MemoryError from error
        if "unsupported architecture" in told:
            told = "OpenVINO's exporter does not know the architecture"
        raise ModelRefused(f"{type(model).__name__} cannot be compiled: {told}.") from None


def export_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer and detokenizer as OpenVINO models, and their own files.

    Raises ModelRefused for a tokenizer of a kind that cannot be converted.
    """
    openvino = ov.load()
    from openvino_tokenizers import convert_tokenizer

    try:
        both = convert_tokenizer(tokenizer, with_detokenizer=True)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the converter tells in many ways what it cannot do
        raise ModelRefused(
            f"{type(tokenizer).__name__} cannot be compiled: {checkpoint.short(error)}."
        ) from None
    for name, part in zip(("tokenizer", "detokenizer"), both, strict=True):
        openvino.save_model(part, folder / f"openvino_{name}.xml")
    tokenizer.save_pretrained(folder)


def kv_bytes_of(config: Any) -> int:
    """What one token adds to the cache of keys and values in all layers, by the config."""
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * kv_heads * head_dim * KV_ELEMENT_BYTES


def kv_bytes_per_token(path: Path) -> int:
    """What one token adds to the compiled model's state, at 2 bytes an element.

    Raises ModelRefused for a model without a state that grows: engines cannot page it.
    """
    model = ov.core().read_model(path)
    elements = 0
    for sink in model.get_sinks():
        shape = sink.input(0).get_partial_shape()
        if shape.rank.is_dynamic or len([d for d in shape if d.is_dynamic]) != 2:
            raise ModelRefused("The model keeps a state that is no key-value cache.")
        elements += math.prod(d.get_length() for d in shape if d.is_static)
    if not elements:
        raise ModelRefused("The model was compiled without a key-value cache.")
    return elements * KV_ELEMENT_BYTES
