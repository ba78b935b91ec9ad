"""LoRA adapters: by name, with the outputs that merged weights give."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_qwen3
from lmaas.config import Settings
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.adapter import merge
from lmaas.generation_types import GenerateRequest, Sampling
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions

RANK, ALPHA = 4, 8
PROMPT = (5, 6, 7, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("base") / "base")


def make_adapter(folder: Path, base: Path, **config: Any) -> Path:
    """A random adapter of the attention, as peft saves it."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    torch.manual_seed(1)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, weight.shape[1])
            tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    given = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(given))
    return folder


def greedy(folder: Path) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = model.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False)
    return [int(token) for token in made[0, len(PROMPT) :]]


def test_an_adapter_is_a_model_by_name(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    merge(adapter, base, tmp_path / "merged")
    expected = greedy(tmp_path / "merged")
    assert expected != greedy(base)

    async def run() -> tuple[str, str]:
        service = Service(Settings(home=str(tmp_path / "home")))
        key, _ = service.create_key(TENANT, "k", ("call",))
        async with service.running():
            await service.catalog.push(TENANT, base, PushOptions(name="plain"))
            tuned = await service.catalog.push(
                TENANT, adapter, PushOptions(name="tuned", base="plain")
            )
            request = GenerateRequest(
                prompt=PROMPT, sampling=Sampling(max_tokens=8, temperature=0, ignore_eos=True)
            )
            answer = await service.calls.generate(
                key, "tuned", request, endpoint="t", request_id="1"
            )
            text = "".join([delta.text async for delta in answer])
        service.close()
        return str(tuned.manifest.lineage.parent), text

    parent, text = asyncio.run(run())
    assert parent == "plain:1"
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(base / "tokenizer.json"))
    assert text == raw.decode(expected, skip_special_tokens=True)


def test_scaling_by_rank_is_stable_where_it_says_so(tmp_path: Path, base: Path) -> None:
    from safetensors.numpy import load_file

    changes = []
    for number, rs in enumerate((False, True)):
        adapter = make_adapter(tmp_path / f"a{number}", base, use_rslora=rs)
        merge(adapter, base, tmp_path / f"m{number}")
        before, after = (
            load_file(folder / "model.safetensors") for folder in (base, tmp_path / f"m{number}")
        )
        name = next(name for name in before if name.endswith("q_proj.weight"))
        changes.append(after[name] - before[name])
    assert changes[1] == pytest.approx(changes[0] * 2, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"r": 0}, "rank"),
        ({"auto_map": {"x": "y"}}, "auto_map"),
    ],
)
def test_other_kinds_are_refused(
    tmp_path: Path, base: Path, config: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelRefused, match=text):
        merge(make_adapter(tmp_path / "a", base, **config), base, tmp_path / "m")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(tmp_path / "a", base)
    narrow = make_qwen3(tmp_path / "narrow", hidden_size=32)
    with pytest.raises(ModelRefused, match="x"):
        merge(adapter, narrow, tmp_path / "m")
    short = make_qwen3(tmp_path / "short", num_hidden_layers=1)
    with pytest.raises(ModelRefused, match="does not have"):
        merge(adapter, short, tmp_path / "m2")


def test_a_base_is_needed(tmp_path: Path, base: Path) -> None:
    service = Service(Settings(home=str(tmp_path / "home")))
    adapter = make_adapter(tmp_path / "a", base)
    with pytest.raises(InvalidInput, match="adapter"):
        asyncio.run(service.catalog.push(TENANT, adapter, PushOptions(name="x")))
    service.close()
