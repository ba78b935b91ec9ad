"""The engine vllm: a vLLM server, which takes a worker's messages and sends a worker's.

So requests are held, retried, bounded and quarantined as for every other engine. vLLM runs in an
environment of its own, reached through a unix socket with a key that only this process knows.
"""

import asyncio
import logging
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from lmaas.config import Settings
from lmaas.errors import TimedOut, Unavailable
from lmaas.generation_types import Ended, GenerateRequest, Sampling
from lmaas.placement.base import Placement, ProgramHandle
from lmaas.runtime.messages import (
    AnyMessage,
    Beat,
    Call,
    Cancel,
    Done,
    Finished,
    Loaded,
    ServeRecord,
    Stop,
    failed,
)
from lmaas.serving.upstream_api import Api
from lmaas.serving.vllm_answer import Heard, as_asked
from lmaas.serving.vllm_command import command, environment
from lmaas.serving.vllm_install import check_python, read_install
from lmaas.serving.vllm_log import Tail
from lmaas.serving.vllm_request import Requests
from lmaas.types import Answer, UpstreamSpec

log = logging.getLogger(__name__)

ROOT: Final = "http://vllm"
POLL_S: Final = 0.2
LOOK_S: Final = 5.0
"""Between two looks at its metrics, which take its event loop about 15 ms."""
SOUND_S: Final = 10.0
"""How long it may take to say that it is well, after a request has failed."""
LAST_S: Final = 1.0
"""How long one that is not well may take to end by itself, so that its code is told."""
SPARE_CONNECTIONS: Final = 4
LOG_END_S: Final = 1.0
"""How long the end of what it wrote may be on its way."""
FIRST: Final = GenerateRequest(prompt=(0,), sampling=Sampling(max_tokens=1, temperature=0))
"""What proves that it answers before it is called ready."""

_decoder: Final = msgspec.msgpack.Decoder(GenerateRequest)
_cache_used: Final = re.compile(rb"^vllm:kv_cache_usage_perc(?:\{[^}]*\})? (\S+)", re.MULTILINE)


class VllmLife:
    """A vLLM server that has loaded its model, as a worker process."""

    def __init__(
        self,
        program: ProgramHandle,
        tail: Tail,
        api: Api,
        requests: Requests,
        loaded: Loaded,
        settings: Settings,
        on_message: Callable[[AnyMessage], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.loaded = loaded
        self.patience_s = max(settings.request_timeout_s, 2 * LOOK_S)
        self.pid = program.pid
        self.closed: asyncio.Future[None] = loop.create_future()
        self.last_seen = loop.time()
        self._loop = loop
        self._program = program
        self._tail = tail
        self._api = api
        self._requests = requests
        self._on_message = on_message
        self._running: dict[int, asyncio.Task[None]] = {}
        self._at_work: set[int] = set()
        self._stopping = False
        self._looking = loop.create_task(self._look())
        program.ended.add_done_callback(lambda _: self.kill())

    @property
    def code(self) -> int | None:
        """How it ended."""
        return self._program.code

    def send(self, message: AnyMessage) -> None:
        """Do what a worker would."""
        if self.closed.done():
            return
        match message:
            case Call(id=id_, payload=payload):
                task = self._loop.create_task(self._answer(id_, _decoder.decode(payload.body)))
                self._running[id_] = task
                task.add_done_callback(lambda _: self._running.pop(id_, None))
            case Cancel(id=id_) if id_ in self._running:
                self._running[id_].cancel()
            case Cancel():
                pass
            case Stop():
                self._stopping = True
                self.kill()
            case _:
                raise AssertionError(f"vLLM was sent {type(message).__name__}.")

    def kill(self) -> None:
        """End it now. From here on nothing is told of what it was working on."""
        if self.closed.done():
            return
        self._at_work = set(self._running)
        self.closed.set_result(None)
        self._looking.cancel()
        for task in self._running.values():
            task.cancel()
        self._api.client.close()
        self._program.kill()

    async def end(self) -> set[int]:
        """Wait until all its processes are gone; the ids of the requests it was working on."""
        await self._program.end()
        if not self._stopping:
            log.error("vLLM wrote last: %s", await _told(self._program, self._tail))
        return self._at_work

    def _tell(self, message: AnyMessage) -> None:
        if not self.closed.done():
            self._on_message(message)

    async def _answer(self, id_: int, request: GenerateRequest) -> None:
        """Run one request. What fails because vLLM does is not told: whoever holds it decides."""
        heard = Heard(id_, request, self._requests, self._tell)
        try:
            asked = self._requests.checked(request)
            if request.count_only:
                plain, images = self._requests.images(asked)
                count = images + await self._api.count(plain)
                self._tell(Done(id=id_, answer=Answer(body=b"%d" % count)))
                return
            grammar = None
            if asked.format is not None:
                grammar = await asyncio.to_thread(self._requests.grammar, asked)
            ended = await self._api.generate(as_asked(asked), heard, grammar)
            self._tell(Finished(id=id_, ended=heard.ended(ended)))
        except asyncio.CancelledError:
            if heard.usage is not None:
                self._tell(Finished(id=id_, ended=Ended(heard.usage)))
            raise
        except (Unavailable, TimedOut) as error:
            if await self._sound():
                self._tell(failed(id_, error))
            else:
                await asyncio.wait((self._program.ended,), timeout=LAST_S)
                self.kill()
        except Exception as error:  # noqa: BLE001 - becomes the answer to this one request
            self._tell(failed(id_, error))

    async def _sound(self) -> bool:
        """Whether it says that it is well."""
        try:
            async with asyncio.timeout(SOUND_S):
                return await self._api.read("/health") is not None
        except TimeoutError:
            return False

    async def _look(self) -> None:
        """Ask now and then how it is: that is its sign of life."""
        while True:
            shown = await self._api.read("/metrics")
            memory = await asyncio.to_thread(self._program.memory_bytes)
            if shown is not None:
                self.last_seen = self._loop.time()
                self._api.client.trim(self.last_seen)
                used = _cache_used.search(shown)
                self._tell(
                    Beat(
                        queued=0,
                        running=len(self._running),
                        memory_bytes=memory,
                        cache_used=float(used.group(1)) if used is not None else 0.0,
                    )
                )
            await asyncio.sleep(LOOK_S)


async def launch(
    record: ServeRecord,
    settings: Settings,
    placement: Placement,
    on_message: Callable[[AnyMessage], None],
    files: asyncio.Future[None],
) -> VllmLife:
    """Start vLLM in `placement` once the model's `files` are there; wait for its first token.

    Its home is a folder beside the model's files, and goes with them. Raises ConfigError when
    `vllm_python` has no vLLM, TimedOut when it takes too long, and Unavailable, with the end of its
    log, when it dies meanwhile.
    """
    start = asyncio.get_running_loop().time()
    python = check_python(settings.vllm_python)
    install = await asyncio.to_thread(read_install, python)
    folder, spec = Path(record.folder), record.signature.language
    assert spec is not None
    await asyncio.shield(files)
    requests = await asyncio.to_thread(Requests, folder, spec)
    home = folder.with_name("vllm")
    home.mkdir(mode=0o700, exist_ok=True)
    key, socket_path = secrets.token_hex(32), placement.socket_path()
    tail = Tail(key)
    program = await placement.start_program(
        command(
            record,
            python,
            socket_path,
            gpu_memory=settings.vllm_gpu_memory,
            tools=requests.parser,
        ),
        environment(home, key, python, socket_path, gpu=install.gpu, environ=os.environ),
        tail,
    )
    api = Api(
        UpstreamSpec(
            url=ROOT,
            model=record.model,
            dialect="vllm",
            context_length=spec.context_length,
            timeout_s=settings.generation_timeout_s,
            max_connections=settings.max_queue + SPARE_CONNECTIONS,
        ),
        key,
        socket_path=str(socket_path),
    )
    try:
        await _ready(program, tail, api, record.model, requests, settings.vllm_start_timeout_s)
    except BaseException:
        api.client.close()
        await program.end()
        raise
    loaded = Loaded(
        precision=record.precision,
        reason=record.reason,
        memory_bytes=await asyncio.to_thread(program.memory_bytes),
        load_s=asyncio.get_running_loop().time() - start,
    )
    return VllmLife(program, tail, api, requests, loaded, settings, on_message)


async def _ready(
    program: ProgramHandle,
    tail: Tail,
    api: Api,
    model: str,
    requests: Requests,
    timeout_s: float,
) -> None:
    """Wait for its first token."""
    first = asyncio.ensure_future(_first(api, requests))
    try:
        await asyncio.wait(
            (first, program.ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if program.ended.done():
            raise Unavailable(
                f"vLLM ended with code {program.code} while loading {model}. It wrote last: "
                f"{await _told(program, tail)}",
                hint="With log_level=debug the server's log holds all that it writes.",
            )
        if not first.done():
            raise TimedOut(
                f"vLLM did not load {model} within {timeout_s:g} s. It wrote last: "
                f"{await _told(program, tail)}",
                hint="Raise vllm_start_timeout_s.",
            )
        first.result()
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def _told(program: ProgramHandle, tail: Tail) -> str:
    """What it wrote last, as one line."""
    if program.ended.done():
        await asyncio.wait((tail.closed,), timeout=LOG_END_S)
    return tail.told()


async def _first(api: Api, requests: Requests) -> None:
    while await api.read("/health") is None:
        await asyncio.sleep(POLL_S)
    await api.generate(FIRST, Heard(0, FIRST, requests, lambda _: None))
