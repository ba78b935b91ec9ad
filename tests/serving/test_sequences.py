"""Encoder-decoders behind the pool: callers share a worker, and lose nothing when it dies."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lmaas.config import Settings
from lmaas.errors import ContextLengthExceeded, DoesNotFit, InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.generation_types import Delta, Usage
from lmaas.placement.local import LocalPlacement
from lmaas.registry.store import Registry
from lmaas.serving.metrics import Metrics
from lmaas.serving.plan import MIB
from lmaas.serving.pool import Pool
from lmaas.serving.prepare import need_of
from lmaas.types import (
    JSON,
    TENANT,
    ParityCheck,
    ParityReport,
    Payload,
    PushOptions,
)
from sequence_checkpoints import make


class Store(Registry):
    """A registry with one model, whose package was built as a push builds it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "home")
        package = folder / "package"
        make("bart", folder / "checkpoint")
        options = PushOptions(name="short", task="summarization")
        manifest = checkpoint.build(folder / "checkpoint", package, options)
        check = ParityCheck(
            precision="f32", batch_size=1, max_abs_error=0, max_scaled_error=0, passed=True
        )
        parity = ParityReport(tolerance={}, checks=(check,))
        self.version = self.add(TENANT, manifest, parity, package)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("short"))


def asked(text: str, **parameters: Any) -> Payload:
    body = {"inputs": text, "parameters": {"generate_parameters": parameters}}
    return Payload(media_type=JSON, body=json.dumps(body).encode())


async def until(condition: Any, within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


class Heard:
    """A receiver that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.usage: Usage | None = None

    def began(self, prompt_tokens: int) -> None:
        self.told.append("began")

    def part(self, delta: Delta) -> None:
        self.told.append(delta.text)

    def used(self, usage: Usage) -> None:
        self.usage = usage


def run(store: Store, home: Path, test: Any, **settings: Any) -> None:
    async def whole() -> None:
        told = Settings(home=str(home), heartbeat_s=0.2, **settings)
        pool = Pool(told, store, Metrics(), placement=LocalPlacement(home))
        await pool.start()
        try:
            await test(pool)
        finally:
            await pool.close(0)

    asyncio.run(whole())


def test_callers_share_steps_and_are_refused_alone(store: Store, tmp_path: Path) -> None:
    async def test(pool: Pool) -> None:
        async def ask(payload: Payload) -> Any:
            return json.loads((await pool.call(store.version, payload)).body)

        texts = [f"w{7 + n} w{9 + n}" for n in range(20)]
        alone = [await ask(asked(text, max_length=20)) for text in texts]
        together = await asyncio.gather(*(ask(asked(text, max_length=20)) for text in texts))
        assert together == alone
        assert len({row[0]["summary_text"] for row in alone}) > 1
        results = await asyncio.gather(
            ask(asked("w7 w8", max_length=10)),
            ask(asked("w7 " * 200)),
            ask(asked("w7", top_p=0.5)),
            ask(asked("w7", max_length=65)),
            ask(asked("w7", num_beams=3, max_length=10)),
            ask(Payload(media_type=None, body=b"\x89PNG\r\n")),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [
            list, ContextLengthExceeded, InvalidInput, InvalidInput, list, InvalidInput
        ]  # fmt: skip
        assert "201 tokens" in str(results[1])
        assert "top_p cannot be honoured" in str(results[2])
        assert max(pool.status(), key=lambda each: each.requests).engine == "encoder-decoder"

    run(store, tmp_path, test)


def test_a_killed_worker_loses_no_request(store: Store, tmp_path: Path) -> None:
    async def test(pool: Pool) -> None:
        await pool.load(store.version)
        payloads = [asked(f"w{7 + n % 40} w{8 + n % 30}", num_beams=4) for n in range(150)]
        calls = [asyncio.ensure_future(pool.call(store.version, p)) for p in payloads]
        await until(lambda: any(call.done() for call in calls))
        (status,) = pool.status()
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        assert len({answer.body for answer in answers}) > 1
        assert pool.status()[0].restarts == 1
        again = await pool.call(store.version, payloads[0])
        assert again.body == answers[0].body

    run(store, tmp_path, test)


def test_whoever_leaves_is_cancelled_and_told_what_was_used(store: Store, tmp_path: Path) -> None:
    async def test(pool: Pool) -> None:
        await pool.load(store.version)
        heard = Heard()
        many = json.dumps({"inputs": ["w7 w8 w9"] * 64, "parameters": {
            "generate_parameters": {"num_beams": 8}}}).encode()  # fmt: skip
        call = asyncio.ensure_future(
            pool.call(store.version, Payload(media_type=JSON, body=many), heard)
        )
        await until(lambda: pool.status()[0].cache_used > 0)
        call.cancel()
        await until(lambda: heard.usage is not None)
        await until(lambda: pool.status()[0].cache_used == 0)
        answer = await pool.call(store.version, asked("w7", max_length=5))
        assert answer.new_tokens <= 4
        assert answer.tokens == 2

    run(store, tmp_path, test, max_sequences=8)


def test_memory_is_planned(store: Store) -> None:
    version, settings = store.version, Settings(max_sequences=8)
    need = need_of(version, settings, 4 << 30, lambda ref: version)
    record = need.record(Path("/x"))
    assert record.options is not None
    spec = version.manifest.signature.sequence
    assert spec is not None
    row = 2 * spec.most_target * spec.cache_bytes_per_token
    source = spec.most_source * spec.cache_bytes_per_source
    assert record.options.cache_bytes == 8 * (row + source)
    assert record.folder == "/x/model/compiled"
    assert need.memory_bytes > 128 * MIB + record.options.cache_bytes
    fixed = need_of(version, Settings(kv_cache_bytes=1 << 20), 4 << 30, lambda ref: version)
    options = fixed.record(Path("/x")).options
    assert options is not None
    assert options.cache_bytes == 1 << 20


def test_what_does_not_fit_is_told(store: Store, tmp_path: Path) -> None:
    async def test(pool: Pool) -> None:
        with pytest.raises(DoesNotFit):
            await pool.load(store.version)

    run(store, tmp_path, test, memory_budget_bytes=64 * MIB)
