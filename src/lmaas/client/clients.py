"""The two clients: one sends and waits, the other is awaited."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Self, Unpack

import httpx

from lmaas.accounts.records import NO_LIMITS, Limits, ModelPrice, Price, UsageReport
from lmaas.client.calls import (
    TIMEOUT_S,
    WAITING,
    Call,
    Calls,
    ChatPiece,
    Heard,
    T,
    build_package,
    check,
    event_of,
    explained,
    ignore,
    made_by,
    pause_s,
    piece_of,
    whole_of,
)
from lmaas.config import load_settings
from lmaas.job import Job, JobState, StoredEvent, raise_error
from lmaas.recipe import Recipe
from lmaas.registry.lock import HomeLock
from lmaas.types import (
    Answer,
    CompressOptions,
    ConnectBody,
    KeyRecord,
    ModelVersion,
    Payload,
    PublishOptions,
    PullBody,
    PushOptions,
    Scope,
    Variant,
    WorkerStatus,
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

    def predict(self, model: str, given: Any, **parameters: Any) -> Any:
        """The model's answer to `given`.

        An image file's path or bytes, a PIL image or uint8 pixels give labels with scores; other
        arrays and nested lists go in as the model's own input; a mapping of arrays by input name
        gives a mapping of output arrays. A list of texts gives labels for each; a row of named
        values (`{"age": 31, "job": "nurse"}`), or a list of rows, gives labels or a number.
        """
        return self._run(self._predict(model, given, parameters))

    def answer(self, model: str, payload: Payload) -> Answer:
        """The raw answer to a request body; `to_payload` and `read_answer` are its two ends."""
        return self._run(self._answer(model, payload))

    def models(self) -> list[str]:
        """The names of all models."""
        return self._run(self._models())

    def task(self, ref: str) -> str:
        """What a model does."""
        return self._run(self._task(ref))

    def model(self, ref: str) -> ModelVersion:
        """One version in full; needs a key with the scope admin."""
        return self._run(self._model(ref))

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

        `heard` is told each event of its job, which goes on at the server when you go away.
        """
        job = self.start_push(path, options)
        return self.model(str(self.wait_for_job(job.id, heard).model))

    def start_push(self, path: str | os.PathLike[str], options: PushOptions | None) -> Job:
        """Upload a model and return the job that imports it."""
        return self._run(self._start_push(Path(path), options))

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

        Returns when it is done; `heard` is told each event of its job, which goes on at the server
        when you go away. Needs a key with the scope admin. `token` is yours for the hub; the server
        keeps it until the job has ended.
        """
        job = self.start_pull(repo, name=name, task=task, token=token)
        return self.model(str(self.wait_for_job(job.id, heard).model))

    def start_pull(
        self,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
    ) -> Job:
        """Queue a pull and return its job; one of the same that has not ended is returned."""
        body = PullBody(repo=repo, name=name, task=task, token=token)
        return self._run(self._start_pull(body))

    def connect_upstream(self, body: ConnectBody) -> ModelVersion:
        """Serve a model that another service runs; needs a key with the scope admin."""
        return self._run(self._connect_upstream(body))

    def compress(self, ref: str, options: CompressOptions, *, heard: Heard = ignore) -> Variant:
        """Make a smaller variant of a language model; needs a key with the scope admin.

        `heard` is told each event of its job, which goes on at the server when you go away. Raises
        ParityFailed when its perplexity rises by more than `options.max_drop`.
        """
        job = self.start_compress(ref, options)
        return made_by(options, self.model(str(self.wait_for_job(job.id, heard).model)))

    def start_compress(self, ref: str, options: CompressOptions) -> Job:
        """Queue a compression and return its job, or that of the same one that has not ended."""
        return self._run(self._start_compress(ref, options))

    def catalog(self) -> list[ModelVersion]:
        """The latest version of every model in full; needs a key with the scope admin."""
        return self._run(self._catalog())

    def list_keys(self) -> list[KeyRecord]:
        """All keys, without their secrets; needs a key with the scope admin."""
        return self._run(self._list_keys())

    def create_key(
        self, name: str, scopes: Sequence[Scope], limits: Limits = NO_LIMITS
    ) -> tuple[KeyRecord, str]:
        """Make a key and tell its text, this once; needs a key with the scope admin."""
        return self._run(self._create_key(name, scopes, limits))

    def usage(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        by: Sequence[str] = (),
        key_id: str | None = None,
    ) -> UsageReport:
        """Usage from day `start` to day `end` (UTC), by any of key, model and day.

        A key without the scope admin gets its own.
        """
        return self._run(self._usage(start, end, by, key_id))

    def limits(self, key_id: str | None = None) -> Limits:
        """The limits of a key, or (None) of all keys together; needs the scope admin."""
        return self._run(self._limits(key_id, None))

    def set_limits(self, key_id: str | None, limits: Limits) -> Limits:
        """Replace the limits of a key, or (None) of all keys together; needs the scope admin."""
        return self._run(self._limits(key_id, limits))

    def prices(self) -> list[ModelPrice]:
        """What the models cost; needs the scope admin."""
        return self._run(self._prices())

    def set_price(self, model: str, price: Price) -> ModelPrice:
        """Set what a model costs; needs the scope admin."""
        return self._run(self._set_price(model, price))

    def revoke_key(self, key_id: str) -> KeyRecord:
        """End a key now; needs a key with the scope admin."""
        return self._run(self._revoke_key(key_id))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first; needs a key with the scope admin."""
        return self._run(self._versions(name))

    def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """Point `name@alias` at a version; needs a key with the scope admin."""
        return self._run(self._set_alias(name, alias, version))

    def remove(self, ref: str, *, force: bool = False) -> list[ModelVersion]:
        """Remove a version (`name:3`) or a model; needs a key with the scope admin."""
        return self._run(self._remove(ref, force))

    def ps(self) -> list[WorkerStatus]:
        """The loaded models; needs a key with the scope admin."""
        return self._run(self._ps())

    def stop(self, ref: str) -> ModelVersion:
        """Unload a model after its running requests; needs a key with the scope admin."""
        return self._run(self._stop(ref))

    def train(self, recipe: Recipe, *, priority: int = 0) -> Job:
        """Queue a training run; needs a key with the scope admin. Paths are the server's."""
        return self._run(self._train(recipe, priority))

    def upload_file(self, path: str | os.PathLike[str]) -> str:
        """Send a file of training data; its id stands for a path in a recipe's data."""
        return self._run(self._upload_file(Path(path)))

    def jobs(
        self, *, after: str | None = None, limit: int = 20, state: JobState | None = None
    ) -> list[Job]:
        """Jobs, newest first; `after` is the last id of the page before."""
        return self._run(self._jobs(after, limit, state))

    def job(self, job_id: str) -> Job:
        """One job with its checkpoints."""
        return self._run(self._job(job_id, None))

    def cancel_job(self, job_id: str) -> Job:
        """End a job within seconds."""
        return self._run(self._job(job_id, "cancel"))

    def pause_job(self, job_id: str) -> Job:
        """Hold a job, with a checkpoint of where it is."""
        return self._run(self._job(job_id, "pause"))

    def resume_job(self, job_id: str) -> Job:
        """Put a paused job back into the queue."""
        return self._run(self._job(job_id, "resume"))

    def job_events(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[StoredEvent]:
        """A job's events in order, those after number `after`."""
        return self._run(self._job_events(job_id, after, limit))

    def job_log(self, job_id: str) -> str:
        """The end of what a job's process has printed."""
        return self._run(self._job_log(job_id))

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
        """The job at its end, or once it is paused; `heard` is told each event as it comes.

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

    async def predict(self, model: str, given: Any, **parameters: Any) -> Any:
        """See `Client.predict`."""
        return await self._run(self._predict(model, given, parameters))

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

    async def answer(self, model: str, payload: Payload) -> Answer:
        """See `Client.answer`."""
        return await self._run(self._answer(model, payload))

    async def models(self) -> list[str]:
        """The names of all models."""
        return await self._run(self._models())

    async def task(self, ref: str) -> str:
        """See `Client.task`."""
        return await self._run(self._task(ref))

    async def model(self, ref: str) -> ModelVersion:
        """See `Client.model`."""
        return await self._run(self._model(ref))

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

    async def start_push(self, path: str | os.PathLike[str], options: PushOptions | None) -> Job:
        """See `Client.start_push`."""
        return await self._run(self._start_push(Path(path), options))

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

    async def start_pull(
        self,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
    ) -> Job:
        """See `Client.start_pull`."""
        body = PullBody(repo=repo, name=name, task=task, token=token)
        return await self._run(self._start_pull(body))

    async def connect_upstream(self, body: ConnectBody) -> ModelVersion:
        """See `Client.connect_upstream`."""
        return await self._run(self._connect_upstream(body))

    async def compress(
        self, ref: str, options: CompressOptions, *, heard: Heard = ignore
    ) -> Variant:
        """See `Client.compress`."""
        job = await self.start_compress(ref, options)
        job = await self.wait_for_job(job.id, heard)
        return made_by(options, await self.model(str(job.model)))

    async def start_compress(self, ref: str, options: CompressOptions) -> Job:
        """See `Client.start_compress`."""
        return await self._run(self._start_compress(ref, options))

    async def catalog(self) -> list[ModelVersion]:
        """See `Client.catalog`."""
        return await self._run(self._catalog())

    async def list_keys(self) -> list[KeyRecord]:
        """See `Client.list_keys`."""
        return await self._run(self._list_keys())

    async def create_key(
        self, name: str, scopes: Sequence[Scope], limits: Limits = NO_LIMITS
    ) -> tuple[KeyRecord, str]:
        """See `Client.create_key`."""
        return await self._run(self._create_key(name, scopes, limits))

    async def usage(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        by: Sequence[str] = (),
        key_id: str | None = None,
    ) -> UsageReport:
        """See `Client.usage`."""
        return await self._run(self._usage(start, end, by, key_id))

    async def limits(self, key_id: str | None = None) -> Limits:
        """See `Client.limits`."""
        return await self._run(self._limits(key_id, None))

    async def set_limits(self, key_id: str | None, limits: Limits) -> Limits:
        """See `Client.set_limits`."""
        return await self._run(self._limits(key_id, limits))

    async def prices(self) -> list[ModelPrice]:
        """See `Client.prices`."""
        return await self._run(self._prices())

    async def set_price(self, model: str, price: Price) -> ModelPrice:
        """See `Client.set_price`."""
        return await self._run(self._set_price(model, price))

    async def revoke_key(self, key_id: str) -> KeyRecord:
        """See `Client.revoke_key`."""
        return await self._run(self._revoke_key(key_id))

    async def versions(self, name: str) -> list[ModelVersion]:
        """See `Client.versions`."""
        return await self._run(self._versions(name))

    async def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """See `Client.set_alias`."""
        return await self._run(self._set_alias(name, alias, version))

    async def remove(self, ref: str, *, force: bool = False) -> list[ModelVersion]:
        """See `Client.remove`."""
        return await self._run(self._remove(ref, force))

    async def ps(self) -> list[WorkerStatus]:
        """See `Client.ps`."""
        return await self._run(self._ps())

    async def stop(self, ref: str) -> ModelVersion:
        """See `Client.stop`."""
        return await self._run(self._stop(ref))

    async def train(self, recipe: Recipe, *, priority: int = 0) -> Job:
        """See `Client.train`."""
        return await self._run(self._train(recipe, priority))

    async def upload_file(self, path: str | os.PathLike[str]) -> str:
        """See `Client.upload_file`."""
        return await self._run(self._upload_file(Path(path)))

    async def jobs(
        self, *, after: str | None = None, limit: int = 20, state: JobState | None = None
    ) -> list[Job]:
        """See `Client.jobs`."""
        return await self._run(self._jobs(after, limit, state))

    async def job(self, job_id: str) -> Job:
        """See `Client.job`."""
        return await self._run(self._job(job_id, None))

    async def cancel_job(self, job_id: str) -> Job:
        """See `Client.cancel_job`."""
        return await self._run(self._job(job_id, "cancel"))

    async def pause_job(self, job_id: str) -> Job:
        """See `Client.pause_job`."""
        return await self._run(self._job(job_id, "pause"))

    async def resume_job(self, job_id: str) -> Job:
        """See `Client.resume_job`."""
        return await self._run(self._job(job_id, "resume"))

    async def job_events(
        self, job_id: str, *, after: int = 0, limit: int = 100
    ) -> list[StoredEvent]:
        """See `Client.job_events`."""
        return await self._run(self._job_events(job_id, after, limit))

    async def job_log(self, job_id: str) -> str:
        """See `Client.job_log`."""
        return await self._run(self._job_log(job_id))

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
