"""LoRA adapters: merged into the model that they were made for, which makes a checkpoint of both.

`W' = W + (alpha / r) * B @ A` (Hu et al. 2021). Works on files, tensor by tensor: no network is
built, and only one file of weights is in memory. Runs in a sandboxed child.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.refuse_checkpoint import (
    MAX_CONFIG_BYTES,
    check,
    header,
    read_json,
    weight_files,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "layer_replication": (None,),
    "auto_map": (None,),
}
"""Settings of an adapter that change what it means, and the values that are understood."""


def is_adapter(path: Path) -> bool:
    """Whether `path` is the folder of an adapter."""
    return (path / CONFIG).is_file()


def merge(adapter: Path, base: Path, target: Path) -> None:
    """Make `target` the checkpoint `base` with the adapter's change in it.

    Raises ModelRefused for an adapter of another kind, or of another model.
    """
    import torch
    from safetensors.torch import load_file, save_file

    scale = _scale(adapter)
    if not (adapter / WEIGHTS).is_file():
        raise ModelRefused(f"The adapter has no {WEIGHTS}: only safetensors are read.")
    header(adapter / WEIGHTS)
    pairs = _pairs(load_file(adapter / WEIGHTS))
    shutil.copytree(base, target)
    check(target)
    for path in weight_files(target):
        tensors = load_file(path)
        for name, weight in tensors.items():
            pair = pairs.pop(name.removesuffix(".weight"), None)
            if pair is None:
                continue
            down, up = pair
            if weight.ndim != 2 or (up.shape[0], down.shape[1]) != tuple(weight.shape):
                raise ModelRefused(
                    f"The adapter changes {name} by {up.shape[0]} x {down.shape[1]}; the model has "
                    f"{' x '.join(map(str, weight.shape))}."
                )
            change = scale * (up.to(torch.float32) @ down.to(torch.float32))
            tensors[name] = (weight.to(torch.float32) + change).to(weight.dtype).contiguous()
        path.unlink()  # it may be a link to the base's own file
        save_file(tensors, path, metadata={"format": "pt"})
    if pairs:
        raise ModelRefused(
            f"The adapter changes {next(iter(pairs))}, which the model does not have.",
            hint="Say the model that it was made for: --base NAME.",
        )


def _scale(adapter: Path) -> float:
    config = read_json(adapter / CONFIG, MAX_CONFIG_BYTES)
    if config.get("peft_type") != "LORA":
        raise ModelRefused(f"Only LoRA adapters are taken; this is {config.get('peft_type')!a}.")
    for name, values in PLAIN.items():
        if config.get(name) not in values:
            raise ModelRefused(f"The adapter has {name}={config[name]!a}, which is not supported.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ModelRefused(f"The adapter's rank and alpha must be numbers: {rank!a}, {alpha!a}.")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The matrices A (down) and B (up) of each changed weight."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".default")
        module, _, part = plain.rpartition(".")
        if part not in ("lora_A", "lora_B") or tensor.ndim != 2:
            raise ModelRefused(f"The adapter has the tensor {name!a}, which is no LoRA matrix.")
        found.setdefault(module, {})[part] = tensor
    for module, parts in found.items():
        if len(parts) != 2 or parts["lora_A"].shape[0] != parts["lora_B"].shape[1]:
            raise ModelRefused(f"The adapter's matrices for {module!a} do not fit each other.")
    if not found:
        raise InvalidInput("The adapter changes nothing.")
    return {module: (parts["lora_A"], parts["lora_B"]) for module, parts in found.items()}
