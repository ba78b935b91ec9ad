"""A version that another service runs: bounds what is asked of it, and shows how it is.

Runs in the server's own event loop: a worker process between would double what a request costs.
What is said to the service is `serving.upstream_api`'s matter.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from lmaas import tasks
from lmaas.config import Settings
from lmaas.errors import InvalidInput, LMaaSError, QueueFull, TimedOut, Unavailable
from lmaas.generation_types import Ended, GenerateRequest
from lmaas.serving.generation import Receiver
from lmaas.serving.prepare import served_variant_name
from lmaas.serving.speech import Listener
from lmaas.serving.upstream_api import Api
from lmaas.serving.upstream_body import estimated_tokens
from lmaas.serving.upstream_vectors import estimated_tokens as tokens_of_texts
from lmaas.types import (
    GENERATE,
    TEXTS,
    Answer,
    ModelVersion,
    Payload,
    TextsCall,
    UpstreamSpec,
    WorkerStatus,
)

_decoder = msgspec.msgpack.Decoder(GenerateRequest)
_texts_decoder = msgspec.msgpack.Decoder(TextsCall)


class Upstream:
    """Answers calls for `version` by asking its upstream. `start` it first."""

    def __init__(self, version: ModelVersion, settings: Settings) -> None:
        self.version = version
        self.pinned = False
        self.variant_name = served_variant_name(version, settings)
        self.error: LMaaSError | None = None
        self.planned_bytes = 0
        self.state: Literal["loading", "ready", "draining", "failed"] = "loading"
        self._loop = asyncio.get_running_loop()
        self.last_used = self._loop.time()
        self._settings = settings
        self._api: Api | None = None
        self._running: set[asyncio.Future[None]] = set()
        self._requests = 0
        self._failures = 0
        self._last_failure = ""

    @property
    def live(self) -> bool:
        """Whether calls are taken: how the service is, a call will tell."""
        return self._api is not None

    @property
    def lost(self) -> bool:
        """Never: connections come and go."""
        return False

    @property
    def depth(self) -> int:
        """Requests that wait or run."""
        return len(self._running)

    @property
    def cache_used(self) -> float:
        """Not known."""
        return 0.0

    @property
    def memory_bytes(self) -> int:
        """None beside the server's own."""
        return 0

    def start(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read the key. Without it, calls raise Unavailable."""
        spec = self.version.manifest.upstream
        assert spec is not None
        try:
            self._api = Api(spec, key_of(spec, environ))
        except LMaaSError as error:
            self.error, self.state = error, "failed"
        else:
            self.state = "ready"

    async def loaded(self) -> None:
        """Nothing is loaded here. Raises what keeps calls from being made."""
        self._usable()

    async def call(self, payload: Payload, receiver: Receiver | None = None) -> Answer:
        """The vectors of texts; or about how many tokens texts or a prompt have. There are no
        pieces of these for a `receiver` to hear of.

        Raises as `generate` does.
        """
        if tasks.spec(self.version.manifest.task).generates:
            return Answer(body=b"%d" % estimated_tokens(self._request(payload)))
        if payload.media_type != TEXTS:
            raise InvalidInput(
                f"{self.version.ref} runs at an upstream: it is asked at /v1/embeddings only.",
                param="model",
            )
        call = _texts_decoder.decode(payload.body)
        if payload.count_only:
            return Answer(body=b"", tokens=tokens_of_texts(call))
        async with self._admitted() as api:
            return await api.embed(call)

    async def generate(self, payload: Payload, receiver: Receiver) -> Ended:
        """Run a generation; `receiver` hears of its pieces. Cancelling the caller cancels it.

        Raises QueueFull when too many run, and what `Api.generate` raises.
        """
        request = self._request(payload)
        async with self._admitted() as api:
            return await api.generate(request, receiver)

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[Api]:
        """A place among the requests that run, for a bounded time."""
        api = self._usable()
        if len(self._running) >= self._settings.max_queue:
            raise QueueFull(
                f"{len(self._running)} requests wait for {self.version.ref}; no more are taken.",
                hint="Send it again after the time in Retry-After.",
            )
        self._requests += 1
        self.last_used = self._loop.time()
        over: asyncio.Future[None] = self._loop.create_future()
        self._running.add(over)
        limit_s = self._settings.generation_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield api
        except TimeoutError:
            raise TimedOut(
                f"{self.version.ref} did not answer within {limit_s:g} s.",
                hint="Ask for less at once, or raise generation_timeout_s.",
            ) from None
        except (Unavailable, TimedOut) as error:
            self._failures += 1
            self._last_failure = error.message
            raise
        finally:
            self.last_used = self._loop.time()
            self._running.discard(over)
            over.set_result(None)

    async def speak(self, payload: Payload, listener: Listener) -> Answer:
        """Never: no other service's model is connected for it."""
        raise InvalidInput(f"{self.version.ref} does not speak.", param="model")

    def tick(self, now: float, *, late: bool) -> None:
        """Once a heartbeat: idle connections do not stay for ever."""
        if self._api is not None and not late:
            self._api.client.trim(now)

    async def stop(self, deadline: float) -> None:
        """Take no more calls, finish the running ones until `deadline`, then break them off."""
        if self.state != "failed":
            self.state = "draining"
        if self._running:
            await asyncio.wait(set(self._running), timeout=max(0.0, deadline - self._loop.time()))
        if self._api is not None:
            self._api.client.close()

    def status(self) -> WorkerStatus:
        """What `lmaas ps` shows."""
        return WorkerStatus(
            model=self.version.ref,
            tenant=self.version.tenant,
            state=self.state,
            engine="upstream",
            precision=None,
            reason=str(self.error) if self.error else self._reason(),
            pid=None,
            memory_bytes=0,
            requests=self._requests,
            queued=self.depth,
            restarts=0,
            pinned=self.pinned,
            idle_s=0.0 if self.depth else self._loop.time() - self.last_used,
        )

    def _reason(self) -> str:
        spec = self.version.manifest.upstream
        assert spec is not None
        told = f"{spec.model} runs at {spec.url} (dialect {spec.dialect})"
        if self._failures:
            told += f"; {self._failures} failures, the last: {self._last_failure}"
        if self._api is not None and self._api.estimated:
            told += f"; tokens of {self._api.estimated} answers are estimated: it told no usage"
        return told

    def _usable(self) -> Api:
        if self.error is not None:
            raise type(self.error)(self.error.message, hint=self.error.hint)
        if self.state != "ready" or self._api is None:
            raise Unavailable(f"{self.version.ref} is being unloaded.", hint="Send it again.")
        return self._api

    def _request(self, payload: Payload) -> GenerateRequest:
        if payload.media_type != GENERATE:
            raise InvalidInput(
                f"{self.version.ref} runs at an upstream: it takes messages and prompts only.",
                param="model",
            )
        return _decoder.decode(payload.body)


def key_of(spec: UpstreamSpec, environ: Mapping[str, str]) -> str | None:
    """The upstream's key. Raises Unavailable when the environment lacks it."""
    if spec.key_env is None:
        return None
    key = environ.get(spec.key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise Unavailable(
            f"The server's environment has no usable {spec.key_env}, the key of {spec.url}.",
            hint="Start the server with it.",
        )
    return key
