"""Hugging Face checkpoints: recognised, read without running their code, kept as they are.

Knows folders, configs and tokenizers; what becomes of each architecture is the matter of the
builder that its task's spec names. Runs in a sandboxed child.
"""

import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import quantized, refuse_checkpoint, refuse_quantized, voices
from lmaas.types import Manifest, PushOptions

VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
    "vocab.txt",
)  # fmt: skip
"""Files of which a tokenizer can be made."""
KEPT = (
    "config.json", "generation_config.json", "preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "source.spm", "target.spm", "preprocessor_config.json",
    "processor_config.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
    "preprocessor_config.json", "processor_config.json", "README.md", "LICENSE*",
    "spm_char.model", "vocoder/config.json", "vocoder/model.safetensors",
)  # fmt: skip
"""What of a checkpoint is kept beside its weights; all else in its folder is left behind."""
KOKORO: Final = {"istftnet", "plbert"}
"""What Kokoro's config.json has, which names no architecture."""


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a folder with a Hugging Face `config.json` and no other kind of model."""
    if not (path / "config.json").is_file():
        return False
    if any((path / name).is_file() for name in (refuse_checkpoint.SINGLE, refuse_checkpoint.INDEX)):
        return True
    others = ("saved_model.pb", "*.keras", "*.onnx")
    return not any(next(path.glob(pattern), None) for pattern in others)


def build(
    path: Path, target: Path, options: PushOptions, *, weights: str | None = None
) -> Manifest:
    """A package of the checkpoint `path` in `target`. Raises ModelRefused, InvalidInput.

    `weights` is what was done to them before; it stands in the lineage's recipe.
    """
    for field in (
        "labels", "image", "outputs_are", "detection", "face", "anchors", "reading", "sample",
        "dynamic", "signature",
    ):  # fmt: skip
        if getattr(options, field) is not None:
            raise InvalidInput(f"A checkpoint takes no {field}.", param=field)
    if read_config(path).keys() >= KOKORO:
        raise ModelRefused(
            "Kokoro checkpoints are not served: they are pickles, and no export of one is proven.",
            hint="SpeechT5 checkpoints speak.",
        )
    refuse_checkpoint.check(path)
    if (path / VOCABULARIES[0]).is_file():
        check_tokenizer(path / VOCABULARIES[0])
    task = options.task or task_of(read_config(path))
    check_task(task)
    module, _, function = tasks.checkpoints()[task].builder.partition(":")
    builder = cast(
        Callable[[Path, PushOptions, Path], Manifest],
        getattr(importlib.import_module(module), function),
    )
    target.mkdir(parents=True, exist_ok=True)
    told = keep(path, target / "source") or weights
    voices.keep(path, target / "source")
    check_config(target / "source")
    manifest = builder(target / "source", options, target)
    if told is not None:
        recipe = {**manifest.lineage.recipe, "weights": told}
        lineage = msgspec.structs.replace(manifest.lineage, recipe=recipe)
        manifest = msgspec.structs.replace(manifest, lineage=lineage)
        (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def check_task(task: str) -> None:
    """Whether a checkpoint can have this task. Raises InvalidInput."""
    if task not in tasks.checkpoints():
        raise InvalidInput(
            f"A checkpoint cannot be {task!a}; its tasks are {', '.join(tasks.checkpoints())}.",
            param="task",
        )


def task_of(config: dict[str, Any]) -> str:
    """The task that a checkpoint's architecture is made for. Raises InvalidInput."""
    architecture = architecture_of(config)
    told = config.get("id2label")
    labels = [str(label).lower() for label in told.values()] if isinstance(told, dict) else []
    fitting: dict[str, str] = {}
    # A task that wants a label comes last, so that it wins where the label is there.
    for task, spec in sorted(tasks.checkpoints().items(), key=lambda one: bool(one[1].label)):
        if spec.label is not None and not any(label.startswith(spec.label) for label in labels):
            continue
        fitting |= {ending: task for ending in spec.endings if architecture.endswith(ending)}
    if not fitting:
        raise InvalidInput(
            f"No task is known for the architecture {architecture!a}.",
            hint=f"Say it: --task {', '.join(tasks.checkpoints())}.",
            param="task",
        )
    return fitting[max(fitting, key=len)]


def architecture_of(config: dict[str, Any]) -> str:
    """The class that the config names. Raises ModelRefused."""
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ModelRefused(
            f"config.json must name one architecture; it names {named!a}.",
            hint='Expected "architectures": ["…ForCausalLM"].',
        )
    return named[0]


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json."""
    return refuse_checkpoint.read_json(folder / "config.json", refuse_checkpoint.MAX_CONFIG_BYTES)


def own_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are kept: its weights and those of `KEPT`.

    Raises ModelRefused when it has no weights that may be read.
    """
    weights = refuse_checkpoint.weight_files(folder)
    if weights != [folder / refuse_checkpoint.SINGLE]:
        weights.append(folder / refuse_checkpoint.INDEX)
    beside = (p for pattern in KEPT for p in folder.glob(pattern) if p.is_file())
    return sorted({*weights, *beside})


def keep(folder: Path, target: Path) -> str | None:
    """Copy the checkpoint's own files, and nothing else of the folder; of configs all but
    `auto_map`, so that whoever reads them later finds no code to look for.

    Quantised weights are made plain; what was done, for people. Raises ModelRefused.
    """
    quantised = bool(read_config(folder).get(refuse_quantized.KEY))
    weights = refuse_checkpoint.weight_files(folder)
    for path in own_files(folder):
        if quantised and (path in weights or path.name == refuse_checkpoint.INDEX):
            continue
        kept = target / path.relative_to(folder)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json" and refuse_checkpoint.AUTO_MAP.encode() in path.read_bytes():
            config = refuse_checkpoint.without_code(json.loads(path.read_bytes()))
            kept.write_text(json.dumps(config, indent=2), "utf-8")
        else:
            shutil.copyfile(path, kept)
    if not quantised:
        return None
    return quantized.make_plain(weights, read_config(target), target)


def check_config(folder: Path) -> None:
    """Raise ModelRefused for a config that is not known or contradicts itself."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a config that lies fails in any way it likes
        raise ModelRefused(f"config.json is not valid: {short(error)}.") from None


def load_model(kind: Any, folder: Path, dtype: Any, *, spare: Sequence[str] = ()) -> Any:
    """The torch model of `folder`, by the transformers class `kind`, ready to be called.

    Tensors with one of `spare` in their name may be missing or left over. Raises ModelRefused for
    an architecture that is not known, and for tensors that are missing, left over or of another
    shape than the architecture's.
    """
    refuse_checkpoint.check(folder)
    try:
        model, told = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a config makes of the library is its own fault
        raise ModelRefused(f"The checkpoint cannot be loaded: {short(error)}.") from None
    for what, verb in (("missing", "lacks"), ("unexpected", "has"), ("mismatched", "misshapes")):
        names = sorted(str(name) for name in told[f"{what}_keys"])
        if what != "mismatched":
            names = [name for name in names if not any(part in name for part in spare)]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise ModelRefused(
                f"The checkpoint {verb} {len(names)} {what} tensors of {type(model).__name__}: "
                f"{shown}."
            )
    return model.eval()


def outline(kind: Any, folder: Path) -> Any:
    """The torch model of `folder` with its sizes and no weights, by the transformers class `kind`.

    It takes no memory worth counting. Raises ModelRefused.
    """
    import torch
    from transformers import AutoConfig

    check_config(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    try:
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - as in `load_model`
        raise ModelRefused(f"The checkpoint cannot be loaded: {short(error)}.") from None


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of `folder`; a slow one is converted and kept as tokenizer.json.

    Raises ModelRefused when there is none.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        # The library would make an empty tokenizer of the architecture's kind.
        raise ModelRefused(f"The checkpoint has no tokenizer: expected {VOCABULARIES[0]}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - as above: a damaged file fails in many ways
        raise ModelRefused(f"The tokenizer cannot be loaded: {short(error)}.") from None
    if not tokenizer.is_fast:
        raise ModelRefused(
            "The checkpoint has no tokenizer.json, and none can be made from its tokenizer.",
            hint="Save it with a fast tokenizer of transformers.",
        )
    if not (folder / "tokenizer.json").is_file():
        tokenizer.save_pretrained(folder)
    return tokenizer


def check_tokenizer(path: Path) -> None:
    """Raise ModelRefused for a tokenizer.json that is damaged."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more exact
        raise ModelRefused(f"{path.name} is not valid: {short(error)}.") from None


def short(error: BaseException) -> str:
    """What a library's error says, in one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
