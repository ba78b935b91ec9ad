"""Language models are compared through the engine that serves them, at lengths that tell."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import make_llama, make_qwen3, tokenizer
from lmaas.errors import InvalidInput, LMaaSError, ModelRefused, ParityFailed
from lmaas.frameworks import causal_sample, importer
from lmaas.frameworks.causal_sample import boundaries
from lmaas.runtime import verify
from lmaas.runtime.language import references
from lmaas.runtime.language.torch_model import TorchModel
from lmaas.types import Manifest, ParityReport, PushOptions

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")


def make(folder: Path, kind: str, **sizes: Any) -> Path:
    tokens = tokenizer()
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokens), eos_token_id=tokens.eos_token_id, bos_token_id=None, **sizes
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def build(folder: Path, package: Path) -> Manifest:
    request = importer.ImportRequest(
        path=str(folder), folder=str(package), options=PushOptions(name="m")
    )
    return msgspec.json.decode(importer.run(msgspec.json.encode(request)), type=Manifest)


def verified(package: Path) -> ParityReport:
    body = msgspec.json.encode(verify.VerifyRequest(folder=str(package)))
    return msgspec.json.decode(verify.run(body), type=verify.Reply).parity


SMALL: dict[str, Any] = {"initializer_range": 0.12}


def test_a_compiled_form_that_is_wrong_is_left_out(tmp_path: Path) -> None:
    """GPT-Neo: OpenVINO's pipeline knows no local window, which short prompts do not show."""
    folder = make(
        tmp_path / "made", "GPTNeo", hidden_size=64, num_layers=2, num_heads=4, window_size=48,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=256, **SMALL,
    )  # fmt: skip
    manifest = build(folder, tmp_path / "package")
    why = manifest.lineage.recipe["not_compiled"]
    assert "its compiled form gives other answers: openvino-genai: 45 tokens" in why
    assert not (tmp_path / "package" / "compiled").exists()
    report = verified(tmp_path / "package")
    assert report.passed("f32")
    assert all(check.name.startswith("torch: ") for check in report.checks)
    assert max(check.max_abs_error for check in report.checks if check.precision == "f32") < 1e-4


def test_what_is_compared(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "made", initializer_range=0.12, max_position_embeddings=700)
    manifest = build(folder, tmp_path / "package")
    assert "not_compiled" not in manifest.lineage.recipe
    report = verified(tmp_path / "package")
    names = [check.name for check in report.checks if check.precision == "f32"]
    alone = [f"openvino-genai: {n} tokens" for n in (1, 2, 7, 40, 200, 509, 521, 693)]
    assert names == [
        *alone, "openvino-genai: 8 at once", "openvino-genai: 8 at once, 16-bit cache"
    ]  # fmt: skip
    assert report.notes == ()
    exact = [check for check in report.checks if check.name in alone]
    assert max(check.max_abs_error for check in exact) < 1e-4


def test_weights_that_were_changed_are_found(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "made", initializer_range=0.12, max_position_embeddings=64)
    build(folder, tmp_path / "package")
    path = tmp_path / "package" / "compiled" / "openvino_model.bin"
    data = bytearray(path.read_bytes())
    weights = np.frombuffer(data, np.float32, 439 * 64)
    weights *= 1.03
    path.write_bytes(data)
    with pytest.raises(ParityFailed, match="not those of its source"):
        verified(tmp_path / "package")


def test_a_source_that_its_engine_cannot_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is registered that cannot answer: here the torch engine alone is wrong."""
    folder = make(
        tmp_path / "made", "Olmo3", hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, **SMALL,
    )  # fmt: skip
    build(folder, tmp_path / "package")
    forward = TorchModel.forward

    def late(self: TorchModel, slab: Any, tokens: Any, **more: Any) -> Any:
        return forward(self, slab, tokens, **more) * (1.02 if slab.columns > 41 else 1)

    monkeypatch.setattr(TorchModel, "forward", late)
    with pytest.raises(ParityFailed, match=r"torch: 40 tokens: log-probabilities differ"):
        verified(tmp_path / "package")


def test_an_architecture_that_no_engine_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "made", "OpenAIGPT", n_embd=64, n_layer=2, n_head=4, n_positions=64)
    with pytest.raises(ModelRefused, match="No engine here runs OpenAIGPTLMHeadModel") as caught:
        build(folder, tmp_path / "package")
    assert "lmaas models connect" in str(caught.value.hint)


def test_what_would_cost_too_much_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_sample, "BUDGET_TOKENS", 300)
    folder = make_llama(tmp_path / "made", max_position_embeddings=64)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    build(folder, tmp_path / "package")
    (note,) = verified(tmp_path / "package").notes
    assert "300 tokens: prompts of 521 tokens (beyond the pieces" in note
    assert "4089 tokens (the whole context)" in note


def test_boundaries_are_found_wherever_a_config_has_them() -> None:
    config = {
        "max_window_layers": 28,
        "sliding_window": 64,
        "window_size": None,
        "rope_parameters": {"original_max_position_embeddings": 128},
        "attention_chunk_size": 1 << 20,
        "hidden_size": 256,
    }
    assert boundaries(config, 1000) == {
        64: "sliding_window 64",
        128: "original_max_position_embeddings 128",
    }


def test_a_sample_that_lies_is_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "made", max_position_embeddings=64)
    manifest = build(folder, tmp_path / "package")
    spec = manifest.signature.language
    assert spec is not None
    sample = tmp_path / "package" / "sample.safetensors"
    stored, _ = references.read(sample, spec)
    first = stored[0]
    for changed, told in (
        ({"ids": first.ids + 10**6}, "outside the vocabulary"),
        ({"logprobs": first.logprobs * np.nan}, "no numbers"),
        ({"logprobs": first.logprobs[:1]}, "no log-probabilities"),
        ({"ids": first.ids[:1]}, "no prompts"),
    ):
        references.write(sample, [msgspec.structs.replace(first, **changed)], ())
        with pytest.raises(InvalidInput, match=told):
            references.read(sample, spec)
    references.write(sample, [], ())
    with pytest.raises(InvalidInput, match="holds no prompts"):
        references.read(sample, spec)
    sample.write_bytes(b"")
    with pytest.raises(LMaaSError, match="cannot be read"):
        verified(tmp_path / "package")
