"""Checkpoints that came quantised: the weights that are kept are what the stored numbers mean.

The quantisers here are written apart from the readers, in numpy and with plain loops.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import make_llama
from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint, importer, refuse_checkpoint
from lmaas.types import Manifest, PushOptions

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")

GROUP = 32
AWQ_PLACES = [0, 2, 4, 6, 1, 3, 5, 7]
Tensors = dict[str, Any]


def linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def groups(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers (in, out), zero points and scales (groups, out) of a weight (out, in)."""
    columns = weight.T.reshape(-1, GROUP, weight.shape[0])
    low, high = columns.min(1), columns.max(1)
    scale = ((high - low) / (2**bits - 1)).astype(np.float16)
    zero = np.clip(np.round(-low / scale.astype(np.float32)), 1, 2**bits - 1).astype(np.int64)
    numbers = np.round(columns / scale.astype(np.float32)[:, None]) + zero[:, None]
    return np.clip(numbers, 0, 2**bits - 1).astype(np.int64).reshape(weight.T.shape), zero, scale


def dense(numbers: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> np.ndarray:
    made = np.zeros(numbers.shape, np.float32)
    for row in range(len(numbers)):
        group = row // GROUP
        made[row] = (numbers[row] - zero[group]) * scale[group].astype(np.float32)
    return made.T


def pack(numbers: np.ndarray, bits: int, order: list[int] | None = None) -> np.ndarray:
    """Along the last axis, lowest bits first; `order` says which of each eight goes where."""
    count = 32 // bits
    words = np.zeros((*numbers.shape[:-1], numbers.shape[-1] // count), np.uint32)
    for word in range(words.shape[-1]):
        for place in range(count):
            column = word * count + (order[place] if order else place)
            words[..., word] |= numbers[..., column].astype(np.uint32) << np.uint32(place * bits)
    return words.view(np.int32)


def gptq(name: str, weight: np.ndarray, bits: int, more: int) -> tuple[Tensors, np.ndarray]:
    numbers, zero, scale = groups(weight, bits)
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.qweight": torch.from_numpy(pack(numbers.T, bits).T.copy()),
        f"{stem}.qzeros": torch.from_numpy(pack(zero - more, bits)),
        f"{stem}.scales": torch.from_numpy(scale),
        f"{stem}.g_idx": torch.arange(len(numbers), dtype=torch.int32) // GROUP,
    }, dense(numbers, zero, scale)


def awq(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
    numbers, zero, scale = groups(weight, 4)
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.qweight": torch.from_numpy(pack(numbers, 4, AWQ_PLACES)),
        f"{stem}.qzeros": torch.from_numpy(pack(zero, 4, AWQ_PLACES)),
        f"{stem}.scales": torch.from_numpy(scale),
    }, dense(numbers, zero, scale)


def fp8(name: str, weight: np.ndarray, block: int | None) -> tuple[Tensors, np.ndarray]:
    rows, columns = weight.shape
    size = block or max(weight.shape)
    scale = np.zeros((-(-rows // size), -(-columns // size)), np.float32)
    stored, made = np.zeros_like(weight), np.zeros_like(weight)
    for i in range(len(scale)):
        for j in range(scale.shape[1]):
            part = np.s_[i * size : (i + 1) * size, j * size : (j + 1) * size]
            scale[i, j] = np.abs(weight[part]).max() / 448
            kept = torch.from_numpy(weight[part] / scale[i, j]).to(torch.float8_e4m3fn)
            stored[part] = kept.float().numpy()
            made[part] = stored[part] * scale[i, j]
    kind = "weight_scale_inv" if block else "weight_scale"
    told = torch.from_numpy(scale if block else scale.reshape(()))
    return {
        name: torch.from_numpy(stored).to(torch.float8_e4m3fn),
        f"{name.removesuffix('.weight')}.{kind}": told,
    }, made


KINDS: dict[str, tuple[dict[str, Any], Callable[[str, np.ndarray], tuple[Tensors, np.ndarray]]]] = {
    "gptq 4": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP},
               lambda n, w: gptq(n, w, 4, 1)),
    "gptq 8, v2": ({"quant_method": "gptq", "bits": 8, "group_size": GROUP,
                    "checkpoint_format": "gptq_v2"}, lambda n, w: gptq(n, w, 8, 0)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}, awq),
    "fp8 in blocks": ({"quant_method": "fp8", "weight_block_size": [48, 48]},
                      lambda n, w: fp8(n, w, 48)),
    "fp8": ({"quant_method": "compressed-tensors", "format": "float-quantized"},
            lambda n, w: fp8(n, w, None)),
}  # fmt: skip


def quantise(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """Quantise the checkpoint in `folder`; the dense weights that it means then."""
    from safetensors.torch import load_file, save_file

    told, quantiser = KINDS[kind]
    want: dict[str, np.ndarray] = {}
    stored: Tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if linear(name):
            parts, want[name] = quantiser(name, tensor.float().numpy())
            stored.update(parts)
        else:
            stored[name] = tensor
            want[name] = tensor.float().numpy()
    # The parts of a weight may lie in different files.
    names = sorted(stored)
    (folder / "model.safetensors").unlink()
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: stored[name].contiguous() for name in own}, folder / file)
    placed = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": told, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return want


def build(folder: Path, package: Path) -> Manifest:
    request = importer.ImportRequest(
        path=str(folder), folder=str(package), options=PushOptions(name="m")
    )
    return msgspec.json.decode(importer.run(msgspec.json.encode(request)), type=Manifest)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_their_numbers_mean(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import load_file

    folder = make_llama(tmp_path / "made")
    want = quantise(folder, kind)
    refuse_checkpoint.check(folder)
    told = checkpoint.keep(folder, tmp_path / "kept")
    assert told is not None
    assert "with the same values" in told
    got = load_file(tmp_path / "kept" / "model.safetensors")
    assert set(got) == set(want)
    for name, tensor in got.items():
        np.testing.assert_allclose(tensor.numpy(), want[name], rtol=1e-6, atol=1e-7)
    config = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert "quantization_config" not in config


def test_a_quantised_checkpoint_is_imported_and_compared(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "made", initializer_range=0.12, max_position_embeddings=64)
    quantise(folder, "awq")
    manifest = build(folder, tmp_path / "package")
    assert "came as awq" in manifest.lineage.recipe["weights"]
    assert "not_compiled" not in manifest.lineage.recipe
    stored = msgspec.json.decode(
        (tmp_path / "package" / "manifest.json").read_bytes(), type=Manifest
    )
    assert stored == manifest


def test_experts_in_4_bit_floats(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (2, 6, 64))  # experts, rows, columns
    exponents = rng.integers(118, 130, (2, 6, 2))
    blocks = (codes[..., ::2] | codes[..., 1::2] << 4).reshape(2, 6, 2, 16).astype(np.uint8)
    want = np.zeros((2, 6, 64), np.float32)
    for place in np.ndindex(*want.shape):
        exponent = exponents[place[0], place[1], place[2] // 32]
        want[place] = values[codes[place]] * 2.0 ** (int(exponent) - 127)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_file(
        {
            f"{name}_blocks": torch.from_numpy(blocks),
            f"{name}_scales": torch.from_numpy(exponents.astype(np.uint8)),
            f"{name}_bias": torch.ones(2, 6),
        },
        tmp_path / "model.safetensors",
    )
    config = {"dtype": "float32", "quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuse_checkpoint.check(tmp_path)
    checkpoint.keep(tmp_path, tmp_path / "kept")
    got = load_file(tmp_path / "kept" / "model.safetensors")
    assert set(got) == {name, f"{name}_bias"}
    np.testing.assert_array_equal(got[name].numpy(), want.transpose(0, 2, 1))


def test_parts_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_llama(tmp_path / "made")
    quantise(folder, "awq")
    index = folder / "model.safetensors.index.json"
    index.unlink()
    both = load_file(folder / "a.safetensors") | load_file(folder / "b.safetensors")
    name = "model.layers.0.mlp.up_proj"
    for part, tensor, told in (
        ("scales", None, f"lacks the tensor '{name}.scales'"),
        ("qzeros", torch.zeros(7, 3, dtype=torch.int32), "do not fit"),
    ):
        tensors = {**both, f"{name}.{part}": tensor}
        if tensor is None:
            del tensors[f"{name}.{part}"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ModelRefused, match=told):
            checkpoint.keep(folder, tmp_path / "kept")


def test_8_bit_floats_without_a_word_about_them_are_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "made")
    quantise(folder, "fp8")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefused, match=r"8-bit floats, but config\.json has no quantization"):
        refuse_checkpoint.check(folder)
