"""Language models that write: from a checkpoint to the model and tokenizer that engines serve.

The weights keep the type they have in the checkpoint, so that nothing is lost on the way.
"""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lmaas.errors import InvalidInput, LMaaSError, ModelRefused
from lmaas.frameworks import checkpoint, refuse_checkpoint
from lmaas.frameworks.causal_sample import write_sample
from lmaas.generation_types import ChatMessage
from lmaas.runtime import ov
from lmaas.runtime.language import parity
from lmaas.runtime.language.proof import prove
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.torch_model import TorchModel
from lmaas.types import LanguageSpec, Lineage, Manifest, PushOptions, Signature

MODEL = "openvino_model.xml"
TASK = "text-generation-with-past"
KV_ELEMENT_BYTES = 2
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len",
               "context_length")  # fmt: skip
TRACED = re.compile(r"Exception: (.+?)(?: Please check|$)")
"""What of the converter's message is about the model."""
UNBOUNDED = 1 << 17
"""The context of models that have no positions: they read any length, and forget."""
KEPT_LENGTH = ("default", "llama3", "proportional")
"""Rope scalings whose config already tells the scaled length."""
SHIFTING = ("dynamic", "longrope", "su")
"""Rope scalings that change all positions once a sequence passes its original length, those in the
cache too: what a token is told then depends on what else was computed."""


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused.

    Where the compiled form cannot be made, or does not give the source's answers, the package has
    the source alone, for engines that run it; why stands in the lineage's recipe as
    `not_compiled`. A model that no engine runs rightly is refused.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = checkpoint.load_tokenizer(folder)
    template = check_template(folder)
    model = checkpoint.load_model(AutoModelForCausalLM, folder, torch.float32)
    vocabulary = check_vocabulary(model, tokenizer)
    config = model.config.get_text_config()
    length = context_length(config)
    stops = stop_ids(model, tokenizer, vocabulary)
    sample = target / "sample.safetensors"
    write_sample(model, vocabulary, length, sample)
    kv_bytes, state_bytes = cache_sizes(model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    spec = LanguageSpec(
        architecture=checkpoint.architecture_of(checkpoint.read_config(folder)),
        context_length=length,
        vocabulary_size=vocabulary,
        kv_bytes_per_token=kv_bytes,
        state_bytes=state_bytes,
        stop_token_ids=stops,
        chat_template=template is not None,
        reasoning="<think>" in (template or "") or "<think>" in tokenizer.get_vocab(),
        tools="tools" in (template or ""),
    )
    recipe = {"context": told} if (told := shortened(config)) else {}
    # The source is loaded anew: measuring has changed how it attends.
    del model
    compiled = target / "compiled"
    try:
        export(checkpoint.load_model(AutoModelForCausalLM, folder, stored_dtype(folder)), compiled)
        export_tokenizer(tokenizer, compiled)
        kv_bytes = kv_bytes_per_token(compiled / MODEL)
        kept = msgspec.structs.replace(spec, kv_bytes_per_token=kv_bytes, state_bytes=0)
        report = prove(compiled, sample, kept, "openvino-genai", target)
        if problem := parity.problem_of(report):
            raise ModelRefused(f"its compiled form gives other answers: {problem}")
        spec = kept
    except LMaaSError as error:
        shutil.rmtree(compiled, ignore_errors=True)
        recipe["not_compiled"] = error.message
        check_source(folder, sample, spec, error.message)
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


def check_source(folder: Path, sample: Path, spec: LanguageSpec, compiled: str) -> None:
    """Raise ModelRefused unless the engine torch gives the source's answers, too.

    `compiled` is why OpenVINO does not run it.
    """
    try:
        problem = parity.problem_of(parity.measure(folder, sample, spec, "torch", bf16=False))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - networks tell in many ways what they cannot do
        problem = checkpoint.short(error)
    if problem:
        raise ModelRefused(
            f"No engine here runs {spec.architecture} rightly. torch: {problem} "
            f"OpenVINO: {compiled}",
            hint="Serve it with vLLM or another server, and connect that: "
            "`lmaas models connect` takes any OpenAI-compatible service.",
        )


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

    Where positions beyond a length change those before it (`SHIFTING`), that length. Raises
    ModelRefused when the config tells none.
    """
    told = next((getattr(config, key, None) for key in LENGTH_KEYS if getattr(config, key, 0)), 0)
    if not isinstance(told, int) or told < 1:
        if model_has_no_bound(config):
            return UNBOUNDED
        raise ModelRefused(f"The config tells no context length ({', '.join(LENGTH_KEYS)}).")
    rope = rope_of(config)
    kind = rope.get("rope_type", "default")
    original = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    if kind in SHIFTING:
        return min(told, original or told)
    if kind in KEPT_LENGTH:
        return told
    scaled = (original or told) if kind == "yarn" else told
    return max(told, int(scaled * rope.get("factor", 1.0)))


def rope_of(config: Any) -> dict[str, Any]:
    """How the config scales its rotary positions; empty where it does not, or by kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    return rope if isinstance(rope, dict) else {}


def model_has_no_bound(config: Any) -> bool:
    """Whether the config is of a model without positions: any length can be read."""
    return not any(
        "position" in key or "max_seq" in key or "context" in key for key in config.to_dict()
    )


def shortened(config: Any) -> str | None:
    """Why the context is shorter than the config says; None where it is not."""
    kind = rope_of(config).get("rope_type", "default")
    if kind not in SHIFTING:
        return None
    return (
        f"rope_type {kind} changes all positions of a sequence when it passes "
        f"{context_length(config)} tokens; longer sequences are refused."
    )


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


def export(model: Any, folder: Path) -> None:
    """Write openvino_model.xml with its KV cache as state, and the configs beside it.

    Raises ModelRefused for an architecture that cannot be exported.
    """
    ov.load()
    import torch
    from optimum.exporters.openvino.convert import export_from_model

    with exporting(model):
        export_from_model(
            model,
            folder,
            task=TASK,
            stateful=True,
            patch_16bit_model=model.dtype != torch.float32,
            custom_export_configs=uncapped(model),
        )


@contextmanager
def exporting(model: Any) -> Iterator[None]:
    """What the exporter raises within, as ModelRefused that says why."""
    try:
        yield
    except MemoryError:
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("optimum", "openvino"):
            raise
        raise ModelRefused(f"{type(model).__name__} cannot be compiled: {error}.") from None
    except Exception as error:
        told = checkpoint.short(error)
        if "alloc" in told:
            raise MemoryError from error
        if "unsupported architecture" in told:
            told = "OpenVINO's exporter does not know the architecture"
        elif "officially supported" in told:
            told = "OpenVINO's exporter no longer takes the architecture"
        elif isinstance(error, ImportError):
            told = "OpenVINO's exporter was made for another version of transformers"
        elif traced := TRACED.search(told):
            told = f"tracing it failed: {traced.group(1)}"
        raise ModelRefused(f"{type(model).__name__} cannot be compiled: {told}.") from None


def uncapped(model: Any) -> dict[str, Any] | None:
    """The exporter's own way for this architecture, without the versions of transformers that it
    asks for: what comes out is compared with the source. None where it has no way.
    """
    from optimum.exporters.tasks import TasksManager
    from optimum.exporters.utils import get_decoder_models_for_export

    try:
        make = TasksManager.get_exporter_config_constructor(
            model=model, exporter="openvino", task=TASK, library_name="transformers"
        )
    except (KeyError, ValueError):
        return None
    plain = make(model.config, int_dtype="int64", float_dtype="fp32", preprocessors=None)
    _, way = get_decoder_models_for_export(model, plain)["model"]
    way.MIN_TRANSFORMERS_VERSION = way.MAX_TRANSFORMERS_VERSION = None
    return {"model": way}


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


def cache_sizes(model: Any) -> tuple[int, int]:
    """What a token adds to a sequence's cache in the engine torch, and what a sequence has from
    its beginning, at 2 bytes an element; zeros where that engine cannot run the model.

    Changes how the model attends.
    """
    try:
        measured = TorchModel(model)
    except LMaaSError:
        return 0, 0
    each = 4 // KV_ELEMENT_BYTES
    return measured.bytes_per_token // each, measured.state_bytes // each


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
