"""Images that other servers are shown: vLLM, and models that are connected."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage, FilePart, GenerateRequest, TextPart
from lmaas.runtime.engine_spec import EngineSpec
from lmaas.runtime.language.engine import ENGINES, EngineOptions
from lmaas.runtime.messages import ServeRecord
from lmaas.service import Service
from lmaas.serving.upstream_body import TOKENS_PER_IMAGE, body_of, estimated_tokens
from lmaas.serving.vllm_command import command
from lmaas.serving.vllm_request import Requests
from lmaas.types import TENANT, ConnectBody, ModelVersion, UpstreamSpec
from servers import photo
from upstream_server import WORDS, upstream

ENCODED = base64.b64encode(photo()).decode()
URL = f"data:image/png;base64,{ENCODED}"
PLACE = "messages[0].content[0]"


def shown(data: str, **more: Any) -> GenerateRequest:
    file = FilePart(kind="image", data=data, place=PLACE, **more)
    return GenerateRequest(messages=(ChatMessage(role="user", content=(file, TextPart(text="a"))),))


SPEC = UpstreamSpec(url="http://127.0.0.1:9/v1", model="m", accepts=("text", "image"))


@pytest.mark.parametrize(
    ("data", "more"),
    [(URL, {}), (ENCODED, {}), (ENCODED, {"media_type": "image/png"}),
     (f"data:application/octet-stream;base64,{ENCODED}", {})],
)  # fmt: skip
def test_an_image_is_sent_as_a_data_url(data: str, more: dict[str, Any]) -> None:
    route, body = body_of(shown(data, detail="low", **more), SPEC)
    assert route == "/chat/completions"
    (message,) = msgspec.json.decode(body)["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "text", "text": "a"},
    ]


@pytest.mark.parametrize(
    "data",
    ["http://169.254.169.254/a.png", "file:///etc/passwd", "data:image/svg+xml,<svg/>", "****",
     base64.b64encode(b"<svg/>").decode(), base64.b64encode(b"%PDF-1.4 and so on").decode()],
)  # fmt: skip
def test_nobody_is_asked_to_fetch_or_to_read_what_is_no_image(data: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(shown(data), SPEC)
    assert caught.value.param == PLACE


def test_images_are_estimated() -> None:
    assert estimated_tokens(shown(URL)) >= TOKENS_PER_IMAGE
    assert estimated_tokens(shown(URL)) < TOKENS_PER_IMAGE + 20


def test_a_connected_model_is_shown_what_it_accepts(tmp_path: Path) -> None:
    async def work(service: Service, url: str) -> None:
        key, _ = service.create_key(TENANT, "test", ("call",))
        for name, accepts in (("sees", ("text", "image")), ("reads", ("text",))):
            spec = UpstreamSpec(url=url, model="echo", accepts=accepts)  # type: ignore[arg-type]
            await service.catalog.connect(TENANT, ConnectBody(name=name, upstream=spec))

        async def ask(name: str) -> str:
            generation = await service.calls.generate(
                key, name, shown(URL), endpoint="chat.completions", request_id=name
            )
            return "".join([delta.text async for delta in generation])

        async with service.running():
            assert await ask("sees") == "".join(WORDS)
            with pytest.raises(InvalidInput, match="takes text only") as caught:
                await ask("reads")
            assert caught.value.param == PLACE

    with upstream() as back_end:
        service = Service(Settings(home=str(tmp_path)))
        asyncio.run(work(service, back_end.url))
        service.close()
        (body,) = back_end.seen.bodies
        assert body["messages"][0]["content"][0]["image_url"]["url"] == URL


@pytest.mark.parametrize(
    ("task", "accepts"),
    [("embedding", ("text", "image")), ("text-generation", ("image",)),
     ("text-generation", ("text", "audio")), ("text-generation", ())],
)  # fmt: skip
def test_what_a_connection_accepts_is_known(tmp_path: Path, task: Any, accepts: Any) -> None:
    spec = msgspec.structs.replace(SPEC, accepts=accepts)
    service = Service(Settings(home=str(tmp_path)))
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(
            service.catalog.connect(TENANT, ConnectBody(name="far", task=task, upstream=spec))
        )
    service.close()
    assert caught.value.param == "accepts"


@pytest.fixture(scope="module")
def eyes(eyes_made: Path) -> ModelVersion:
    service = Service(Settings(home=str(eyes_made / "home")))
    version = service.catalog.get(TENANT, "eyes")
    service.close()
    return version


@pytest.fixture(scope="module")
def requests(eyes: ModelVersion, eyes_made: Path) -> Requests:
    spec = eyes.manifest.signature.language
    assert spec is not None
    return Requests(eyes_made / "eyes", spec)


def test_vllm_is_shown_images(requests: Requests) -> None:
    assert requests.checked(shown(URL)).files
    plain, tokens = requests.images(shown(URL))
    assert (plain.files, tokens) == ([], 16)
    assert plain.messages[0].content == "a"
    with pytest.raises(InvalidInput, match="'low' is not supported by the engine vllm") as caught:
        requests.checked(shown(URL, detail="low"))
    assert caught.value.param == f"{PLACE}.detail"
    spelled = GenerateRequest(messages=(ChatMessage(role="user", content="an <image>"),))
    with pytest.raises(InvalidInput, match="spells the special token '<image>'"):
        requests.checked(spelled)


def test_vllm_is_told_how_many_images_come(eyes: ModelVersion, tmp_path: Path) -> None:
    vllm: EngineSpec = ENGINES["vllm"]
    record = ServeRecord(
        model="eyes:1", task="image-text-to-text", signature=eyes.manifest.signature,
        folder="x", precision="f32", reason="", max_batch_size=1, engine=vllm,
        options=EngineOptions(precision="f32"),
    )  # fmt: skip
    argv = command(record, Path("python"), tmp_path / "s", gpu_memory=0.5, tools=None)
    assert argv[argv.index("--limit-mm-per-prompt") + 1] == '{"image": 32}'
