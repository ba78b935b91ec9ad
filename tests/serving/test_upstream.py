"""The engine upstream, through the service, against a service with fixed answers and faults."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas.accounts.records import Limits
from lmaas.config import Settings
from lmaas.errors import (
    ContextLengthExceeded,
    InvalidInput,
    LMaaSError,
    ModelRefused,
    QueueFull,
    RateLimited,
    TimedOut,
    Unavailable,
)
from lmaas.generation_types import (
    ChatMessage,
    Delta,
    Format,
    GenerateRequest,
    Sampling,
    Tool,
    ToolCall,
    Usage,
)
from lmaas.recipe import recipe_of
from lmaas.service import Service
from lmaas.serving.generation import Generation
from lmaas.serving.upstream_body import body_of
from lmaas.serving.upstream_error import broken_off
from lmaas.types import (
    JSON,
    TENANT,
    TEXTS,
    ConnectBody,
    KeyRecord,
    ModelVersion,
    Payload,
    TextsCall,
    UpstreamSpec,
)
from upstream_server import KEY, WORDS, Running, upstream

TEXT = "".join(WORDS)
HELLO = GenerateRequest(messages=(ChatMessage(role="user", content="Hello?"),))
STREAM = msgspec.structs.replace(HELLO, stream=True)


@pytest.fixture(scope="module")
def back_end() -> Iterator[Running]:
    with upstream() as running:
        yield running


ids = itertools.count()


class Gateway:
    """A running service, its key, and what it connects."""

    def __init__(self, service: Service, key: KeyRecord, url: str) -> None:
        self.service = service
        self.key = key
        self.url = url

    async def connect(self, model: str, **more: Any) -> ModelVersion:
        return await self._connect(ConnectBody(name="far", upstream=self._spec(model, more)))

    async def connect_embedding(self, model: str, **more: Any) -> ModelVersion:
        spec = self._spec(model, more)
        return await self._connect(ConnectBody(name="far", task="embedding", upstream=spec))

    def _spec(self, model: str, more: dict[str, Any]) -> UpstreamSpec:
        return UpstreamSpec(**{"url": self.url, "model": model, **more})

    async def _connect(self, body: ConnectBody) -> ModelVersion:
        return await self.service.catalog.connect(TENANT, body)

    async def vectors(self, *texts: Any, dimensions: int | None = None) -> tuple[Any, int]:
        """Rows, and how many tokens were read."""
        body = msgspec.msgpack.encode(TextsCall(texts=texts, dimensions=dimensions))
        predicted = await self.service.calls.predict(
            self.key,
            "far",
            Payload(media_type=TEXTS, body=body),
            endpoint="embeddings",
            request_id=f"r{next(ids)}",
        )
        rows = np.frombuffer(predicted.answer.body, "<f4").reshape(len(texts), -1)
        return rows.tolist(), predicted.answer.tokens

    async def ask(self, request: GenerateRequest, name: str = "far") -> Generation:
        return await self.service.calls.generate(
            self.key, name, request, endpoint="chat.completions", request_id=f"r{next(ids)}"
        )

    async def all(self, request: GenerateRequest) -> tuple[list[Delta], Usage]:
        generation = await self.ask(request)
        return [delta async for delta in generation], generation.usage


@asynccontextmanager
async def gateway(home: Path, back_end: Running, **settings: Any) -> AsyncIterator[Gateway]:
    service = Service(Settings(home=str(home), **settings))
    key, _ = service.create_key(TENANT, "test", ("call",))
    async with service.running():
        yield Gateway(service, key, back_end.url)
    service.close()


def run(
    home: Path, back_end: Running, work: Callable[[Gateway], Awaitable[None]], **settings: Any
) -> None:
    async def main() -> None:
        async with gateway(home, back_end, **settings) as opened:
            await work(opened)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_answers_come_with_reasoning_and_usage(
    tmp_path: Path, back_end: Running, stream: bool
) -> None:
    async def work(gateway: Gateway) -> None:
        version = await gateway.connect("echo")
        assert version.files == ()
        for _ in range(3):
            deltas, usage = await gateway.all(STREAM if stream else HELLO)
            assert "".join(delta.text for delta in deltas) == TEXT
            assert "".join(delta.reasoning for delta in deltas) == "Hm."
            assert [delta.finish for delta in deltas if delta.finish] == ["stop"]
            assert usage == Usage(10, 7, 2, 4)
        (status,) = gateway.service.ps(TENANT)
        assert (status.engine, status.state, status.requests) == ("upstream", "ready", 3)
        assert gateway.url in status.reason

    before = back_end.seen.connections
    run(tmp_path, back_end, work)
    assert back_end.seen.connections == before + 1
    assert back_end.seen.open == 0


def test_all_fields_are_translated(tmp_path: Path, back_end: Running) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = GenerateRequest(
        messages=(
            ChatMessage(role="system", content="Be kind."),
            ChatMessage(role="user", content="Weather?", name="ann"),
            ChatMessage(
                role="assistant",
                reasoning="Look it up.",
                tool_calls=(ToolCall(id="c1", name="weather", arguments="{}"),),
            ),
            ChatMessage(role="tool", content="warm", tool_call_id="c1"),
        ),
        sampling=Sampling(
            max_tokens=5, temperature=0.0, top_p=0.5, presence_penalty=0.1, frequency_penalty=0.2,
            seed=7, stop=("END",), logit_bias={3: -100.0}, logprobs=2,
        ),
        choices=2,
        tools=(Tool(name="weather", description="Tells it.", parameters=schema),),
        tool_choice="=weather",
        parallel_tool_calls=False,
        format=Format(kind="json_schema", schema=schema),
        template={"reasoning_effort": "low", "enable_thinking": True},
    )  # fmt: skip
    function = {"name": "weather", "description": "Tells it.", "parameters": schema}
    wanted = {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Weather?", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "content": "warm", "tool_call_id": "c1"},
        ],
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "seed": 7,
        "stop": ["END"],
        "logit_bias": {"3": -100.0},
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
        "reasoning_effort": "low",
    }

    async def work(gateway: Gateway) -> None:
        await gateway.connect("echo")
        deltas, usage = await gateway.all(request)
        assert back_end.seen.bodies[-1] == wanted
        assert [delta.index for delta in deltas] == [0, 1]
        assert usage.completion == 14
        entry = deltas[1].logprobs[0]
        assert (entry.id, entry.token, entry.logprob) == (-1, "Hello", -0.5)
        assert entry.top == ((-1, "alt0", b"alt0", -1.0), (-1, "alt1", b"alt1", -2.0))
        await gateway.connect("echo", dialect="openai")
        await gateway.all(request)
        body = back_end.seen.bodies[-1]
        assert "max_tokens" not in body
        assert body["max_completion_tokens"] == 5
        await gateway.connect("echo", dialect="vllm")
        sampling = Sampling(max_tokens=5, top_k=3, min_p=0.1, repetition_penalty=1.1)
        await gateway.all(msgspec.structs.replace(request, sampling=sampling))
        body = back_end.seen.bodies[-1]
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (3, 0.1, 1.1)
        assert (body["min_tokens"], body["ignore_eos"], body["stop_token_ids"]) == (0, False, [])
        assert body["chat_template_kwargs"] == request.template
        assert body["messages"][2]["reasoning_content"] == "Look it up."

    run(tmp_path, back_end, work)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("top_k", msgspec.structs.replace(HELLO, sampling=Sampling(top_k=3))),
        ("ignore_eos", msgspec.structs.replace(HELLO, sampling=Sampling(ignore_eos=True))),
        ("chat_template_kwargs", msgspec.structs.replace(HELLO, template={"a": 1})),
        ("response_format", GenerateRequest(prompt="x", format=Format(kind="json_object"))),
        ("echo", msgspec.structs.replace(HELLO, echo=True)),
    ],
)
def test_what_an_upstream_cannot_be_asked_is_refused_by_name(
    tmp_path: Path, back_end: Running, field: str, request_: GenerateRequest
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("echo")
        with pytest.raises(InvalidInput, match=field) as caught:
            await gateway.ask(request_)
        assert caught.value.param == field

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_continued_and_a_call_is_made(
    tmp_path: Path, back_end: Running, stream: bool
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("echo")
        prompt = GenerateRequest(prompt=(1, 2, 3), stream=stream)
        deltas, _ = await gateway.all(prompt)
        assert "".join(delta.text for delta in deltas) == TEXT
        assert back_end.seen.paths[-1] == "/v1/completions"
        assert back_end.seen.bodies[-1]["prompt"] == [1, 2, 3]
        await gateway.connect("call")
        deltas, _ = await gateway.all(STREAM if stream else HELLO)
        calls = [call for delta in deltas for call in delta.calls]
        assert calls[0].position == 0
        assert (calls[0].id, calls[0].name) == ("call_1", "weather")
        assert "".join(call.arguments for call in calls) == '{"city": "Köln"}'
        assert deltas[-1].finish == "tool_calls"

    run(tmp_path, back_end, work)


def test_an_echo_tells_the_prompt_apart(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("echo")
        sampling = Sampling(logprobs=1)
        request = GenerateRequest(prompt="p", echo=True, prompt_logprobs=1, sampling=sampling)
        generation = await gateway.ask(request)
        (delta,) = [delta async for delta in generation]
        assert [entry.token for entry in generation.prompt_logprobs][:2] == ["p0", "p1"]
        assert [entry.token for entry in delta.logprobs] == list(WORDS)
        assert delta.text.endswith(TEXT)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("status-429", QueueFull, "takes no more requests"),
        ("status-400", InvalidInput, "No: "),
        ("status-401", Unavailable, "refuses this server's key"),
        ("status-404", Unavailable, "status 404"),
        ("status-500", Unavailable, "status 500"),
        ("status-301", Unavailable, "status 301"),
        ("long-context", ContextLengthExceeded, "too long"),
        ("break-before", Unavailable, "closed the connection"),
        ("not-json", Unavailable, "not OpenAI's|does not stream"),
        ("compressed", Unavailable, "compresses"),
        ("huge-head", Unavailable, "closed the connection"),
    ],
)
def test_faults_before_the_answer(
    tmp_path: Path,
    back_end: Running,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: type[LMaaSError],
    told: str,
    stream: bool,
) -> None:
    monkeypatch.setenv("FAR_API_KEY", KEY)

    async def work(gateway: Gateway) -> None:
        await gateway.connect(fault, key_env="FAR_API_KEY")
        with pytest.raises(kind, match=told) as caught:
            await gateway.ask(STREAM if stream else HELLO)
        assert KEY not in str(caught.value)
        assert len(str(caught.value)) < 1000
        if isinstance(caught.value, QueueFull):
            assert caught.value.retry_after_s == 7
        if fault == "status-400":
            assert caught.value.param == "top_p"
        assert back_end.seen.keys[-1] == KEY

    run(tmp_path, back_end, work)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("break-midway", "broke off"),
        ("error-midway", "out of memory"),
        ("aborts", "broke off"),
    ],
)
def test_faults_midway(tmp_path: Path, back_end: Running, fault: str, told: str) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect(fault)
        generation = await gateway.ask(STREAM)
        pieces: list[str] = []

        async def read() -> None:
            async for delta in generation:
                pieces.append(delta.text)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(Unavailable, match=told):
            await read()
        text = "".join(pieces)
        assert TEXT.startswith(text)
        assert text

    run(tmp_path, back_end, work)


def test_a_refusal_within_a_stream_is_a_refusal() -> None:
    refused = broken_off({"message": "No: sk", "code": 400, "param": "n"}, "far", "sk")
    assert isinstance(refused, InvalidInput)
    assert (refused.message, refused.param) == ("far: No: ***", "n")
    assert isinstance(broken_off({"message": "No", "code": 500}, "far", None), Unavailable)
    assert isinstance(broken_off("No", "far", None), Unavailable)


def test_a_silent_upstream_times_out(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("silent", timeout_s=0.2)
        with pytest.raises(TimedOut, match=r"0\.2 s"):
            await gateway.ask(HELLO)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("fault", ["silent", "endless"])
def test_a_cancelled_request_ends_at_the_upstream(
    tmp_path: Path, back_end: Running, fault: str
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect(fault)
        back_end.seen.lost_midway.clear()
        back_end.seen.bodies.clear()
        if fault == "endless":
            generation = await gateway.ask(STREAM)
            count = 0
            async for _ in generation:
                count += 1
                if count == 10:
                    break
            generation.close()
        else:
            asking = asyncio.ensure_future(gateway.ask(HELLO))
            while not back_end.seen.bodies:
                await asyncio.sleep(0.01)
            asking.cancel()
        assert await asyncio.to_thread(back_end.seen.lost_midway.wait, 1.0)
        report = await gateway.service.usage(TENANT, by=("model",))
        assert sum(row.cancelled for row in report.data) == 1

    run(tmp_path, back_end, work)


def test_a_kept_connection_that_is_gone_is_replaced(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("close-each")
        for pause_s in (0.0, 0.0, 0.05, 0.05):
            deltas, _ = await gateway.all(HELLO)
            assert deltas[0].text == TEXT
            await asyncio.sleep(pause_s)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_usage_tokens_are_estimated(
    tmp_path: Path, back_end: Running, stream: bool
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("no-usage")
        _, usage = await gateway.all(STREAM if stream else HELLO)
        assert usage == Usage(10, 8 if stream else 10)
        assert "estimated" in gateway.service.ps(TENANT)[0].reason

    run(tmp_path, back_end, work)


def test_the_queue_is_bounded_and_a_stop_breaks_off(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("silent", max_connections=1)
        asking = [asyncio.ensure_future(gateway.ask(HELLO)) for _ in range(2)]
        while [status.queued for status in gateway.service.ps(TENANT)] != [2]:
            await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await gateway.ask(HELLO)
        await gateway.service.stop_model(TENANT, "far")
        for told in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(told, Unavailable)

    run(tmp_path, back_end, work, max_queue=2, drain_timeout_s=0.1)


def test_the_key_comes_from_the_environment(
    tmp_path: Path, back_end: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAR_API_KEY", raising=False)

    async def work(gateway: Gateway) -> None:
        version = await gateway.connect("echo", key_env="FAR_API_KEY")
        with pytest.raises(Unavailable, match="FAR_API_KEY"):
            await gateway.ask(HELLO)
        (status,) = gateway.service.ps(TENANT)
        assert status.state == "failed"
        assert KEY.encode() not in msgspec.json.encode(version)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "file:///etc/passwd",
        "host/v1",
        "http://user:secret@host/v1",
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1%25eth0]/",
        "http://host/v1?key=1",
        "http://host:99999/",
        "http://ho st/",
        "http://host/\r\nx: y",
    ],
)
def test_bad_urls_are_refused(tmp_path: Path, back_end: Running, url: str) -> None:
    async def work(gateway: Gateway) -> None:
        with pytest.raises(InvalidInput) as caught:
            await gateway.connect("echo", url=url)
        assert caught.value.param == "url"
        assert "secret" not in str(caught.value)

    run(tmp_path, back_end, work)


def test_a_number_that_leads_to_metadata_is_not_called(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect("echo", url="http://2852039166/v1")
        with pytest.raises(Unavailable, match="metadata addresses"):
            await gateway.ask(HELLO)
        await gateway.connect("echo", url="http://127.0.0.1:9/v1")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await gateway.ask(HELLO)

    run(tmp_path, back_end, work)


def test_no_other_secret_can_be_named() -> None:
    body = b'{"name": "x", "upstream": {"url": "http://h", "model": "m", "key_env": "PATH"}}'
    with pytest.raises(msgspec.ValidationError, match="key_env"):
        msgspec.json.decode(body, type=ConnectBody)


SPEC = UpstreamSpec(url="http://127.0.0.1:9/v1", model="m", context_length=4096)
VLLM = msgspec.structs.replace(SPEC, dialect="vllm")


def asked_of(spec: UpstreamSpec, **fields: Any) -> dict[str, Any]:
    request = GenerateRequest(**{"messages": HELLO.messages, **fields})
    told: dict[str, Any] = msgspec.json.decode(body_of(request, spec)[1])
    return told


def test_a_ceiling_beyond_the_context_is_not_sent() -> None:
    for most, sent in ((100, 100), (4095, 4095), (4096, None), (128_000, None)):
        assert asked_of(SPEC, sampling=Sampling(max_tokens=most)).get("max_tokens") == sent
    prompt = {"messages": (), "prompt": "a", "sampling": Sampling(max_tokens=128_000)}
    assert asked_of(SPEC, **prompt)["max_tokens"] == 128_000


def test_an_answer_that_is_begun_is_vllms_to_continue() -> None:
    begun = (*HELLO.messages, ChatMessage(role="assistant", content="It is"))
    told = asked_of(VLLM, messages=begun, continued=True)
    assert (told["continue_final_message"], told["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in asked_of(VLLM, messages=begun)
    with pytest.raises(InvalidInput, match="begun"):
        asked_of(SPEC, messages=begun, continued=True)


def test_no_reasoning_that_nobody_named_is_not_asked_for() -> None:
    assert "chat_template_kwargs" not in asked_of(SPEC, template={"enable_thinking": False})
    with pytest.raises(InvalidInput, match="chat_template_kwargs"):
        asked_of(SPEC, template={"enable_thinking": False}, named=("enable_thinking",))


def test_it_has_no_files_to_compress_and_no_tokens_to_count(
    tmp_path: Path, back_end: Running
) -> None:
    from lmaas.types import CompressOptions

    async def work(gateway: Gateway) -> None:
        version = await gateway.connect("echo")
        with pytest.raises(InvalidInput, match="no files"):
            await gateway.service.compressor.compress(TENANT, "far", CompressOptions(to="int8"))
        with pytest.raises(InvalidInput, match="count its tokens"):
            await gateway.service.calls.count_tokens(
                gateway.key, "far", HELLO, endpoint="count", request_id="c1"
            )
        package = tmp_path / "package"
        package.mkdir()
        (package / "manifest.json").write_bytes(msgspec.json.encode(version.manifest))
        with pytest.raises((ModelRefused, InvalidInput)):
            await gateway.service.catalog.push(TENANT, package)
        limits = Limits(tokens_per_minute=1000)
        gateway.service.set_limits(TENANT, gateway.key.id, limits)
        request = msgspec.structs.replace(HELLO, sampling=Sampling(max_tokens=50))
        deltas, usage = await gateway.all(request)
        assert deltas[0].text == TEXT
        assert usage == Usage(10, 7, 2, 4)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("model", ["echo", "numbers"])
def test_vectors_come_in_the_order_of_the_texts(
    tmp_path: Path, back_end: Running, model: str
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect_embedding(model)
        assert await gateway.vectors("a", "bcd") == ([[1, 0, 0.5], [3, 1, 0.5]], 9)
        assert await gateway.vectors((7, 8), dimensions=2) == ([[2, 0]], 9)
        sent = back_end.seen.bodies[-1]
        assert sent == {
            "model": model,
            "input": [[7, 8]],
            "encoding_format": "base64",
            "dimensions": 2,
        }
        assert back_end.seen.paths[-1] == "/v1/embeddings"
        (row,) = (await gateway.service.usage(TENANT)).data
        assert (row.requests, row.prompt_tokens, row.completion_tokens) == (2, 18, 0)

    run(tmp_path, back_end, work)


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        ("too-few", Unavailable, "1 vectors for 2 texts"),
        ("twice", Unavailable, "2 vectors for 2 texts"),
        ("not-a-number", Unavailable, "NaN"),
        ("uneven", Unavailable, "differ in length"),
        ("not-base64", Unavailable, "a vector that is none"),
        ("not-json", Unavailable, "not OpenAI's"),
        ("break-before", Unavailable, "closed the connection"),
        ("status-400", InvalidInput, "No: "),
        ("status-429", QueueFull, "takes no more requests"),
        ("status-401", Unavailable, "key"),
    ],
)
def test_bad_vectors_are_an_error_and_nothing_is_billed(
    tmp_path: Path, back_end: Running, model: str, kind: type[LMaaSError], told: str
) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect_embedding(model)
        with pytest.raises(kind, match=told):
            await gateway.vectors("a", "bcd")
        (row,) = (await gateway.service.usage(TENANT)).data
        assert (row.requests, row.failed, row.prompt_tokens) == (1, 1, 0)

    run(tmp_path, back_end, work)


def test_vectors_without_a_usage_are_estimated(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect_embedding("no-usage")
        assert (await gateway.vectors("a" * 30))[1] >= 10
        (status,) = gateway.service.ps(TENANT)
        assert "estimated" in status.reason

    run(tmp_path, back_end, work)


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_it_has_no_files_to_train_on(tmp_path: Path, back_end: Running, task: str) -> None:
    async def work(gateway: Gateway) -> None:
        if task == "text-generation":
            await gateway.connect("echo")
        else:
            await gateway.connect_embedding("echo")
        given = {"name": "near", "task": task, "model": {"base": "far"}, "data": {"train": "a"}}
        with pytest.raises(InvalidInput, match="no files to train on") as caught:
            gateway.service.jobs.add(TENANT, recipe_of(given))
        assert caught.value.param == "model.base"
        assert not gateway.service.jobs.page(TENANT)

    run(tmp_path, back_end, work)


def test_vectors_count_against_the_limits_of_a_key(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect_embedding("echo")
        gateway.service.set_limits(TENANT, gateway.key.id, Limits(tokens_per_minute=100))
        assert (await gateway.vectors("a", "bcd"))[1] == 9
        with pytest.raises(RateLimited):
            await gateway.vectors("a" * 400)
        assert len(back_end.seen.bodies[-1]["input"]) == 2

    run(tmp_path, back_end, work)


def test_what_embeds_does_not_talk(tmp_path: Path, back_end: Running) -> None:
    async def work(gateway: Gateway) -> None:
        await gateway.connect_embedding("echo")
        with pytest.raises(InvalidInput, match="embedding"):
            await gateway.all(HELLO)
        with pytest.raises(InvalidInput, match="/v1/embeddings"):
            await gateway.service.calls.predict(
                gateway.key,
                "far",
                Payload(media_type=JSON, body=b'{"inputs": "a"}'),
                endpoint="predict",
                request_id="one",
            )

    run(tmp_path, back_end, work)
