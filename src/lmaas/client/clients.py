"""The two clients: one sends and waits, the other is awaited."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Self, Unpack

import httpx

from lmaas.client.answers import (
    ChatPiece,
    HeardPiece,
    check,
    event_of,
    explained,
    heard_of,
    pause_s,
    piece_of,
    whole_of,
)
from lmaas.client.calls import (
    TIMEOUT_S,
    WAITING,
    Calls,
    Heard,
    TranscribeOptions,
    build_package,
    ignore,
    made_by,
)
from lmaas.client.operation import Call, T
from lmaas.config import load_settings
from lmaas.errors import Unavailable
from lmaas.job import Job, StoredEvent, raise_error
from lmaas.registry.lock import HomeLock
from lmaas.transcription_types import Transcript
from lmaas.types import (
    CompressOptions,
    ModelVersion,
    PublishOptions,
    PushOptions,
    Variant,
)


class Client(Calls):
    """Talks to one server; a context manager."""

    def __init__(self, url: str, key: str | None) -> None:
        super().__init__(url, key)
        self._http = httpx.Client(timeout=TIMEOUT_S)

    def _run(self, call: Call[T]) -> T:
        request = next(call)
        tries = 1
        try:
            while True:
                with explained(self.url):
                    response = self._http.send(request)
                wait_s = pause_s(request, response, tries)
                if wait_s is not None:
                    time.sleep(wait_s)
                    tries += 1
                    continue
                request = call.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def publish(
        self, model: Any, *, name: str, task: str, sample: Any, **options: Unpack[PublishOptions]
    ) -> ModelVersion:
        """Export a live model in this process and register it on the server.

        The server verifies the compiled model again. Needs a key with the scope admin. Raises
        ParityFailed when it does not give the model's own outputs.
        """
        with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
            folder = Path(scratch) / "package"
            build_package(model, name, task, sample, folder, options)
            return self.push(folder, None)

    def push(
        self, path: str | os.PathLike[str], options: PushOptions | None, *, heard: Heard = ignore
    ) -> ModelVersion:
        """Upload a .keras, .onnx or .gguf file, a SavedModel, a checkpoint, or (options None) a
        package, and return when it is registered.

        `heard` gets each event of the job. The job continues on the server if you disconnect.
        """
        job = self.start_push(path, options)
        return self.model(str(self.wait_for_job(job.id, heard).model))

    def pull(
        self,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
        heard: Heard = ignore,
    ) -> ModelVersion:
        """Let the server download `ORG/NAME[@revision]` from its hub and register it.

        Returns when it is done. `heard` gets each event of the job, which continues on the
        server if you disconnect. Needs a key with the scope admin. `token` is your token for the
        hub; the server keeps it until the job has ended.
        """
        job = self.start_pull(repo, name=name, task=task, token=token)
        return self.model(str(self.wait_for_job(job.id, heard).model))

    def compress(self, ref: str, options: CompressOptions, *, heard: Heard = ignore) -> Variant:
        """Make a smaller variant of a language model; needs a key with the scope admin.

        `heard` gets each event of the job. The job continues on the server if you disconnect.
        Raises ParityFailed when its perplexity rises by more than `options.max_drop`.
        """
        job = self.start_compress(ref, options)
        return made_by(options, self.model(str(self.wait_for_job(job.id, heard).model)))

    def follow_job(self, job_id: str, *, after: int = 0) -> Generator[StoredEvent, None, None]:
        """A job's events as they come, until it ends or is paused."""
        request = self._follow_job(job_id, after)
        with explained(self.url):
            response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
                check(response)
            with explained(self.url):
                for line in response.iter_lines():
                    if event := event_of(line):
                        yield event

    def wait_for_job(self, job_id: str, heard: Heard = ignore, *, after: int = 0) -> Job:
        """Wait until the job ends or is paused, and return it; `heard` gets each event.

        Raises what the job failed with, and Cancelled when somebody cancelled it.
        """
        while True:
            for event in self.follow_job(job_id, after=after):
                after = event.seq
                heard(event)
            job = self.job(job_id)
            if job.state not in WAITING:
                raise_error(job)
                return job

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool = True,
        **options: Any,
    ) -> Generator[ChatPiece, None, None]:
        """A language model's answer to a conversation, in pieces as they come.

        `messages` and `options` (temperature, max_tokens, seed, …) are those of OpenAI's chat
        completions. The last piece has `finish` and `usage`. Closing it cancels the request.
        """
        request = self._chat(model, messages, stream, options)
        with explained(self.url):
            response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
                check(response)
            with explained(self.url):
                if not stream:
                    response.read()
                    yield whole_of(response.content)
                    return
                for line in response.iter_lines():
                    if piece := piece_of(line):
                        yield piece

    def transcribe(
        self,
        model: str,
        audio: bytes | str | os.PathLike[str],
        *,
        heard: Callable[[HeardPiece], object] = ignore,
        **options: Unpack[TranscribeOptions],
    ) -> Transcript:
        """What is spoken in a sound, a file's path or its bytes.

        `heard` gets each piece of the text as it comes.
        """
        request = self._transcribe(model, audio, options)
        with explained(self.url):
            response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
                check(response)
            with explained(self.url):
                for line in response.iter_lines():
                    if piece := heard_of(line):
                        heard(piece)
                        if piece.transcript is not None:
                            return piece.transcript
        raise Unavailable("The answer ended before the transcript was complete.")


class AsyncClient(Calls):
    """The same calls, to be awaited; an async context manager."""

    def __init__(self, url: str, key: str | None) -> None:
        super().__init__(url, key)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def _run(self, call: Call[T]) -> T:
        request = next(call)
        tries = 1
        try:
            while True:
                with explained(self.url):
                    response = await self._http.send(request)
                wait_s = pause_s(request, response, tries)
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
                    tries += 1
                    continue
                request = call.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool = True,
        **options: Any,
    ) -> AsyncGenerator[ChatPiece, None]:
        """See `Client.chat`."""
        request = self._chat(model, messages, stream, options)
        with explained(self.url):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
                check(response)
            with explained(self.url):
                if not stream:
                    await response.aread()
                    yield whole_of(response.content)
                    return
                async for line in response.aiter_lines():
                    if piece := piece_of(line):
                        yield piece

    async def transcribe(
        self,
        model: str,
        audio: bytes | str | os.PathLike[str],
        *,
        heard: Callable[[HeardPiece], object] = ignore,
        **options: Unpack[TranscribeOptions],
    ) -> Transcript:
        """See `Client.transcribe`."""
        request = await asyncio.to_thread(self._transcribe, model, audio, options)
        with explained(self.url):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
                check(response)
            with explained(self.url):
                async for line in response.aiter_lines():
                    if piece := heard_of(line):
                        heard(piece)
                        if piece.transcript is not None:
                            return piece.transcript
        raise Unavailable("The answer ended before the transcript was complete.")

    async def publish(
        self, model: Any, *, name: str, task: str, sample: Any, **options: Unpack[PublishOptions]
    ) -> ModelVersion:
        """See `Client.publish`."""
        with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
            folder = Path(scratch) / "package"
            await asyncio.to_thread(build_package, model, name, task, sample, folder, options)
            return await self.push(folder, None)

    async def push(
        self, path: str | os.PathLike[str], options: PushOptions | None, *, heard: Heard = ignore
    ) -> ModelVersion:
        """See `Client.push`."""
        job = await self.start_push(path, options)
        return await self.model(str((await self.wait_for_job(job.id, heard)).model))

    async def pull(
        self,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
        heard: Heard = ignore,
    ) -> ModelVersion:
        """See `Client.pull`."""
        job = await self.start_pull(repo, name=name, task=task, token=token)
        return await self.model(str((await self.wait_for_job(job.id, heard)).model))

    async def compress(
        self, ref: str, options: CompressOptions, *, heard: Heard = ignore
    ) -> Variant:
        """See `Client.compress`."""
        job = await self.start_compress(ref, options)
        job = await self.wait_for_job(job.id, heard)
        return made_by(options, await self.model(str(job.model)))

    async def follow_job(self, job_id: str, *, after: int = 0) -> AsyncGenerator[StoredEvent, None]:
        """See `Client.follow_job`."""
        request = self._follow_job(job_id, after)
        with explained(self.url):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
                check(response)
            with explained(self.url):
                async for line in response.aiter_lines():
                    if event := event_of(line):
                        yield event

    async def wait_for_job(self, job_id: str, heard: Heard = ignore, *, after: int = 0) -> Job:
        """See `Client.wait_for_job`."""
        while True:
            async for event in self.follow_job(job_id, after=after):
                after = event.seq
                heard(event)
            job = await self.job(job_id)
            if job.state not in WAITING:
                raise_error(job)
                return job

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def connect(url: str | None = None, key: str | None = None) -> Client:
    """A client of the server at `url`, else of `LMAAS_URL`, else of this home's live server."""
    return Client(*_where(url, key))


def connect_async(url: str | None = None, key: str | None = None) -> AsyncClient:
    """`connect` for code that awaits."""
    return AsyncClient(*_where(url, key))


def _where(url: str | None, key: str | None) -> tuple[str, str | None]:
    settings = load_settings({"url": url, "key": key})
    live = HomeLock.read(settings.home_path) or {}
    here = f"http://{settings.host}:{settings.port}"
    return settings.url or str(live.get("url", here)), settings.key
