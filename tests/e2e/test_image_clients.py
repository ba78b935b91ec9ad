"""Images from clients that know nothing of LMaaS: every door shows a model the same picture."""

import base64
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import Running, photo, serving

CAT, DOG = photo(1), photo(2, (64, 33))
ENCODED = base64.b64encode(CAT).decode()
URL = f"data:image/png;base64,{ENCODED}"
TOKENS = 8
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def expected(eyes: Running) -> str:
    """What is said of the picture, and of no other."""
    body: dict[str, Any] = {"model": "eyes", "max_tokens": TOKENS, "temperature": 0}
    part = {"type": "image_url", "image_url": {"url": URL}}
    content = [part, {"type": "text", "text": "what is it?"}]
    answer = httpx.post(
        f"{eyes.url}/v1/chat/completions",
        json={**body, "messages": [{"role": "user", "content": content}]},
        headers=eyes.caller,
        timeout=60,
    )
    return str(answer.json()["choices"][0]["message"]["content"])


def test_openai(eyes: Running, expected: str) -> None:
    from openai import BadRequestError, OpenAI

    with OpenAI(base_url=f"{eyes.url}/v1", api_key=eyes.call_key, max_retries=0) as client:
        content: Any = [
            {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
            {"type": "text", "text": "what is it?"},
        ]
        asked: Any = {"model": "eyes", "messages": [{"role": "user", "content": content}],
                      "max_tokens": TOKENS, "temperature": 0}  # fmt: skip
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected
        pieces = client.chat.completions.create(**asked, stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == expected
        parts: Any = [
            {"type": "input_image", "image_url": URL, "detail": "auto"},
            {"type": "input_text", "text": "what is it?"},
        ]
        answer = client.responses.create(
            model="eyes",
            input=[{"role": "user", "content": parts}],
            max_output_tokens=TOKENS,
            temperature=0,
        )
        assert answer.output_text == expected
        assert answer.usage is not None
        assert whole.usage is not None
        assert answer.usage.input_tokens == whole.usage.prompt_tokens
        content[0]["image_url"]["detail"] = "low"
        with pytest.raises(BadRequestError, match="'low' is not supported"):
            client.chat.completions.create(**asked)


def test_a_conversation_that_is_kept_keeps_its_images(eyes: Running) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{eyes.url}/v1", api_key=eyes.call_key, max_retries=0) as client:
        parts: Any = [
            {"type": "input_image", "image_url": URL, "detail": "auto"},
            {"type": "input_text", "text": "a"},
        ]
        asked: Any = {"model": "eyes", "max_output_tokens": 4, "temperature": 0}
        first = client.responses.create(input=[{"role": "user", "content": parts}], **asked)
        second = client.responses.create(input="and now?", previous_response_id=first.id, **asked)
        assert first.usage is not None
        assert second.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens > 16


def test_anthropic(eyes: Running, expected: str) -> None:
    from anthropic import Anthropic, BadRequestError

    with Anthropic(base_url=eyes.url, api_key=eyes.call_key, max_retries=0) as client:
        source: Any = {"type": "base64", "media_type": "image/png", "data": ENCODED}
        messages: Any = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": source},
                    {"type": "text", "text": "what is it?"},
                ],
            }
        ]
        asked: Any = {"model": "eyes", "messages": messages}
        answer = client.messages.create(**asked, max_tokens=TOKENS, extra_body=GREEDY)
        assert "".join(block.text for block in answer.content if block.type == "text") == expected
        counted = client.messages.count_tokens(**asked)
        assert counted.input_tokens == answer.usage.input_tokens
        source["data"] = ENCODED[:-5]
        with pytest.raises(BadRequestError, match="not base64"):
            client.messages.create(**asked, max_tokens=TOKENS)


def test_ollama(eyes: Running, expected: str) -> None:
    import ollama

    with ollama.Client(eyes.url, headers=eyes.caller) as client:
        options = {"temperature": 0, "num_predict": TOKENS, "top_k": 0, "top_p": 1.0}
        message = {"role": "user", "content": "what is it?", "images": [CAT]}
        answer = client.chat(model="eyes", messages=[message], options=options)
        assert answer.message.content == expected
        made = client.generate(model="eyes", prompt="what is it?", images=[CAT], options=options)
        assert made.response == expected
        with pytest.raises(ollama.ResponseError, match=r"messages\[0\]\.images\[0\]"):
            client.chat(model="eyes", messages=[message | {"images": [b"no image at all"]}])
        shown = client.show("eyes")
        assert shown.capabilities is not None
        assert {"completion", "vision"} <= {*shown.capabilities}


def test_huggingface_hub(eyes: Running, expected: str) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(model=f"{eyes.url}/models/eyes", token=eyes.call_key)
    content = [{"type": "image_url", "image_url": {"url": URL}},
               {"type": "text", "text": "what is it?"}]  # fmt: skip
    chat = client.chat_completion(
        [{"role": "user", "content": content}], max_tokens=TOKENS, temperature=0.0
    )
    assert chat.choices[0].message.content == expected
    (answer,) = client.visual_question_answering(CAT, "what is it?")
    assert (answer.answer or "").startswith(expected.strip()[:4])
    assert 0 < (answer.score or 0) < 1
    (one,) = client.visual_question_answering(CAT, "what is it?", top_k=1)
    assert one == answer
    other = client.visual_question_answering(DOG, "what is it?")[0]
    assert (other.answer, other.score) != (answer.answer, answer.score)
    with pytest.raises(HfHubHTTPError, match="top_k"):
        client.visual_question_answering(CAT, "what is it?", top_k=3)
    with pytest.raises(HfHubHTTPError, match="image"):
        client.visual_question_answering(b"none", "what is it?")
    assert client.text_generation("hello", max_new_tokens=4)


def test_the_score_of_an_answer_is_its_probability(eyes: Running) -> None:
    body = {"inputs": ENCODED, "question": "what is it?", "image": ENCODED,
            "parameters": {"max_new_tokens": 5}}  # fmt: skip
    (told,) = httpx.post(
        f"{eyes.url}/models/eyes/pipeline/visual-question-answering",
        json=body,
        headers=eyes.caller,
        timeout=60,
    ).json()
    content = [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "text", "text": "what is it?"},
    ]
    chat = httpx.post(
        f"{eyes.url}/v1/chat/completions",
        json={"model": "eyes", "messages": [{"role": "user", "content": content}],
              "max_tokens": 5, "temperature": 0, "logprobs": True},
        headers=eyes.caller,
        timeout=60,
    ).json()["choices"][0]  # fmt: skip
    total = sum(entry["logprob"] for entry in chat["logprobs"]["content"])
    assert told["answer"] == chat["message"]["content"].strip()
    assert told["score"] == pytest.approx(math.exp(total), rel=1e-3)


def test_a_question_to_a_model_of_text_is_refused(language: Running) -> None:
    body = {"inputs": ENCODED, "question": "what is it?", "image": ENCODED}
    answer = httpx.post(f"{language.url}/models/tiny", json=body, headers=language.caller)
    assert answer.status_code == 400
    assert "takes text only" in answer.text


@pytest.fixture
def host() -> Iterator[str]:
    """A server on this machine that has one picture."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("location", "/cat.png")
            self.send_header("content-length", str(len(CAT)))
            self.end_headers()
            self.wfile.write(CAT)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_by_url_where_an_operator_has_listed_the_host(
    eyes_made: Path, tmp_path: Path, host: str, expected: str
) -> None:
    import shutil

    from anthropic import Anthropic
    from openai import BadRequestError, OpenAI

    home = Path(shutil.copytree(eyes_made / "home", tmp_path / "home"))
    with (
        serving(home, image_hosts=host, image_allow="127.0.0.1") as running,
        OpenAI(base_url=f"{running.url}/v1", api_key=running.call_key, max_retries=0) as client,
        Anthropic(base_url=running.url, api_key=running.call_key, max_retries=0) as claude,
    ):

        def ask(url: str) -> str | None:
            content: Any = [{"type": "image_url", "image_url": {"url": url}},
                            {"type": "text", "text": "what is it?"}]  # fmt: skip
            answer = client.chat.completions.create(
                model="eyes", messages=[{"role": "user", "content": content}],
                max_tokens=TOKENS, temperature=0,
            )  # fmt: skip
            return answer.choices[0].message.content

        assert ask(f"{host}/cat.png?v=1") == expected
        for url, told in (
            (f"{host}/moved", "redirects are not followed"),
            ("http://localhost:1/a.png", "no images are fetched here"),
            ("file:///etc/passwd", "not base64"),
        ):
            with pytest.raises(BadRequestError, match=told):
                ask(url)
        source: Any = {"type": "url", "url": f"{host}/cat.png"}
        content: Any = [
            {"type": "image", "source": source},
            {"type": "text", "text": "what is it?"},
        ]
        messages: Any = [{"role": "user", "content": content}]
        answer = claude.messages.create(
            model="eyes", messages=messages, max_tokens=TOKENS, extra_body=GREEDY
        )
        assert "".join(b.text for b in answer.content if b.type == "text") == expected
        counted = claude.messages.count_tokens(model="eyes", messages=messages)
        assert counted.input_tokens == answer.usage.input_tokens
