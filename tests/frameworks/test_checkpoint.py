"""Hugging Face checkpoints in: what is registered of them, and what is refused by name."""

import asyncio
import json
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checkpoints import make_llama, make_qwen3, tokenizer
from lmaas.config import load_settings
from lmaas.errors import InvalidInput, LMaaSError, MissingExtra, ModelRefused
from lmaas.frameworks import checkpoint, importer, refuse_checkpoint
from lmaas.frameworks.causal import context_length
from lmaas.generation_types import ChatMessage, Tool
from lmaas.runtime.language.template import Template
from lmaas.service import Service
from lmaas.types import TENANT, CompressOptions, ModelVersion, PushOptions, VariantName


def push(home: Path, folder: Path, **options: Any) -> ModelVersion:
    with closing(Service(load_settings({"home": str(home)}))) as service:
        given = PushOptions(name="tiny", **options)
        return asyncio.run(service.catalog.push(TENANT, folder, given))


def compress(home: Path, to: VariantName) -> None:
    with closing(Service(load_settings({"home": str(home)}))) as service:
        asyncio.run(service.compressor.compress(TENANT, "tiny", CompressOptions(to=to)))


def make_causal(folder: Path, config: Any, model: Any) -> Path:
    """A checkpoint of another architecture, with the tokenizer of the tests."""
    tokens = tokenizer()
    model(
        config(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    ).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("qwen") / "checkpoint")


@pytest.fixture
def copy(qwen: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be damaged."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for path in qwen.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def load(folder: Path, target: Path) -> None:
    """The import as the sandboxed child does it."""
    request = importer.ImportRequest(
        path=str(folder), folder=str(target / "package"), options=PushOptions(name="m")
    )
    importer.run(msgspec.json.encode(request))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(path.read_text("utf-8"))
    change(told)
    path.write_text(json.dumps(told), "utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_is_registered(qwen: Path, tmp_path: Path) -> None:
    (qwen / "convert.py").write_text("raise SystemExit")
    version = push(tmp_path, qwen)
    assert version.manifest.task == "text-generation"
    assert version.manifest.num_parameters == 102_208
    spec = version.manifest.signature.language
    assert spec is not None
    assert spec.architecture == "Qwen3ForCausalLM"
    assert spec.context_length == 512
    assert spec.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert spec.chat_template
    assert spec.reasoning
    assert spec.tools
    assert len(spec.stop_token_ids) == 1
    assert version.parity.passed("f32")
    assert all(check.top1_agreement == 1.0 for check in version.parity.checks)
    paths = {file.path for file in version.files}
    assert not any(path.endswith(".py") for path in paths)
    assert {"source/model.safetensors", "source/config.json", "compiled/openvino_model.xml",
            "compiled/openvino_tokenizer.xml", "compiled/openvino_detokenizer.xml",
            "compiled/tokenizer.json", "compiled/chat_template.jinja"} <= paths  # fmt: skip


def test_weights_keep_their_type_and_shards_are_read(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").is_file()
    version = push(tmp_path / "home", folder, task="text-generation")
    size = {file.path: file.size_bytes for file in version.files}
    weights = 2 * version.manifest.num_parameters
    assert 0.9 * weights < size["compiled/openvino_model.bin"] < 1.1 * weights
    assert version.parity.passed("f32")
    with pytest.raises(InvalidInput, match="weights are bf16 already"):
        compress(tmp_path / "home", "bf16")


def test_an_architecture_that_does_not_compile_is_kept_as_it_is(tmp_path: Path) -> None:
    from transformers import Olmo3Config, Olmo3ForCausalLM

    folder = make_causal(tmp_path / "olmo", Olmo3Config, Olmo3ForCausalLM)
    version = push(tmp_path / "home", folder)
    assert "not know the architecture" in version.manifest.lineage.recipe["not_compiled"]
    assert {file.role for file in version.files} == {"source", "sample"}
    spec = version.manifest.signature.language
    assert spec is not None
    assert spec.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    with pytest.raises(InvalidInput, match="was not compiled"):
        compress(tmp_path / "home", "int8")


def test_another_task_than_the_architecture_has_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be 'tensor'; its tasks are .*text-generation"):
        push(tmp_path, copy, task="tensor")
    with pytest.raises(InvalidInput, match="takes no labels"):
        push(tmp_path, copy, labels=("a",))


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}, "model_type": "nobody"},
         "config.json has auto_map"),
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}, "architectures": ["MyOwnForCausalLM"]},
         "config.json has auto_map"),
        ("config.json", {"model_type": 3, "text_config": {"auto_map": {"AutoModel": "x.Y"}}},
         "has auto_map"),
        ("config.json", {"custom_generate": "x"}, "config.json has custom_generate"),
        ("config.json", {"attn_implementation": "some/kernel"}, "takes its attn_implementation"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}},
         r"quantised already \('bitsandbytes'\), in a way that is not read; read are fp8"),
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 3}},
         "with 3 bits"),
        ("config.json", {"quantization_config": {"quant_method": "awq", "version": "gemv"}},
         "as 'gemv'"),
        ("config.json", {"quantization_config": ["fp8"]}, "must hold an object"),
        ("config.json", {"model_type": "nobody"}, r"config\.json is not valid: .*nobody"),
        ("config.json", {"architectures": []}, "must name one architecture"),
        ("config.json", {"architectures": ["Something"]}, "No task is known"),
        ("config.json", {"num_hidden_layers": 10**9}, "1000000000 layers"),
        ("config.json", {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
         r"lacks \d+ missing tensors"),
        ("config.json", {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
         r"has \d+ unexpected tensors"),
        ("config.json", {"num_hidden_layers": 1}, "must be equal to the number of layer types"),
        ("config.json", {"hidden_size": 32}, "cannot be loaded|misshapes"),
        ("config.json", {"num_attention_heads": 0}, "cannot be loaded"),
        ("config.json", {"eos_token_id": 10**6}, "stop token 1000000 is outside"),
    ],
)  # fmt: skip
def test_a_config_that_is_refused(
    copy: Path, tmp_path: Path, file: str, change: dict[str, Any], told: str
) -> None:
    change_json(copy / file, lambda config: config.update(change))
    with pytest.raises(LMaaSError, match=told) as caught:
        load(copy, tmp_path)
    assert isinstance(caught.value, InvalidInput)


def test_code_that_transformers_would_not_run_is_left_behind(copy: Path, tmp_path: Path) -> None:
    """Phi-3 names code of its own, but transformers has the type itself."""
    bait = tmp_path / "bait"
    (copy / "modeling.py").write_text(f"open({str(bait)!r}, 'w')\n")
    for name, kind in (("config", "AutoModelForCausalLM"), ("tokenizer_config", "AutoTokenizer")):
        mapped: dict[str, Any] = {"auto_map": {kind: "modeling.X"}}
        change_json(copy / f"{name}.json", partial(dict.update, **mapped))
    load(copy, tmp_path)
    kept = list((tmp_path / "package").rglob("*"))
    assert not bait.exists()
    assert not [path for path in kept if path.suffix == ".py"]
    for path in kept:
        assert path.suffix != ".json" or "auto_map" not in path.read_text()


def test_tensors_that_are_missing_or_left_over_are_named(copy: Path, tmp_path: Path) -> None:
    kept = (copy / "model.safetensors").read_bytes()
    change_weights(copy, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ModelRefused, match=r"missing.*: model\.norm\.weight"):
        load(copy, tmp_path / "a")
    (copy / "model.safetensors").write_bytes(kept)
    change_weights(copy, lambda tensors: tensors.update(extra=np.zeros(3, np.float32)))
    with pytest.raises(ModelRefused, match=r"unexpected.*: extra"):
        load(copy, tmp_path / "b")


def test_a_vocabulary_larger_than_the_embedding_is_refused(copy: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(copy)
    tokens.add_tokens([f"<new_{number}>" for number in range(5)])
    tokens.save_pretrained(copy)
    with pytest.raises(ModelRefused, match="the model's embedding has"):
        load(copy, tmp_path)


def test_a_checkpoint_without_a_tokenizer_is_refused(copy: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(ModelRefused, match="tokenizer"):
        load(copy, tmp_path)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{% if %}",
    ],
)
def test_a_template_that_does_not_render_is_refused(
    copy: Path, tmp_path: Path, template: str
) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelRefused, match="chat template"):
        load(copy, tmp_path)


def test_pickles_alone_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin, which may run code"):
        load(copy, tmp_path)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(ModelRefused, match="has no weights"):
        load(copy, tmp_path)


def test_a_link_that_leaves_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copy / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelRefused, match=r"README\.md links out of the folder"):
        load(copy, tmp_path)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(*offsets: int, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "header claims"),
        (b"\x01\x02", "header claims"),
        (safetensors({}, length=1 << 40), "header claims 1099511627776 bytes"),
        (safetensors({}, b"abc", length=4), "no valid header"),
        (safetensors(b"[" * 100_000), "no valid header"),
        (safetensors([]), "no valid header"),
        (safetensors(b'{"a": {}, "a": {}}'), "twice"),
        (safetensors({"a": 3}), "no valid shape"),
        (safetensors({"a": tensor(0, 4, dtype="F4")}, b"1234"), "dtype 'F4'"),
        (safetensors({"a": tensor(0, 4, dtype=["F32"])}, b"1234"), "dtype"),
        (safetensors({"a": tensor(0, 4, shape=[-1])}, b"1234"), "no valid shape"),
        (safetensors({"a": tensor(0, 4, shape=[True])}, b"1234"), "no valid shape"),
        (safetensors({"a": tensor(0, 4, shape=[1 << 61, 1 << 61])}, b"1234"), "does not take"),
        (safetensors({"a": tensor(4, 0)}, b"1234"), "does not take"),
        (safetensors({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "overlap"),
        (safetensors({"a": tensor(4, 8)}, b"12345678"), "leave a gap"),
        (safetensors({"a": tensor(0, 4)}, b"12"), "has 2 bytes of data"),
        (safetensors({"a": tensor(0, 4)}, b"123456"), "has 6 bytes of data"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match=told):
        refuse_checkpoint.header(path)


@pytest.mark.parametrize(
    ("placed", "told"),
    [
        ({"a": "one.safetensors"}, r"one\.safetensors is missing"),
        ({"a": "../two.safetensors"}, "no shard of the folder"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "says that 'b'"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"a": 3}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, placed: Any, told: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "two.safetensors").write_bytes(safetensors({"a": tensor(0, 4)}, b"1234"))
    index = {"weight_map": placed}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelRefused, match=told):
        refuse_checkpoint.check(tmp_path)


def test_a_config_that_is_no_json_is_refused(copy: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", "[" * 100_000):
        (copy / "config.json").write_text(text)
        with pytest.raises(ModelRefused, match=r"config\.json"):
            load(copy, tmp_path)


def test_a_missing_extra_is_named(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError(name="transformers")

    monkeypatch.setattr(checkpoint, "load_tokenizer", absent)
    with pytest.raises(MissingExtra, match="needs transformers") as caught:
        load(qwen, tmp_path)
    assert "lmaas[language]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        (None, 4096),
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),
        ({"rope_type": "linear", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
    ],
)
def test_the_context_length_counts_rope_scaling(rope: Any, length: int) -> None:
    class Config:
        max_position_embeddings = 4096
        rope_parameters = rope

    assert context_length(Config()) == length


def test_all_chat_templates_are_kept(copy: Path, tmp_path: Path) -> None:
    """A checkpoint may have one of its own for conversations with tools."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(copy)
    tokens.chat_template = {"default": "plain", "tool_use": "{{ tools | tojson }}"}
    tokens.save_pretrained(copy)
    checkpoint.keep(copy, tmp_path / "kept")
    template = Template.load(tmp_path / "kept")
    assert template is not None
    assert template.takes_tools
    tools = (Tool(name="f"),)
    hello = (ChatMessage(role="user", content="hello"),)
    assert template.render(hello) == "plain"
    assert '"name": "f"' in template.render(hello, tools)
