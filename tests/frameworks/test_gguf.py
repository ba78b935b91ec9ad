"""GGUF files in: what llama.cpp's users have becomes a checkpoint with the same weights."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from checkpoints import CHATML, tokenizer
from lmaas.errors import ModelRefused
from lmaas.frameworks import gguf, importer
from lmaas.types import Manifest, PushOptions

torch = pytest.importorskip("torch")
library = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def q8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 32: a 16-bit scale and 32 signed bytes; and the weight that they mean."""
    parts = weight.reshape(-1, 32)
    scale = (np.abs(parts).max(1) / 127).astype(np.float16)
    numbers = np.round(parts / scale.astype(np.float32)[:, None]).clip(-127, 127).astype(np.int8)
    stored = np.concatenate(
        [scale.view(np.uint8).reshape(-1, 2), numbers.view(np.uint8)], axis=1
    ).reshape(weight.shape[0], -1)
    meant = numbers.astype(np.float32) * scale.astype(np.float32)[:, None]
    return stored, meant.reshape(weight.shape)


def write(path: Path) -> dict[str, np.ndarray]:
    """A Qwen2-shaped model in 8 bits; the dense weights that it means."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokens = tokenizer()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            initializer_range=0.12, tie_word_embeddings=False,
        )
    )  # fmt: skip
    writer = library.GGUFWriter(path, "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    raw = json.loads(tokens.backend_tokenizer.to_str())
    spelled = sorted(tokens.get_vocab(), key=tokens.get_vocab().__getitem__)
    special = set(tokens.all_special_tokens) | {"<|im_start|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(spelled)
    writer.add_token_types([3 if text in special else 1 for text in spelled])
    writer.add_token_merges([" ".join(merge) for merge in raw["model"]["merges"]])
    writer.add_eos_token_id(tokens.eos_token_id)
    writer.add_chat_template(CHATML)
    want = {}
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        stem, _, kind = rest.rpartition(".")
        other = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }.get(name) or f"blk.{layer}.{NAMES[stem]}.{kind}"
        if weight.ndim == 2:
            stored, want[name] = q8(weight)
            writer.add_tensor(other, stored, raw_dtype=library.GGMLQuantizationType.Q8_0)
        else:
            want[name] = weight
            writer.add_tensor(other, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return want


def build(path: Path, package: Path) -> Manifest:
    request = importer.ImportRequest(
        path=str(path), folder=str(package), options=PushOptions(name="m")
    )
    return msgspec.json.decode(importer.run(msgspec.json.encode(request)), type=Manifest)


@pytest.mark.parametrize("inside", [False, True], ids=["file", "folder"])
def test_a_file_becomes_a_model(tmp_path: Path, inside: bool) -> None:
    from safetensors.torch import load_file

    (tmp_path / "made").mkdir()
    path = tmp_path / "made" / "tiny-Q8_0.gguf"
    want = write(path)
    manifest = build(path.parent if inside else path, tmp_path / "package")
    assert "came as GGUF" in manifest.lineage.recipe["weights"]
    spec = manifest.signature.language
    assert spec is not None
    assert spec.chat_template
    assert spec.context_length == 64
    got = load_file(tmp_path / "package" / "source" / "model.safetensors")
    assert set(got) == set(want)
    for name, tensor in got.items():
        assert tensor.dtype == torch.float16
        np.testing.assert_array_equal(tensor.numpy(), want[name].astype(np.float16))


def test_files_that_are_none_and_folders_with_several(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelRefused, match=r"a\.gguf is no GGUF file"):
        build(path, tmp_path / "package")
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelRefused, match=r"a\.gguf cannot be read"):
        build(path, tmp_path / "package")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelRefused, match="holds 2 GGUF files"):
        gguf.file_of(tmp_path)
