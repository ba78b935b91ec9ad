"""Checkpoints that came quantised, made plain: each weight is what its stored numbers mean.

Tensor by tensor: of the weights no more than one shard is in memory. What is computed:

- `fp8` (`fbgemm_fp8`, `compressed-tensors` with floats): w = q · s, with one scale for all,
  for each row, or for each block (`weight_scale_inv`, `weight_scale`). Scales of activations are
  left out: they are rounding, and none is better.
- `gptq`: w = s[g] · (q − z[g]), where g is the group of the input channel, and a stored zero point
  is one less than z in the format `gptq` (as AutoGPTQ writes it), and z itself in `gptq_v2`.
- `awq` (version `gemm`): w = s[g] · (q − z[g]), eight 4-bit numbers a word in AWQ's own order.
- `mxfp4`: blocks of 32 4-bit floats (OCP Microscaling, E2M1) times a power of two each (E8M0).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused
from lmaas.frameworks.refuse_checkpoint import INDEX, SINGLE, header
from lmaas.frameworks.refuse_quantized import KEY

SHARD_BYTES: Final = 2 << 30
AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column, within its eight, of the 4-bit numbers of a word from the lowest bits on."""
FP4: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of E2M1; the fourth bit is the sign."""
SCALES: Final = ("weight_scale_inv", "weight_scale")
UNUSED: Final = ("input_scale", "activation_scale", "input_scale_ub", "output_scale", "k_scale",
                 "v_scale")  # fmt: skip


def make_plain(weights: list[Path], config: dict[str, Any], target: Path) -> str:
    """Write the weights in plain numbers into `target`, and `config` without its quantisation.

    What was done, for people. Raises ModelRefused for tensors that do not fit each other.
    """
    import torch

    told = config[KEY]
    method = str(told["quant_method"])
    plain = {name: value for name, value in config.items() if name != KEY}
    wanted = str(plain.get("dtype") or plain.get("torch_dtype") or "float16")
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(wanted, torch.float16)
    plain.pop("torch_dtype", None)
    plain["dtype"] = str(dtype).removeprefix("torch.")
    with _Source(weights) as source:
        _write(_weights(source, told, method, dtype), target)
    (target / "config.json").write_text(json.dumps(plain, indent=2), "utf-8")
    return f"The weights came as {method}; they are kept as {plain['dtype']}, with the same values."


class _Source:
    """The tensors of several files, by name."""

    def __init__(self, paths: list[Path]) -> None:
        self.place = {name: path for path in paths for name in header(path)}
        self._paths = paths
        self._open: dict[Path, Any] = {}

    def __enter__(self) -> "_Source":
        from safetensors import safe_open

        self._open = {path: safe_open(path, "pt") for path in self._paths}
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def __call__(self, name: str) -> Any:
        if name not in self.place:
            raise ModelRefused(f"The checkpoint is quantised, and lacks the tensor {name!a}.")
        return self._open[self.place[name]].get_tensor(name)


def _weights(
    source: _Source, told: dict[str, Any], method: str, dtype: Any
) -> Iterator[tuple[str, Any]]:
    """All tensors of the plain checkpoint. Integers are computed in float32, then rounded once."""
    import torch

    names = source.place
    for name in names:
        stem, _, last = name.rpartition(".")
        if last in (*SCALES, *UNUSED):
            continue
        if method in ("gptq", "awq"):
            if last in ("qzeros", "scales", "g_idx"):
                continue
            if last == "qweight":
                unpack = _gptq if method == "gptq" else _awq
                weight = _fit(name, unpack, source, stem, told)
                yield f"{stem}.weight", weight.to(dtype).contiguous()
                continue
        if method == "mxfp4":
            if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in names:
                continue
            if name.endswith("_blocks"):
                stem = name.removesuffix("_blocks")
                weight = _fit(name, _mxfp4, source, stem, told)
                yield stem, weight.to(dtype).contiguous()
                continue
        tensor = source(name)
        if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            scale = next((f"{stem}.{s}" for s in SCALES if f"{stem}.{s}" in names), None)
            if scale is None:
                raise ModelRefused(f"The 8-bit tensor {name!a} has no scale.")
            tensor = _fit(name, _fp8, tensor, source(scale), told).to(dtype)
        yield name, tensor.contiguous()


def _fit(name: str, compute: Callable[..., Any], *given: Any) -> Any:
    try:
        return compute(*given)
    except (RuntimeError, IndexError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise ModelRefused(f"The parts of {name!a} do not fit each other: {told}.") from None


def _fp8(tensor: Any, scale: Any, told: dict[str, Any]) -> Any:
    """w = q · s; `scale` is one number, (out, 1), (out) or a grid of blocks over (out, in)."""
    import torch

    values, scale = tensor.to(torch.float32), scale.to(torch.float32)
    if scale.numel() == 1:
        return values * scale.reshape(())
    if scale.shape == values.shape[:1]:
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))
    block = told.get("weight_block_size")
    if block and scale.ndim == values.ndim >= 2:
        for axis, size in zip((-2, -1), block, strict=True):
            places = torch.arange(values.shape[axis]) // int(size)
            scale = scale.index_select(axis % values.ndim, places)
    return values * scale


def _gptq(source: _Source, stem: str, told: dict[str, Any]) -> Any:
    import torch

    bits = int(told["bits"])
    packed, zeros, scales = (source(f"{stem}.{n}") for n in ("qweight", "qzeros", "scales"))
    values = _unpacked(packed, bits, 0)
    zero = _unpacked(zeros, bits, 1)[:, : scales.shape[1]]
    if told.get("checkpoint_format", "gptq") == "gptq":
        zero = zero + 1
    if f"{stem}.g_idx" in source.place:
        group = source(f"{stem}.g_idx").long()
    else:
        size = int(told.get("group_size", -1))
        size = size if size > 0 else len(values)
        group = torch.arange(len(values)) // size
    weight = scales.to(torch.float32)[group] * (values - zero[group]).to(torch.float32)
    return weight.T


def _awq(source: _Source, stem: str, told: dict[str, Any]) -> Any:
    import torch

    packed, zeros, scales = (source(f"{stem}.{n}") for n in ("qweight", "qzeros", "scales"))
    place = torch.tensor([AWQ_ORDER.index(column) for column in range(8)])

    def ordered(words: Any) -> Any:
        numbers = _unpacked(words, 4, 1)
        return numbers.reshape(len(words), -1, 8)[:, :, place].reshape(len(words), -1)

    values, zero = ordered(packed), ordered(zeros)
    group = torch.arange(len(values)) // (len(values) // len(scales))
    return (scales.to(torch.float32)[group] * (values - zero[group]).to(torch.float32)).T


def _unpacked(words: Any, bits: int, axis: int) -> Any:
    """The unsigned numbers of `words` (int32), lowest bits first, along `axis`."""
    import torch

    count = 32 // bits
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    shape = [1, 1, 1]
    shape[axis + 1] = count
    numbers = (words.unsqueeze(axis + 1) >> shifts.reshape(shape)) & ((1 << bits) - 1)
    return numbers.flatten(axis, axis + 1)


def _mxfp4(source: _Source, stem: str, told: dict[str, Any]) -> Any:
    """(…, rows, groups, 16) bytes and (…, rows, groups) exponents → (…, groups · 32, rows)."""
    import torch

    blocks, scales = source(f"{stem}_blocks"), source(f"{stem}_scales")
    table = torch.tensor([*FP4, *(-value for value in FP4)], dtype=torch.float32)
    halves = torch.stack([blocks & 0x0F, blocks >> 4], dim=-1).flatten(-2)
    values = torch.ldexp(table[halves.long()], (scales.to(torch.int32) - 127)[..., None])
    return values.flatten(-2).transpose(-2, -1)


def _write(tensors: Iterator[tuple[str, Any]], target: Path) -> None:
    """Shards of at most about `SHARD_BYTES`, and their index."""
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    shards: list[Path] = []
    placed: dict[str, Path] = {}
    held: dict[str, Any] = {}

    def flush() -> None:
        if held:
            path = target / f"model-{len(shards) + 1:05}.safetensors"
            save_file(held, path, metadata={"format": "pt"})
            shards.append(path)
            placed.update(dict.fromkeys(held, path))
            held.clear()

    size = 0
    for name, tensor in tensors:
        if size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        held[name] = tensor
        size += tensor.nbytes
    flush()
    if len(shards) == 1:
        shards[0].rename(target / SINGLE)
        return
    index = {"metadata": {}, "weight_map": {name: path.name for name, path in placed.items()}}
    (target / INDEX).write_text(json.dumps(index), "utf-8")
