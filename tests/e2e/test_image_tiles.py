"""LLaVA-NeXT on a real server: images in tiles, or at less cost where that is asked for."""

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from llava import GRIDS, make_llava
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, photo, serving

TOKENS = 10
WIDE, TALL = photo(1, (100, 40)), photo(2, (33, 77))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("tiled"), tiled=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with closing(Service(Settings(home=str(home)))) as service:
        version = asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="next")))
        assert version.manifest.task == "image-text-to-text"
    with serving(home, precision="f32") as running:
        yield running


def ask(server: Running, *files: bytes, detail: str = "auto") -> httpx.Response:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "what is it?"}]
    for file in files:
        url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url, "detail": detail}})
    body = {"model": "next", "messages": [{"role": "user", "content": parts}],
            "max_tokens": TOKENS, "temperature": 0}  # fmt: skip
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=server.caller, timeout=60)


def expected(source: Path, file: bytes) -> tuple[str, int]:
    """The source's greedy answer, and the tokens of its prompt."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(source)
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=[list(grid) for grid in GRIDS],
        ),
        tokenizer=tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    prompt = tokens.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    image = Image.open(io.BytesIO(file)).convert("RGB")
    given = processor(images=[image], text=prompt, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)
    length = given["input_ids"].shape[1]
    return str(tokens.decode(made[0, length:], skip_special_tokens=True)), length


@pytest.mark.parametrize("file", [WIDE, TALL], ids=["wide", "tall"])
def test_answers_and_tokens_are_the_source_s(server: Running, source: Path, file: bytes) -> None:
    told = ask(server, file)
    assert told.status_code == 200, told.text
    text, tokens = expected(source, file)
    assert told.json()["choices"][0]["message"]["content"] == text
    assert told.json()["usage"]["prompt_tokens"] == tokens
    assert ask(server, file, detail="high").json()["choices"] == told.json()["choices"]


def test_low_detail_costs_less(server: Running) -> None:
    none = ask(server).json()["usage"]["prompt_tokens"]
    low = ask(server, WIDE, detail="low").json()["usage"]["prompt_tokens"]
    assert low == none + 16 + 1
    assert ask(server, WIDE).json()["usage"]["prompt_tokens"] > low
    both = ask(server, WIDE, TALL)
    assert both.status_code == 200, both.text
    answer = ask(server, WIDE, detail="original")
    assert answer.status_code == 400
    assert "in tiles of 32 x 32 pixels" in answer.json()["error"]["message"]
