"""CTranslate2's Whisper files: read with the same values, refused where they lie."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from lmaas.errors import ModelRefused
from lmaas.frameworks import ctranslate2
from lmaas.frameworks.ctranslate2 import SPECIAL, Weights, is_folder, make_checkpoint

WIDTH, FFN, BINS, WORDS, FRAMES, TOKENS, HEADS = 8, 16, 4, 20, 6, 10, 2
IDS = {"f4": 0, "i1": 1, "i2": 2, "i4": 3, "f2": 4}


def tensors(kind: str = "f4") -> dict[str, np.ndarray]:
    """A model of one layer a side, its products in numbers of this kind."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int) -> None:
        found[name] = rng.standard_normal(shape).astype(np.float32)

    def product(name: str, out: int, into: int, *, keys: slice | None = None) -> None:
        put(f"{name}/weight", out, into)
        put(f"{name}/bias", out)
        if keys is not None:
            found[f"{name}/bias"][keys] = 0

    def norm(name: str) -> None:
        put(f"{name}/gamma", WIDTH)
        put(f"{name}/beta", WIDTH)

    put("encoder/conv1/weight", WIDTH, BINS, 3)
    put("encoder/conv1/bias", WIDTH)
    put("encoder/conv2/weight", WIDTH, WIDTH, 3)
    put("encoder/conv2/bias", WIDTH)
    put("decoder/embeddings/weight", WORDS, WIDTH)
    put("encoder/position_encodings/encodings", FRAMES, WIDTH)
    put("decoder/position_encodings/encodings", TOKENS, WIDTH)
    for side in ("encoder", "decoder"):
        found[f"{side}/num_heads"] = np.array(HEADS, np.int16)
        norm(f"{side}/layer_norm")
        layer = f"{side}/layer_0"
        for part in ("self_attention", "ffn", *(("attention",) if side == "decoder" else ())):
            norm(f"{layer}/{part}/layer_norm")
        product(f"{layer}/self_attention/linear_0", 3 * WIDTH, WIDTH,
                keys=slice(WIDTH, 2 * WIDTH))  # fmt: skip
        product(f"{layer}/self_attention/linear_1", WIDTH, WIDTH)
        product(f"{layer}/ffn/linear_0", FFN, WIDTH)
        product(f"{layer}/ffn/linear_1", WIDTH, FFN)
    product("decoder/layer_0/attention/linear_0", WIDTH, WIDTH)
    product("decoder/layer_0/attention/linear_1", 2 * WIDTH, WIDTH, keys=slice(0, WIDTH))
    product("decoder/layer_0/attention/linear_2", WIDTH, WIDTH)
    if kind == "f2":
        return {n: a.astype("f2") if a.dtype.kind == "f" else a for n, a in found.items()}
    for name in [n for n in found if n.endswith("/weight") and kind != "f4"]:
        rows = found[name].reshape(len(found[name]), -1)
        if kind == "i1":
            scale = 127 / np.abs(rows).max(1)
            whole = np.rint(rows * scale[:, None])
        else:
            scale = np.float32(1024 / np.abs(rows).max())
            whole = np.rint(rows * scale)
        found[name] = whole.reshape(found[name].shape).astype(kind)
        found[f"{name}_scale"] = np.asarray(scale, np.float32)
    return found


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def written(given: Mapping[str, np.ndarray], spec: str = "WhisperSpec", revision: int = 3) -> bytes:
    told = [struct.pack("<I", 6), text(spec), struct.pack("<II", revision, len(given))]
    for name, array in given.items():
        told += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        told += [struct.pack("<BI", IDS[array.dtype.str[1:]], array.nbytes), array.tobytes()]
    alias = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return b"".join([*told, struct.pack("<I", 1), alias])


def folder(path: Path, data: bytes, config: dict[str, Any] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "model.bin").write_bytes(data)
    told = {"suppress_ids": [1], "suppress_ids_begin": [2], "alignment_heads": [[0, 1]]}
    (path / "config.json").write_text(json.dumps(told | (config or {})))
    names = [*SPECIAL, "<|nospeech|>"]
    added = [{"content": name, "id": 8 + place} for place, name in enumerate(names)]
    (path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {}}))
    return path


@pytest.mark.parametrize(("kind", "most"), [("f4", 0), ("f2", 2e-3), ("i1", 0.02), ("i2", 4e-3)])
def test_every_tensor_has_the_values_that_were_stored(
    tmp_path: Path, kind: str, most: float
) -> None:
    source, true = folder(tmp_path / "ct2", written(tensors(kind))), tensors()
    assert is_folder(source)
    told = make_checkpoint(source, tmp_path / "plain")
    assert ("integers" in told) == (kind[0] == "i")
    made = load_file(tmp_path / "plain" / "model.safetensors")
    layer = "decoder/layer_0"
    for name, expected in {
        "model.encoder.conv2.weight": true["encoder/conv2/weight"],
        "model.decoder.layers.0.self_attn.v_proj.weight": true[
            f"{layer}/self_attention/linear_0/weight"
        ][2 * WIDTH :],
        "model.decoder.layers.0.encoder_attn.k_proj.weight": true[
            f"{layer}/attention/linear_1/weight"
        ][:WIDTH],
        "model.decoder.layers.0.encoder_attn.v_proj.bias": true[f"{layer}/attention/linear_1/bias"][
            WIDTH:
        ],
        "model.decoder.layers.0.final_layer_norm.bias": true[f"{layer}/ffn/layer_norm/beta"],
    }.items():
        np.testing.assert_allclose(made[name].astype(np.float32), expected, atol=most)
    assert "model.decoder.layers.0.self_attn.k_proj.bias" not in made


def test_its_checkpoint_is_one_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    make_checkpoint(folder(tmp_path / "ct2", written(tensors())), tmp_path / "plain")
    _, told = WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "plain", output_loading_info=True
    )
    assert not any(told.values())
    generation = json.loads((tmp_path / "plain" / "generation_config.json").read_bytes())
    assert generation["alignment_heads"] == [[0, 1]]
    assert generation["is_multilingual"] is False


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    other = folder(tmp_path / "other", written(tensors(), spec="TransformerSpec", revision=7))
    assert is_folder(other)
    with pytest.raises(ModelRefused, match=r"TransformerSpec.*revision 7"):
        make_checkpoint(other, tmp_path / "plain")
    (other / "model.bin").write_bytes(b"\x80\x02}")
    assert not is_folder(other)  # a pickle, which is nobody's here


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"encoder/conv1/weight": np.zeros((WIDTH, BINS, 5), np.float32)}, "5 steps"),
        ({"encoder/num_heads": np.array(3, np.int16)}, "3 heads"),
        ({"decoder/layer_0/ffn/linear_1/bias": np.zeros(3, np.float32)}, "shape"),
        (
            {"encoder/layer_0/self_attention/linear_0/bias": np.ones(3 * WIDTH, np.float32)},
            "bias for keys",
        ),
    ],
)
def test_tensors_that_contradict_each_other_are_refused(
    tmp_path: Path, changed: dict[str, np.ndarray], told: str
) -> None:
    source = folder(tmp_path / "ct2", written(tensors() | changed))
    with pytest.raises(ModelRefused, match=told):
        make_checkpoint(source, tmp_path / "plain")


@pytest.mark.parametrize(
    "config",
    [
        {"alignment_heads": [[5, 0]]},
        {"alignment_heads": [[0]]},
        {"suppress_ids": [WORDS]},
        {"suppress_ids": "all"},
    ],
)
def test_configs_that_contradict_the_weights_are_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    source = folder(tmp_path / "ct2", written(tensors()), config)
    with pytest.raises(ModelRefused, match=next(iter(config))):
        make_checkpoint(source, tmp_path / "plain")


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "ct2", written(tensors()))
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelRefused, match=r"has no tokenizer\.json"):
        make_checkpoint(source, tmp_path / "plain")


WHOLE = written(tensors())


@settings(deadline=None)
@given(at=st.integers(0, 3000), value=st.integers(0, 255), size=st.integers(0, len(WHOLE)))
def test_damaged_files_are_refused_or_read_within_their_bytes(
    at: int, value: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.bin"
    data = bytearray(WHOLE[: size if value % 2 else len(WHOLE)])
    if at < len(data):
        data[at] = value
    path.write_bytes(data)
    try:
        with Weights(path) as weights:
            ctranslate2._sizes(weights)
    except ModelRefused:
        return
