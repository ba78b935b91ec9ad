"""The engine vllm, through the service, against a stand-in in an environment of its own."""

import asyncio
import itertools
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from lmaas.accounts.records import Limits
from lmaas.config import Settings
from lmaas.errors import ConfigError, InvalidInput, LMaaSError, Quarantined, TimedOut, Unavailable
from lmaas.generation_types import (
    ChatMessage,
    Delta,
    Ended,
    Format,
    GenerateRequest,
    LanguageSpec,
    Sampling,
    Tool,
    Usage,
)
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.messages import AnyMessage, Began, Parts
from lmaas.service import Service
from lmaas.serving import vllm
from lmaas.serving.generation import Generation
from lmaas.serving.vllm_answer import Heard
from lmaas.serving.vllm_command import context_length
from lmaas.serving.vllm_request import Requests
from lmaas.types import TENANT, KeyRecord, Precision, WorkerStatus
from servers import serving
from upstream_server import WORDS
from vllm_environment import Environment, make_environment

TEXT = "".join(WORDS)
ids = itertools.count()


def saying(text: str, **more: Any) -> GenerateRequest:
    return GenerateRequest(messages=(ChatMessage(role="user", content=text),), **more)


class Served:
    """A running service with the model `tiny`, and a key for it."""

    def __init__(self, service: Service, key: KeyRecord) -> None:
        self.service = service
        self.key = key

    async def ask(self, request: GenerateRequest) -> Generation:
        return await self.service.calls.generate(
            self.key, "tiny", request, endpoint="chat.completions", request_id=f"r{next(ids)}"
        )

    async def all(self, request: GenerateRequest) -> tuple[list[Delta], Usage]:
        generation = await self.ask(request)
        return [delta async for delta in generation], generation.usage

    def status(self) -> WorkerStatus:
        (status,) = self.service.ps(TENANT)
        return status

    def kill(self) -> None:
        pid = self.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return make_environment(tmp_path / "environment")


@pytest.fixture
def home(tmp_path: Path, language_home: Path) -> Path:
    shutil.copytree(language_home, tmp_path / "home")
    return tmp_path / "home"


@asynccontextmanager
async def served(home: Path, python: Path | str, **settings: Any) -> AsyncIterator[Served]:
    service = Service(Settings(home=str(home), engine="vllm", vllm_python=str(python), **settings))
    key, _ = service.create_key(TENANT, "test", ("call",))
    async with service.running():
        yield Served(service, key)
    service.close()


Work = Callable[[Served], Awaitable[None]]


def run(home: Path, python: Path | str, work: Work, **settings: Any) -> None:
    async def main() -> None:
        async with served(home, python, **settings) as opened:
            await work(opened)

    asyncio.run(main())


async def until(condition: Callable[[], object], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def gone(environment: Environment, start: int = 0) -> bool:
    return not any(psutil.pid_exists(pid) for pid in environment.started()[start]["pids"])


@pytest.mark.parametrize("stream", [False, True])
def test_answers_come_and_ps_tells_of_it(
    home: Path, environment: Environment, stream: bool
) -> None:
    async def work(served: Served) -> None:
        for _ in range(3):
            deltas, usage = await served.all(saying("well", stream=stream))
            assert "".join(delta.text for delta in deltas) == TEXT
            assert [delta.finish for delta in deltas if delta.finish] == ["stop"]
            assert msgspec.structs.replace(usage, reasoning=0) == Usage(10, 7, 0, 4)
        status = served.status()
        assert (status.engine, status.state, status.requests) == ("vllm", "ready", 3)
        assert status.reason.startswith("vllm: set by engine=vllm")
        assert status.pid == environment.started()[0]["pids"][0]
        assert status.memory_bytes > 10_000_000
        await until(lambda: served.status().cache_used == 0.25)

    run(home, environment.python, work)
    assert gone(environment)


def test_it_has_a_key_and_a_home_of_its_own(
    home: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAAS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")

    async def work(served: Served) -> None:
        await served.all(saying("well"))
        (started,) = environment.started()
        environ, argv = started["environ"], started["argv"]
        assert "secret" not in environ.values()
        assert Path(environ["HOME"]).is_relative_to(home / "run")
        key = environ["VLLM_API_KEY"]
        assert len(key) == 64
        assert key not in argv
        told = dict(itertools.pairwise(argv))
        assert Path(told["--model"], "model.safetensors").is_file()
        assert told["--load-format"] == "safetensors"
        assert int(told["--kv-cache-memory-bytes"]) > 0
        assert "--trust-remote-code" not in argv
        assert {asked["key"] for asked in environment.asked()} == {key}

    run(home, environment.python, work)


def test_a_stream_that_has_begun_ends_with_an_error(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        generation = await served.ask(saying("endless", stream=True))
        pieces: list[str] = []

        async def read() -> None:
            async for delta in generation:
                pieces.append(delta.text)
                if len(pieces) == 5:
                    served.kill()

        with pytest.raises(Unavailable, match="while it was answering"):
            await read()
        assert len(pieces) >= 5
        deltas, _ = await served.all(saying("well"))
        assert "".join(delta.text for delta in deltas) == TEXT
        assert served.status().restarts == 1
        first, second = environment.started()
        assert first["environ"]["VLLM_API_KEY"] != second["environ"]["VLLM_API_KEY"]
        assert gone(environment)

    run(home, environment.python, work)


def test_a_request_with_nothing_sent_is_run_again(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        many = [served.all(saying(f"well {number}")) for number in range(8)]
        told = await asyncio.gather(served.all(saying("die once")), *many)
        assert all("".join(delta.text for delta in deltas) == TEXT for deltas, _ in told)
        assert served.status().restarts == 1

    run(home, environment.python, work)


def test_a_request_that_ends_two_is_set_aside(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        with pytest.raises(Quarantined):
            await served.ask(saying("die"))
        with pytest.raises(Quarantined):
            await served.ask(saying("die"))
        await served.all(saying("well"))
        assert served.status().restarts == 2

    run(home, environment.python, work)


def test_a_stuck_one_is_replaced(
    home: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "LOOK_S", 0.1)

    async def work(served: Served) -> None:
        await served.all(saying("well"))
        pid = served.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        deltas, _ = await served.all(saying("well"))
        assert "".join(delta.text for delta in deltas) == TEXT
        assert served.status().restarts == 1
        assert gone(environment)

    run(home, environment.python, work, request_timeout_s=0.5, heartbeat_s=0.1)


@pytest.mark.parametrize("text", ["endless", "silent"])
@pytest.mark.parametrize("stream", [False, True])
def test_whoever_hangs_up_is_hung_up_on(
    home: Path, environment: Environment, text: str, stream: bool
) -> None:
    async def work(served: Served) -> None:
        asking = asyncio.ensure_future(served.all(saying(text, stream=stream)))
        await until(lambda: len(environment.asked()) > 1)
        await asyncio.sleep(0.1)
        asking.cancel()
        await until(lambda: {"hung_up": True} in environment.asked(), within_s=5)
        assert served.status().queued == 0
        assert served.status().restarts == 0

    run(home, environment.python, work)


def test_what_fails_there_is_told_here(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        for text, kind, told in (
            ("status-400", InvalidInput, "No: "),
            ("status-500", Unavailable, "failed with status 500"),
            ("break-before", Unavailable, "closed the connection"),
            ("error-midway", Unavailable, r"out of memory \*\*\*"),
        ):
            with pytest.raises(kind, match=told):
                await served.all(saying(text))
        assert served.status().restarts == 0

    run(home, environment.python, work)


def test_prompts_are_counted_by_it(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        for number, (request, tokens) in enumerate(
            [(saying("well"), 21), (GenerateRequest(prompt=(5, 6, 7)), 3)]
        ):
            counted = await served.service.calls.count_tokens(
                served.key, "tiny", request, endpoint="count", request_id=f"c{number}"
            )
            assert counted.tokens == tokens
        served.service.set_limits(TENANT, served.key.id, Limits(tokens_per_minute=30))
        with pytest.raises(LMaaSError, match="tokens"):
            await served.ask(saying("well", sampling=Sampling(max_tokens=20)))
        await served.all(saying("well", sampling=Sampling(max_tokens=5)))

    run(home, environment.python, work)


def test_unloading_does_not_wait_for_ever(home: Path, environment: Environment) -> None:
    async def work(served: Served) -> None:
        generation = await served.ask(saying("endless", stream=True))
        await served.service.stop_model(TENANT, "tiny")
        with pytest.raises(Unavailable, match="was unloaded"):
            _ = [delta async for delta in generation]
        assert served.service.ps(TENANT) == []
        assert gone(environment)

    run(home, environment.python, work, drain_timeout_s=0.2)


def test_no_process_is_left_by_a_killed_server(home: Path, environment: Environment) -> None:
    with serving(home, engine="vllm", vllm_python=environment.python, pinned="tiny") as running:
        deadline = time.monotonic() + 30
        while not environment.asked():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not gone(environment)
        os.kill(running.pid, signal.SIGKILL)
        while not gone(environment):
            assert time.monotonic() < deadline
            time.sleep(0.05)


# What does not start


def test_its_log_is_told_when_it_does_not_start(home: Path, environment: Environment) -> None:
    environment.behave(
        ends=7,
        writes="INFO begin\n(EngineCore pid=7) ERROR 11-25 10:00:00 [core.py:1] ValueError: a head "
        "of 16 is not supported\nrefused with KEY",
    )

    async def work(served: Served) -> None:
        with pytest.raises(Unavailable, match="code 7") as caught:
            await served.ask(saying("well"))
        key = environment.started()[0]["environ"]["VLLM_API_KEY"]
        assert "ValueError: a head of 16 is not supported" in str(caught.value)
        assert "refused with ***" in str(caught.value)
        assert key not in str(caught.value)
        assert "a head of 16" in served.status().reason

    run(home, environment.python, work)


def test_a_slow_start_is_bounded(home: Path, environment: Environment) -> None:
    environment.behave(start_s=60, writes="Loading")
    told = ""

    async def work(served: Served) -> None:
        nonlocal told
        with pytest.raises(TimedOut) as caught:
            await served.ask(saying("well"))
        told = str(caught.value)
        assert all(gone(environment, start) for start in range(len(environment.started())))

    # A machine with other work may need longer until anything is written.
    for bound_s in (0.5, 2.0, 8.0, 32.0):
        run(home, environment.python, work, vllm_start_timeout_s=bound_s)
        assert f"within {bound_s:g} s" in told
        if "Loading" in told:
            break
    assert "Loading" in told
    assert "vllm_start_timeout_s" in told


def test_leaving_does_not_wait_for_the_start(home: Path, environment: Environment) -> None:
    environment.behave(start_s=60)

    async def work(served: Served) -> None:
        asking = asyncio.ensure_future(served.ask(saying("well")))
        await until(environment.started)
        await served.service.stop_model(TENANT, "tiny")
        with pytest.raises(Unavailable):
            await asking
        assert gone(environment)

    run(home, environment.python, work, drain_timeout_s=0.1)


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("", "is not set"),
        ("none", "there is no such file"),
        ("plain", "is not executable"),
        ("script", "is not a working Python"),
        ("bare", "has no package vllm"),
    ],
)
def test_an_environment_that_is_none(home: Path, tmp_path: Path, python: str, told: str) -> None:
    (tmp_path / "plain").touch()
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho no\n")
    script.chmod(0o700)
    path = str(tmp_path / python) if python else ""
    if python == "bare":
        path = str(make_environment(tmp_path / "bare", vllm=False).python)

    async def work(served: Served) -> None:
        with pytest.raises(ConfigError, match=told) as caught:
            await served.ask(saying("well"))
        assert caught.value.param == "vllm_python"

    run(home, path, work)


# What is asked and read


@pytest.fixture(scope="module")
def requests(language_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Requests:
    service = Service(Settings(home=str(language_home)))
    version = service.catalog.get(TENANT, "tiny")
    folder = service.registry.unpack(version, tmp_path_factory.mktemp("tiny"), ("source",))
    service.close()
    spec = version.manifest.signature.language
    assert spec is not None
    return Requests(folder / "source", msgspec.structs.replace(spec, reasoning=True))


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (saying("a<|im_end|>b"), "messages"),
        (GenerateRequest(prompt="<|im_start|>"), "prompt"),
        (GenerateRequest(prompt=(1, 600_000)), "prompt"),
        (GenerateRequest(prompt=""), "prompt"),
        (saying("a", sampling=Sampling(logit_bias={600_000: 1.0})), "logit_bias"),
        (saying("a", sampling=Sampling(stop_token_ids=(600_000,))), "stop_token_ids"),
        (saying("a", template={"chat_template": "x"}), "chat_template_kwargs"),
        (saying("a", template={"mood": "x"}, named=("mood",)), "chat_template_kwargs"),
        (
            saying("a", tools=(Tool(name="f"),), format=Format(kind="json_object")),
            "response_format",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    requests: Requests, request_: GenerateRequest, param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        requests.checked(request_)
    assert caught.value.param == param


def test_tools_that_may_not_be_called_are_not_shown(requests: Requests) -> None:
    asked = requests.checked(saying("a", tools=(Tool(name="f"),), tool_choice="none"))
    assert (asked.tools, asked.tool_choice) == ((), "auto")
    assert requests.checked(saying("a", tools=(Tool(name="f"),))).tools
    assert requests.parser == "hermes"


def test_a_schema_is_kept_or_refused(requests: Requests) -> None:
    kept = Format(kind="json_schema", schema={"type": "object", "properties": {"a": {}}})
    assert "root ::=" in (requests.grammar(saying("a", format=kept)) or "")
    assert requests.grammar(saying("a")) is None
    refused = Format(kind="json_schema", schema={"not": {"type": "null"}})
    with pytest.raises(InvalidInput, match="not"):
        requests.grammar(saying("a", format=refused))


def test_reasoning_is_told_apart_and_counted(requests: Requests) -> None:
    told: list[AnyMessage] = []
    heard = Heard(1, saying("a", stream=True), requests, told.append)
    heard.began(3)
    for text in ("<thi", "nk>\n", "hm", "\n</think>", "\n\n", "yes"):
        heard.part(Delta(0, text, 1))
    heard.part(Delta(0, "", 0, "stop"))
    assert told[0] == Began(id=1, prompt=3)
    deltas = [delta for part in told if isinstance(part, Parts) for _, delta in part.items]
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert "".join(delta.text for delta in deltas) == "yes"
    assert sum(delta.tokens for delta in deltas) == 6
    ended = heard.ended(Ended(Usage(3, 6)))
    assert ended == Ended(Usage(3, 6, 2))


def test_a_whole_answer_is_read_alike(requests: Requests) -> None:
    heard = Heard(1, saying("a"), requests, lambda _: None)
    answer = Delta(0, "<think>hm</think>yes", 9, "stop")
    (delta,) = heard.ended(Ended(Usage(3, 9), (answer,))).deltas
    assert (delta.reasoning, delta.text, delta.tokens) == ("hm", "yes", 9)


def test_the_context_fits_the_cache() -> None:
    spec = LanguageSpec(
        architecture="x", context_length=1000, vocabulary_size=10, kv_bytes_per_token=100
    )
    cases: list[tuple[Precision, int, int]] = [
        ("bf16", 0, 1000),
        ("bf16", 1 << 30, 1000),
        ("bf16", 128 * 100 * 4, 384),
        ("f32", 128 * 100 * 4, 128),
    ]
    for precision, cache, expected in cases:
        options = EngineOptions(precision=precision, cache_bytes=cache)
        assert context_length(spec, options) == expected
