"""Pictures in conversations: what is served is what the checkpoint says in transformers."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
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


def test_text_that_spells_the_placeholder_is_text(eyes: Running, source: Source) -> None:
    """Only parts are images: what a caller writes becomes other tokens, wherever it stands."""
    spelled = "<image> what is <image>?"
    plain = said(ask(eyes, user(text(spelled))))
    assert (
        ask(eyes, [{"role": "user", "content": spelled}]).json()["choices"][0]["message"]["content"]
        == plain
    )
    alone = ask(eyes, user(text("a"))).json()["usage"]["prompt_tokens"]
    for messages in (
        user(text("a<image>")),
        [{"role": "system", "content": "<image>"}, *user(text("a"))],
        user(text("<image>"), image(CAT)),
    ):
        answer = ask(eyes, messages)
        assert answer.status_code == 200, answer.text
        extra = answer.json()["usage"]["prompt_tokens"] - alone
        assert extra < 16 + 24
    # Token ids are no way around it.
    token = source.tokens.convert_tokens_to_ids("<image>")
    body = {"model": "eyes", "prompt": [5, token, 6], "max_tokens": 2}
    answer = httpx.post(f"{eyes.url}/v1/completions", json=body, headers=eyes.caller)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


def test_tokens_of_images_are_counted(eyes: Running) -> None:
    def prompt(*parts: Any) -> int:
        return int(ask(eyes, user(*parts)).json()["usage"]["prompt_tokens"])

    none = prompt(text("a"))
    assert prompt(image(CAT), text("a")) == none + 16
    assert prompt(image(CAT), text("a"), image(DOG)) == none + 32
    block = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": url_of(CAT)[22:]},
    }
    body = {"model": "eyes", "messages": user(text("a"), block)}
    counted = httpx.post(f"{eyes.url}/v1/messages/count_tokens", json=body, headers=eyes.caller)
    assert counted.json() == {"input_tokens": none + 16}


def limited(eyes: Running, tokens: int) -> dict[str, str]:
    """Headers of a key that has so many tokens a minute."""
    with httpx.Client(base_url=eyes.url, headers=eyes.admin) as client:
        made = client.post("/api/keys", json={"name": "small"})
        limits = {"tokens_per_minute": tokens}
        path = f"/api/keys/{made.json()['record']['id']}/limits"
        client.put(path, json=limits).raise_for_status()
    return {"authorization": f"Bearer {made.json()['key']}"}


def test_tokens_of_images_are_reserved_first(eyes: Running) -> None:
    def asked(count: int, headers: dict[str, str]) -> httpx.Response:
        body = {
            "model": "eyes",
            "messages": user(*[image(photo(n)) for n in range(count)], text("a")),
            "max_tokens": 4,
        }
        url = f"{eyes.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=60)

    headers = limited(eyes, 100)
    assert asked(1, headers).status_code == 200
    assert asked(6, limited(eyes, 100)).status_code == 429


def test_many_callers_are_answered_as_alone(eyes: Running) -> None:
    asked = [user(image(photo(n % 5)), text(f"number {n}"), image(photo(n % 3))) for n in range(16)]
    alone = [said(ask(eyes, messages)) for messages in asked[:6]]
    with ThreadPoolExecutor(8) as threads:
        together = [said(answer) for answer in threads.map(partial(ask, eyes), asked)]
    assert together[:6] == alone
    assert [said(ask(eyes, messages)) for messages in asked] == together


def test_turns_go_on_with_an_image(eyes: Running, source: Source) -> None:
    first = user(image(CAT), text("what is it?"))
    turn = said(ask(eyes, first))
    answer = {"role": "assistant", "content": [text(turn)]}
    more = [*first, answer, *user(text("and this?"), image(DOG))]
    assert said(ask(eyes, more)) == source.says(more, CAT, DOG)


def test_options_of_language_models_hold_with_images(eyes: Running) -> None:
    asked = user(image(CAT), text("a"))
    whole = said(ask(eyes, asked))
    two = ask(eyes, asked, n=2, temperature=0).json()["choices"]
    assert [choice["message"]["content"] for choice in two] == [whole, whole]
    told = ask(eyes, asked, logprobs=True, top_logprobs=2).json()["choices"][0]
    assert told["message"]["content"] == whole
    assert all(
        entry["top_logprobs"][0]["token"] == entry["token"] for entry in told["logprobs"]["content"]
    )
    schema = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    formed = said(ask(eyes, asked, response_format=form, max_tokens=60))
    assert formed.replace(" ", "").replace("\n", "") == '{"a":"b"}'
    for field, value in (("repetition_penalty", 1.3), ("logit_bias", {"5": 1})):
        answer = ask(eyes, asked, **{field: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
    for detail, status in (("auto", 200), ("high", 200), ("low", 400), ("original", 400)):
        answer = ask(eyes, user(image(CAT, detail=detail)))
        assert answer.status_code == status
        if status == 400:
            param = "messages[0].content[0].detail"
            assert answer.json()["error"]["param"] == param


def test_answers_are_kept_by_their_images(eyes: Running) -> None:
    first = ask(eyes, user(image(CAT), text("kept?")), cache=True)
    again = ask(eyes, user(image(CAT), text("kept?")), cache=True)
    other = ask(eyes, user(image(DOG), text("kept?")), cache=True)
    told = [answer.headers["x-lmaas-cache"] for answer in (first, again, other)]
    assert told == ["miss", "hit", "miss"]
    assert said(first) == said(again)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    )  # fmt: skip


def gif_of(frames: int) -> bytes:
    file = io.BytesIO()
    pages = [Image.new("L", (8, 8), n % 255) for n in range(frames)]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:])
    return file.getvalue()


BAD: list[tuple[str, bytes | str, int]] = [
    ("65,000 x 65,000", png_of(65_000, 65_000), 413),
    ("cut off", CAT[: len(CAT) // 2], 400),
    ("no pixels", png_of(30, 30), 400),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///a'/></svg>", 400),
    ("pdf and more", b"%PDF-1.4\n" + CAT, 400),
    ("zip", b"PK\3\4" + CAT, 400),
    ("empty", b"", 400),
    ("truncated base64", url_of(CAT)[:-3], 400),
    ("no base64", "data:image/png;base64,****", 400),
    ("not encoded", "data:image/svg+xml,<svg/>", 400),
    ("a file", "file:///etc/passwd", 400),
    ("loopback", "http://127.0.0.1:1/a.png", 400),
    ("elsewhere", "https://images.example.com/a.png", 400),
    ("nothing", "", 400),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "status"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_image_fails_alone(eyes: Running, name: str, data: bytes | str, status: int) -> None:
    url = url_of(data) if isinstance(data, bytes) else data
    bad = user(image(CAT), {"type": "image_url", "image_url": {"url": url}}, text("a"))
    good = user(image(CAT), text("a"))
    expected = said(ask(eyes, good))
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(partial(ask, eyes), [good, bad, good]))
    assert answers[1].status_code == status, answers[1].text
    error = answers[1].json()["error"]
    assert error["param"] == "messages[0].content[1]"
    assert [said(answers[0]), said(answers[2])] == [expected, expected]


@pytest.mark.parametrize(
    "data",
    [gif_of(300), photo(1, format="JPEG"), photo(1, format="WEBP"), photo(1, format="BMP"),
     photo(1, format="TIFF"), CAT + b"PK\3\4 and a zip behind it", photo(1, (1, 1)),
     photo(1, (2000, 2))],
    ids=["animated", "jpeg", "webp", "bmp", "tiff", "polyglot", "a pixel", "a strip"],
)  # fmt: skip
def test_images_of_many_kinds(eyes: Running, data: bytes) -> None:
    assert said(ask(eyes, user(image(data), text("a")))) is not None


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "LA", "P", "RGBA", "I;16"])
def test_images_of_many_modes(eyes: Running, source: Source, mode: str) -> None:
    file = io.BytesIO()
    grey = Image.open(io.BytesIO(CAT)).convert("L")
    opened = grey if mode == "I;16" else Image.open(io.BytesIO(CAT)).convert(mode)
    if mode == "I;16":
        opened = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    opened.save(file, "TIFF" if mode == "CMYK" else "PNG")
    told = said(ask(eyes, user(image(file.getvalue()), text("a"))))
    if mode != "I;16":  # which transformers shows as white
        assert told == source.says(user(image(CAT), text("a")), file.getvalue())


def test_ten_thousand_images_are_refused(eyes: Running) -> None:
    tiny = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer = ask(eyes, user(*[tiny] * 10_000))
    assert answer.status_code == 400
    assert "at most" in answer.json()["error"]["message"]


def test_images_beyond_the_context_are_told_by_number(eyes: Running) -> None:
    answer = ask(eyes, user(*[image(photo(n)) for n in range(32)], text("a")))
    assert answer.status_code == 400
    assert "512 tokens" in answer.json()["error"]["message"]


def test_a_cancelled_request_frees_the_model(eyes: Running) -> None:
    body = {
        "model": "eyes", "messages": user(image(CAT), text("a")), "max_tokens": 400, "stream": True,
        "ignore_eos": True,
    }  # fmt: skip
    url = f"{eyes.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=eyes.caller, timeout=60) as answer:
        next(answer.iter_bytes())
    expected = said(ask(eyes, user(image(DOG), text("a"))))
    assert said(ask(eyes, user(image(DOG), text("a")))) == expected
