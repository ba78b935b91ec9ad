"""GGUF files: one file with config, tokenizer and quantised weights, made a plain checkpoint.

transformers reads them (with the package `gguf`), architecture by architecture; what it does not
read is refused. Weights are kept as float16, tensor by tensor what their stored numbers mean.
"""

from pathlib import Path
from typing import Any

from lmaas.errors import MissingExtra, ModelRefused
from lmaas.frameworks import checkpoint

MAGIC = b"GGUF"
SUFFIX = ".gguf"
CONVERT = (
    "Push the checkpoint that it was made from, then `lmaas compress` it; or serve it with "
    "llama.cpp's server: `lmaas models connect` takes any OpenAI-compatible service."
)


def file_of(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that is the one model in this folder; None for others.

    Raises ModelRefused for a folder with several.
    """
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    found = sorted(path.glob(f"*{SUFFIX}"))
    if not found or (path / "config.json").is_file():
        return None
    if len(found) > 1:
        raise ModelRefused(
            f"{path.name}/ holds {len(found)} GGUF files: {', '.join(p.name for p in found[:4])}.",
            hint="Push the one that you mean. A file that was split is put together by llama.cpp: "
            "llama-gguf-split --merge FIRST WHOLE.gguf",
        )
    return found[0]


def make_checkpoint(path: Path, target: Path) -> str:
    """Write the model of a GGUF file as a checkpoint into `target`; what was done, for people.

    Raises ModelRefused for a file that is damaged or of an architecture that is not read,
    MissingExtra.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.import_utils import is_gguf_available

    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ModelRefused(f"{path.name} is no GGUF file.", hint=CONVERT)
    if not is_gguf_available():
        raise MissingExtra(
            f"{path.name} needs the package gguf, which is not installed here.",
            hint="pip install 'lmaas[gguf]'",
        )
    given: dict[str, Any] = {
        "gguf_file": path.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **given)
        model, told = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float16, output_loading_info=True, **given
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a file that lies makes the library fail in any way
        raise ModelRefused(
            f"{path.name} cannot be read: {checkpoint.short(error)}.", hint=CONVERT
        ) from None
    if missing := sorted(map(str, told["missing_keys"])):
        raise ModelRefused(
            f"{path.name} lacks {len(missing)} tensors of {type(model).__name__}: "
            f"{', '.join(missing[:5])}.",
            hint=CONVERT,
        )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return "The weights came as GGUF; they are kept as float16, with the same values."
