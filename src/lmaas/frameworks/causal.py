"""Language models that write: from a checkpoint to the model and tokenizer that engines serve.

The weights keep the type they have in the checkpoint, so that nothing is lost on the way.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime import ov
from lmaas.types import LanguageSpec, Lineage, Manifest, PushOptions, Signature

SEED = 0
SEQUENCES = ((1, 24), (2, 12))
"""Batch and length of the token sequences on which source and compiled model are compared."""


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = checkpoint.load_tokenizer(folder)
    model = checkpoint.load_model(AutoModelForCausalLM, folder, torch.float32)
    spec = describe(model, tokenizer, folder)
    write_sample(model, spec, target / "sample.safetensors")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    own = stored_dtype(folder)
    if own != torch.float32:
        del model
        model = checkpoint.load_model(AutoModelForCausalLM, folder, own)
    compiled = target / "compiled"
    export(model, compiled)
    export_tokenizer(tokenizer, compiled)
    manifest = Manifest(
        name=options.name,
        task="text-generation",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), language=spec),
        num_parameters=num_parameters,
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def describe(model: Any, tokenizer: Any, folder: Path) -> LanguageSpec:
    """What is fixed about the model, from its config, tokenizer and template."""
    config = model.config.get_text_config()
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > vocabulary:
        raise ModelRefused(
            f"The tokenizer has {len(tokenizer)} tokens; the model's embedding has {vocabulary}."
        )
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    template = tokenizer.chat_template or ""
    return LanguageSpec(
        architecture=checkpoint.architecture_of(json.loads((folder / "config.json").read_bytes())),
        context_length=int(config.max_position_embeddings),
        vocabulary_size=vocabulary,
        kv_bytes_per_token=2 * int(config.num_hidden_layers) * kv_heads * head_dim * 2,
        stop_token_ids=stop_ids(model, tokenizer),
        chat_template=bool(template),
        reasoning="<think>" in template or "<think>" in tokenizer.get_vocab(),
        tools="tools" in template,
    )


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer, as generation config, config and tokenizer name them."""
    found: set[int] = set()
    for said in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found |= set(said) if isinstance(said, list | tuple) else {said} - {None}
    return tuple(sorted(found))


def stored_dtype(folder: Path) -> Any:
    """The torch dtype in which most of the checkpoint's weights are stored."""
    import torch

    from lmaas.frameworks.refuse_checkpoint import stored_types

    types = stored_types(folder)
    known = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    name = max((name for name in types if name in known), key=types.__getitem__, default="F32")
    return known[name]


def write_sample(model: Any, spec: LanguageSpec, path: Path) -> None:
    """Seeded token sequences and the source's log-probabilities for each next token."""
    import torch
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED)
    tensors: dict[str, np.ndarray] = {}
    for batch, length in SEQUENCES:
        length = min(length, spec.context_length)
        ids = rng.integers(0, spec.vocabulary_size, (batch, length))
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits
        tensors[f"in.{batch}.input_ids"] = ids
        tensors[f"out.{batch}.logprobs"] = torch.log_softmax(logits.float(), -1).numpy()
    save_file(tensors, path)


def export(model: Any, folder: Path) -> None:
    """Write openvino_model.xml with its KV cache as state, and the configs beside it."""
    ov.load()
    import torch
    from optimum.exporters.openvino.convert import export_from_model

    export_from_model(
        model,
        folder,
        task="text-generation-with-past",
        stateful=True,
        patch_16bit_model=model.dtype != torch.float32,
    )


def export_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer and detokenizer as OpenVINO models, and their own files."""
    openvino = ov.load()
    from openvino_tokenizers import convert_tokenizer

    both = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, part in zip(("tokenizer", "detokenizer"), both, strict=True):
        openvino.save_model(part, folder / f"openvino_{name}.xml")
    tokenizer.save_pretrained(folder)
