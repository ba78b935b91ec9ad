"""Pictures in conversations: what is served is what the checkpoint says in transformers."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from servers import Running, photo

TOKENS = 12


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url_of(data), **more}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def ask(eyes: Running, messages: list[dict[str, Any]], **more: Any) -> httpx.Response:
    body = {"model": "eyes", "messages": messages, "max_tokens": TOKENS, "temperature": 0} | more
    url = f"{eyes.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=eyes.caller, timeout=60)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


class Source:
    """The checkpoint in transformers."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.tokens = AutoTokenizer.from_pretrained(folder)
        edges = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        self.processor = CLIPImageProcessorPil(**edges)

    def says(self, messages: list[dict[str, Any]], *files: bytes) -> str:
        """Its greedy answer to messages whose images are these files."""
        import torch

        shown = [
            {
                "role": message["role"],
                "content": [
                    {"type": "image"} if part["type"] == "image_url" else part
                    for part in message["content"]
                ],
            }
            for message in messages
        ]
        prompt = self.tokens.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
        prompt = prompt.replace("<image>", "<image>" * 16)
        ids = torch.tensor([self.tokens(prompt, add_special_tokens=False).input_ids])
        more = {}
        if files:
            opened = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
            more["pixel_values"] = self.processor(opened, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                do_sample=False,
                **more,
            )
        return str(self.tokens.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def source(eyes_made: Path) -> Source:
    return Source(eyes_made / "eyes")


CAT, DOG = photo(1), photo(2, (64, 33))


def test_answers_are_the_source_s(eyes: Running, source: Source) -> None:
    for messages, files in (
        (user(text("hello world")), ()),
        (user(image(CAT), text("what is it?")), (CAT,)),
        (user(text("first"), image(CAT), text("and"), image(DOG)), (CAT, DOG)),
        (user(image(DOG), image(CAT)), (DOG, CAT)),
    ):
        assert said(ask(eyes, messages)) == source.says(messages, *files)
    assert len({said(ask(eyes, user(image(photo(n)), text("a")))) for n in range(6)}) > 2
