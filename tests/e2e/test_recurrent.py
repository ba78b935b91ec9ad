"""A model with a state of another kind than keys and values, pushed, served and asked."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from checkpoints import SIZES, tokenizer
from lmaas.client import Client
from lmaas.config import load_settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LFM2: short convolutions between layers of attention."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    made = tmp_path_factory.mktemp("recurrent") / "checkpoint"
    tokens = tokenizer()
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=len(tokens), eos_token_id=tokens.eos_token_id, bos_token_id=None,
        pad_token_id=tokens.pad_token_id, layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False, initializer_range=0.12, **SIZES,
    )  # fmt: skip
    Lfm2ForCausalLM(config).save_pretrained(made)
    tokens.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home") / "home"
    with closing(Service(load_settings({"home": str(home)}))) as service:
        version = asyncio.run(service.catalog.push(TENANT, folder, PushOptions(name="tiny")))
    spec = version.manifest.signature.language
    assert spec is not None
    assert spec.state_bytes > 0
    assert version.parity.passed("f32")
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.call_key, max_retries=0) as made:
        yield made


def test_its_answers_are_the_source_s(client: openai.OpenAI, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [[5, 6, 7], list(range(3, 90)), [40]]
    told = client.completions.create(model="tiny", prompt=prompts, max_tokens=12, temperature=0)
    for prompt, choice in zip(prompts, told.choices, strict=True):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        want = tokenizer().decode(made[0, len(prompt) :], skip_special_tokens=True)
        assert choice.text == want


def test_a_prompt_is_scored_and_a_stream_is_left(client: openai.OpenAI, server: Running) -> None:
    scored = client.completions.create(
        model="tiny", prompt=[5, 6, 7, 8], max_tokens=0, echo=True, logprobs=1
    )
    logprobs: Any = scored.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    stream = client.completions.create(
        model="tiny", prompt=[5, 6], max_tokens=400, temperature=0, stream=True
    )
    next(iter(stream))
    stream.close()
    assert client.completions.create(model="tiny", prompt=[5], max_tokens=3).usage
    with Client(server.url, server.key) as own:
        (worker,) = own.ps()
    assert worker.engine == "torch"
    assert "KV cache" in worker.reason
