"""Encoder checkpoints as packages: pooling, masks, bounds, and padding that changes nothing."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import make_encoder, make_qwen3
from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime import parity, verify
from lmaas.tasks.embedding.serving import unit
from lmaas.types import Manifest, ParityReport, PushOptions

SMALL: dict[str, Any] = {
    "vocab_size": 209,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "num_labels": 1,
}
IDS = np.array([[2, 20, 21, 22, 3], [2, 30, 3, 0, 0]])
MASK = (IDS > 0).astype(np.int64)


def build(source: Path, target: Path, task: str) -> tuple[Manifest, ParityReport]:
    """The package, and what the verifying child says of it."""
    manifest = checkpoint.build(source, target, PushOptions(name="m", task=task))
    told = verify.run(msgspec.json.encode({"folder": str(target)}))
    report = msgspec.json.decode(told, type=verify.Reply).parity
    parity.require(report)
    assert {check.batch_size for check in report.checks} == {1, 2, 3}
    return manifest, report


def run(package: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    from lmaas.runtime import ov

    config = {"INFERENCE_PRECISION_HINT": "f32"}
    path = package / "compiled" / "model.xml"
    return np.array(ov.load().Core().compile_model(path, "CPU", config)([ids, mask])[0])


def hidden(source: Path, ids: np.ndarray) -> np.ndarray:
    """The source's vectors for one text without padding."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    with torch.inference_mode():
        return np.asarray(model(input_ids=torch.from_numpy(ids))[0][0].numpy())


def sentence_transformers(source: Path, mode: str, *, normalize: bool) -> None:
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    named = [{"type": f"sentence_transformers.models.{module}"} for module in modules]
    (source / "modules.json").write_text(json.dumps(named))
    (source / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", mode)}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(modes))


@pytest.mark.parametrize(
    ("mode", "pooling", "normalize"),
    [("mean_tokens", "mean", False), ("cls_token", "cls", True), ("lasttoken", "last", False)],
)
def test_pooling_as_sentence_transformers_files_say(
    tmp_path: Path, mode: str, pooling: str, normalize: bool
) -> None:
    source = make_encoder(tmp_path / "source")
    sentence_transformers(source, mode, normalize=normalize)
    manifest, _ = build(source, tmp_path / "package", "embedding")
    spec = manifest.signature.language
    assert spec is not None
    assert (spec.pooling, spec.normalize, spec.dimensions) == (pooling, normalize, 32)
    got = run(tmp_path / "package", IDS, MASK)
    for row, ids in zip(got, (IDS[:1], IDS[1:, :3]), strict=True):
        vectors = hidden(source, ids)
        want = {"mean": vectors.mean(0), "cls": vectors[0], "last": vectors[-1]}[pooling]
        want = unit(want[None])[0] if normalize else want
        np.testing.assert_allclose(row, want, atol=1e-5)


def test_a_plain_encoder_gives_the_mean_at_length_one(tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "source")
    manifest, _ = build(source, tmp_path / "package", "embedding")
    got = run(tmp_path / "package", IDS[:1], MASK[:1])
    np.testing.assert_allclose(got, unit(hidden(source, IDS[:1]).mean(0)[None]), atol=1e-5)
    assert manifest.num_parameters > 10_000
    assert {path.name for path in (tmp_path / "package" / "compiled").iterdir()} == {
        "config.json", "model.bin", "model.xml", "tokenizer.json"
    }  # fmt: skip


def test_a_reader_from_left_to_right_gives_its_last_token(tmp_path: Path) -> None:
    source = make_qwen3(tmp_path / "source")
    manifest, _ = build(source, tmp_path / "package", "embedding")
    assert manifest.signature.language is not None
    assert manifest.signature.language.pooling == "last"
    got = run(tmp_path / "package", IDS, MASK)
    np.testing.assert_allclose(got[1:], unit(hidden(source, IDS[1:, :3])[-1:]), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "more", "context"),
    [
        ("Roberta", {"pad_token_id": 1}, 128),
        ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, 128),
        ("ModernBert", {"local_attention": 8, "global_attn_every_n_layers": 2}, 128),
        ("Mistral", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}, 128),
    ],
)
def test_families(tmp_path: Path, family: str, more: dict[str, Any], context: int) -> None:
    """Positions that depend on padding, other masks, layers that look only so far."""
    import torch
    import transformers

    source = make_encoder(tmp_path / "source")
    config = getattr(transformers, f"{family}Config")(**({"pad_token_id": 0} | SMALL | more))
    torch.manual_seed(0)
    getattr(transformers, f"{family}Model")(config).eval().save_pretrained(source)
    manifest, _ = build(source, tmp_path / "package", "embedding")
    assert manifest.signature.language is not None
    assert manifest.signature.language.context_length == context
    ids = np.random.default_rng(0).integers(100, 200, (1, 40))
    padded = np.pad(ids, ((0, 0), (0, 24)))
    mask = np.pad(np.ones_like(ids), ((0, 0), (0, 24)))
    vectors = hidden(source, ids)
    want = vectors[-1] if family == "Mistral" else vectors.mean(0)
    got = run(tmp_path / "package", padded, mask)
    np.testing.assert_allclose(got[0], unit(want[None])[0], atol=1e-5)


def test_a_reranker_scores_pairs(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = make_encoder(tmp_path / "source", labels=1)
    manifest, _ = build(source, tmp_path / "package", "text-ranking")
    names = [tensor.name for tensor in manifest.signature.inputs]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]
    tokens = AutoTokenizer.from_pretrained(source)("a fox", "the dog", return_tensors="np")
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.inference_mode():
        want = model(**{name: torch.from_numpy(v) for name, v in tokens.items()})[0].numpy()
    from lmaas.runtime import ov

    path = tmp_path / "package" / "compiled" / "model.xml"
    compiled = ov.load().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled([tokens[name] for name in names])[0], want, atol=1e-6)


def test_the_context_is_the_least_that_is_told(tmp_path: Path) -> None:
    source = make_encoder(tmp_path / "source")
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    manifest, _ = build(source, tmp_path / "package", "embedding")
    assert manifest.signature.language is not None
    assert manifest.signature.language.context_length == 20


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("dense", "Dense"),
        ("max", "max_tokens"),
        ("two", "cls_token"),
        ("no pooling", "1_Pooling"),
        ("modules", "modules.json"),
        ("sentence", "sentence_bert_config.json"),
        ("labels", "2 labels"),
        ("head", "classifier"),
        ("vocabulary", "tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, change: str, names: str) -> None:
    source = make_encoder(tmp_path / "source", labels=2 if change == "labels" else 0)
    sentence_transformers(
        source, "max_tokens" if change == "max" else "mean_tokens", normalize=True
    )
    task = "text-ranking" if change in ("labels", "head") else "embedding"
    match change:
        case "dense":
            kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.Dense"]
            modules = json.dumps([{"type": kind} for kind in kinds])
            (source / "modules.json").write_text(modules)
        case "two":
            both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
            (source / "1_Pooling" / "config.json").write_text(json.dumps(both))
        case "no pooling":
            (source / "1_Pooling" / "config.json").unlink()
        case "modules":
            (source / "modules.json").write_text('[{"path": ""}]')
        case "sentence":
            (source / "sentence_bert_config.json").write_text("[1]")
        case "vocabulary":
            path = source / "tokenizer.json"
            told = json.loads(path.read_bytes())
            more = {f"more{n}": len(told["model"]["vocab"]) + n for n in range(9)}
            told["model"]["vocab"] |= more
            path.write_text(json.dumps(told))
    with pytest.raises(ModelRefused, match=names):
        checkpoint.build(source, tmp_path / "package", PushOptions(name="m", task=task))
