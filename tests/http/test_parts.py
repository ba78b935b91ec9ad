"""Messages that have parts: what each door makes of them, and how a model of text refuses them."""

import base64
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.generation_types import (
    MAX_FILE_BYTES,
    MAX_FILES,
    ChatMessage,
    FilePart,
    GenerateRequest,
    TextPart,
    check,
    content_of,
)
from lmaas.http import chat, messages_body, ollama_body, responses_body
from lmaas.http.body import decode
from lmaas.serving.generation import check_parts
from lmaas.types import (
    LanguageSpec,
    Lineage,
    Manifest,
    ModelVersion,
    ParityReport,
    PartKind,
    Signature,
)
from servers import Running, png

DATA = base64.b64encode(png()).decode()
URL = f"data:image/png;base64,{DATA}"


def openai(part: dict[str, Any]) -> GenerateRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": [text("a"), part]}]}
    return chat.to_request(decode(json.dumps(body).encode(), msgspec.json.Decoder(chat.ChatBody)))


def responses(part: dict[str, Any], **item: Any) -> GenerateRequest:
    content = [{"type": "input_text", "text": "a"}, part]
    given = {"role": "user", "content": content} | item
    decoder = msgspec.json.Decoder(responses_body.ResponsesBody)
    body = decode(json.dumps({"model": "m", "input": [given]}).encode(), decoder)
    assert body.input is not None
    return responses_body.to_request(body, (), responses_body.read_input(body.input))


def anthropic(*blocks: dict[str, Any]) -> GenerateRequest:
    turn = {"role": "user", "content": list(blocks)}
    body = {"model": "m", "max_tokens": 1, "messages": [turn]}
    decoder = msgspec.json.Decoder(messages_body.MessagesBody)
    return messages_body.to_request(decode(json.dumps(body).encode(), decoder))


def ollama(**turn: Any) -> GenerateRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "a", **turn}]}
    decoder = msgspec.json.Decoder(ollama_body.OllamaChat)
    return ollama_body.chat_request(decode(json.dumps(body).encode(), decoder))


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image_of(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


def test_openai_parts() -> None:
    (message,) = openai({"type": "image_url", "image_url": {"url": URL, "detail": "auto"}}).messages
    place = "messages[0].content[1]"
    assert message.content == (TextPart(text="a"), FilePart(kind="image", data=URL, place=place))
    audio = {"type": "input_audio", "input_audio": {"data": DATA, "format": "mp3"}}
    (file,) = openai(audio).files
    assert file == FilePart(kind="audio", data=DATA, media_type="audio/mpeg", place=place)


def test_responses_parts() -> None:
    image = {"type": "input_image", "image_url": URL, "detail": "auto"}
    (message,) = responses(image).messages
    file = FilePart(kind="image", data=URL, place="input[0].content[1]")
    assert message.content == (TextPart(text="a"), file)
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "1", "output": [image]}
    decoder = msgspec.json.Decoder(tuple[responses_body.Item, ...])
    turns = responses_body.read_input(decoder.decode(json.dumps([call, output])))
    assert turns[1].content == (FilePart(kind="image", data=URL, place="input[1].output[0]"),)


def test_anthropic_parts() -> None:
    image = image_of({"type": "base64", "media_type": "image/png", "data": DATA})
    place = "messages[0].content[0]"
    file = FilePart(kind="image", data=DATA, media_type="image/png", place=place)
    (message,) = anthropic(image, text("a"), text("b")).messages
    assert message.content == (file, TextPart(text="a\nb"))
    url = image_of({"type": "url", "url": "https://example.com/a.png"})
    result = {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": [url]}
    tool, user = anthropic(result, text("a")).messages
    place = "messages[0].content[0].content[0]"
    other = FilePart(kind="image", data="https://example.com/a.png", place=place)
    assert (tool.role, tool.content) == ("tool", (TextPart(text="Error:"), other))
    assert user.content == "a"


def test_ollama_parts() -> None:
    (message,) = ollama(images=[DATA, DATA]).messages
    first, second = (
        FilePart(kind="image", data=DATA, place=f"messages[0].images[{i}]") for i in (0, 1)
    )
    assert message.content == (first, second, TextPart(text="a"))
    assert ollama(images=[]).messages == (ChatMessage(role="user", content="a"),)
    decoder = msgspec.json.Decoder(ollama_body.OllamaGenerate)
    body = decoder.decode(json.dumps({"model": "m", "prompt": "a", "images": [DATA]}))
    (message,) = ollama_body.generate_request(body).messages
    assert message.content == (
        FilePart(kind="image", data=DATA, place="images[0]"), TextPart(text="a"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (lambda: openai({"type": "image_url"}), "messages[0].content[1].image_url"),
        (lambda: openai({"type": "image_url", "image_url": {"url": URL, "detail": "fine"}}),
         "messages[0].content[1].image_url.detail"),
        (lambda: openai({"type": "input_audio", "input_audio": {"data": "", "format": "flac"}}),
         "messages[0].content[1].input_audio.format"),
        (lambda: openai({"type": "file", "file": {"file_id": "x"}}), "messages[0].content[1]"),
        (lambda: responses({"type": "input_image"}), "input[0].content[1].image_url"),
        (lambda: responses({"type": "input_image", "file_id": "x", "image_url": URL}),
         "input[0].content[1].file_id"),
        (lambda: responses({"type": "input_file", "file_id": "x"}), "input[0].content[1]"),
        (lambda: responses({"type": "input_image", "image_url": URL}, role="system"),
         "input[0].content[1]"),
        (lambda: anthropic(image_of({"type": "base64", "url": URL})),
         "messages[0].content[0].source"),
        (lambda: anthropic(image_of({"type": "file", "file_id": "x"})),
         "messages[0].content[0].source"),
        (lambda: ollama(role="system", images=[DATA]), "messages[0].images"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_whole_is_named(ask: Callable[[], Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask()
    assert caught.value.param == param


def test_texts_side_by_side_are_one() -> None:
    file = FilePart(kind="image", data="")
    assert content_of([]) == ""
    assert content_of(["a", "", "b"]) == "a\n\nb"
    parts = content_of(["a", "b", file, "c"])
    assert parts == (TextPart(text="a\nb"), file, TextPart(text="c"))
    message = ChatMessage(role="user", content=parts)
    assert (message.texts, message.files) == (["a\nb", "c"], [file])


def request_of(*files: FilePart) -> GenerateRequest:
    return GenerateRequest(messages=(ChatMessage(role="user", content=files),))


def test_files_are_bounded_and_not_decoded() -> None:
    file = FilePart(kind="image", data="*", place="here")
    assert check(request_of(*[file] * MAX_FILES))
    with pytest.raises(InvalidInput, match=f"at most {MAX_FILES}"):
        check(request_of(*[file] * (MAX_FILES + 1)))
    fits = "*" * (MAX_FILE_BYTES // 3 * 4)
    assert check(request_of(msgspec.structs.replace(file, data=fits)))
    with pytest.raises(PayloadTooLarge, match="here has about") as caught:
        check(request_of(file, msgspec.structs.replace(file, data=fits + "****")))
    assert caught.value.param == "here"


def version_of(*accepts: PartKind) -> ModelVersion:
    spec = LanguageSpec(architecture="x", context_length=9, vocabulary_size=9, accepts=accepts)
    manifest = Manifest(
        name="m",
        task="text-generation",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), language=spec),
        num_parameters=1,
        framework_version="",
        lineage=Lineage(),
    )
    return ModelVersion(
        tenant="t", name="m", version=3, manifest=manifest,
        parity=ParityReport(tolerance={}, checks=()), files=(), created_at=0,
    )  # fmt: skip


def test_a_model_takes_what_its_signature_says() -> None:
    image, audio = FilePart(kind="image", data=""), FilePart(kind="audio", data="", place="there")
    check_parts(version_of("text", "image"), request_of(image, image))
    check_parts(version_of("text"), GenerateRequest(prompt="a"))
    with pytest.raises(InvalidInput, match=r"'audio'; m:3 takes text and image only") as caught:
        check_parts(version_of("text", "image"), request_of(image, audio))
    assert caught.value.param == "there"


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    """A server that nobody should ask."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


IMAGE = {"type": "image_url", "image_url": {"url": URL}}
AUDIO = {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}
INPUT = {"type": "input_image", "image_url": URL}
BLOCK = image_of({"type": "base64", "media_type": "image/png", "data": DATA})


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/chat/completions", user(text("a"), IMAGE), "messages[0].content[1]"),
        ("/v1/chat/completions", user(AUDIO), "messages[0].content[0]"),
        ("/v1/responses", {"input": [{"role": "user", "content": [INPUT]}]},
         "input[0].content[0]"),
        ("/v1/messages", user(BLOCK) | {"max_tokens": 4}, "messages[0].content[0]"),
        ("/v1/messages/count_tokens", user(text("a"), BLOCK), "messages[0].content[1]"),
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": [DATA]}]},
         "messages[0].images[0]"),
        ("/api/generate", {"prompt": "a", "images": [DATA]}, "images[0]"),
        ("/api/generate", {"images": [DATA]}, "images[0]"),
    ],
)  # fmt: skip
def test_a_model_of_text_refuses_files_by_name(
    language: Running, path: str, body: dict[str, Any], place: str
) -> None:
    answer = httpx.post(
        language.url + path, json={"model": "tiny", **body}, headers=language.caller
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    told = error if isinstance(error, str) else error["message"]
    kind = "audio" if body == user(AUDIO) else "image"
    assert f"{place} is of the type '{kind}'; tiny:1 takes text only." in told
    if path.startswith(("/v1/chat", "/v1/responses")):
        assert (error["param"], error["type"]) == (place, "invalid_request_error")


def test_nothing_is_fetched(language: Running, elsewhere: socket.socket) -> None:
    port = elsewhere.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/a.png", "file:///etc/passwd"):
        image = {"type": "image_url", "image_url": {"url": url}}
        answer = httpx.post(
            f"{language.url}/v1/chat/completions",
            json={"model": "tiny", **user(image)},
            headers=language.caller,
        )
        assert answer.status_code == 400
        assert "takes text only" in answer.json()["error"]["message"]
    with pytest.raises(BlockingIOError):
        elsewhere.accept()


def test_too_much_is_refused_before_anything_else(language: Running) -> None:
    url = f"{language.url}/v1/chat/completions"
    large = {"type": "image_url", "image_url": {"url": "x" * (MAX_FILE_BYTES // 3 * 4 + 8)}}
    for content, status in (([IMAGE] * (MAX_FILES + 1), 400), ([large], 413)):
        answer = httpx.post(url, json={"model": "none", **user(*content)}, headers=language.caller)
        assert answer.status_code == status, answer.text
        assert "at most" in answer.json()["error"]["message"]
