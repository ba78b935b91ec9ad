"""The Python client: one description of each call, driven synchronously or asynchronously.

A call is a generator that yields one request, is sent its response and returns the result, so
`Client` and `AsyncClient` share every line but the sending.
"""

import asyncio
import base64
import contextlib
import io
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, Unpack

import httpx
import msgspec
import numpy as np
from PIL import Image

from lmaas.accounts.records import NO_LIMITS, Limits, ModelPrice, Price, UsageReport
from lmaas.codecs.tensor import DATATYPES, DTYPES
from lmaas.config import load_settings
from lmaas.errors import BY_CODE, InvalidInput, LMaaSError, Unavailable
from lmaas.job import Job, JobState, StoredEvent
from lmaas.recipe import Recipe
from lmaas.registry.lock import HomeLock
from lmaas.tasks.image_classification import Label
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

T = TypeVar("T")
Call = Generator[httpx.Request, httpx.Response, T]
LENGTH = "inference-header-content-length"
OCTETS = "application/octet-stream"
TIMEOUT_S = 150.0
PUBLISH_TIMEOUT_S = 1200.0
PULL_TIMEOUT_S = 24 * 3600.0
RETRIES = 2
LONGEST_PAUSE_S = 10.0


class _Calls:
    """What can be asked of a server, without saying how it is sent."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def _request(self, method: str, path: str, **content: Any) -> httpx.Request:
        headers = self._headers | content.pop("headers", {})
        return httpx.Request(method, self.url + path, headers=headers, **content)

    def _predict(self, model: str, given: Any, parameters: dict[str, Any]) -> Call[Any]:
        return read_answer((yield from self._answer(model, to_payload(given, parameters))))

    def _answer(self, model: str, payload: Payload) -> Call[Answer]:
        path, headers = f"/models/{model}", {"content-type": OCTETS}
        if payload.format == "json":
            headers = {"content-type": "application/json"}
        if payload.json_bytes is not None:
            path, headers = f"/v2{path}/infer", {**headers, LENGTH: str(payload.json_bytes)}
        response = yield self._request("POST", path, content=payload.body, headers=headers)
        _check(response)
        length = response.headers.get(LENGTH)
        return Answer(body=response.content, json_bytes=int(length) if length else None)

    def _models(self) -> Call[list[str]]:
        response = yield self._request("GET", "/v1/models")
        _check(response)
        return [str(model["id"]) for model in response.json()["data"]]

    def _model(self, ref: str) -> Call[ModelVersion]:
        response = yield self._request("GET", f"/api/models/{ref}")
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    def _push(self, path: Path, options: PushOptions | None) -> Call[ModelVersion]:
        if not path.exists():
            raise InvalidInput(f"{path} does not exist.", param="path")
        files = _files_of(path)
        root = path.parent if path.is_file() else path
        with contextlib.ExitStack() as stack:
            parts = [("file", file.relative_to(root).as_posix(), file) for file in files]
            if options is not None and options.sample is not None:
                parts.append(("sample", Path(options.sample).name, Path(options.sample)))
                options = msgspec.structs.replace(options, sample=None)
            response = yield self._request(
                "POST",
                "/api/models",
                data={} if options is None else {"options": msgspec.json.encode(options).decode()},
                files=[
                    (n, (told, stack.enter_context(f.open("rb")), OCTETS)) for n, told, f in parts
                ],
                extensions={"timeout": httpx.Timeout(PUBLISH_TIMEOUT_S).as_dict()},
            )
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    def _pull(self, body: PullBody) -> Call[ModelVersion]:
        response = yield self._request(
            "POST",
            "/api/pull",
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
            extensions={"timeout": httpx.Timeout(TIMEOUT_S, read=PULL_TIMEOUT_S).as_dict()},
        )
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    def _connect_upstream(self, body: ConnectBody) -> Call[ModelVersion]:
        response = yield self._request(
            "POST",
            "/api/upstreams",
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
        )
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    def _compress(self, ref: str, options: CompressOptions) -> Call[Variant]:
        response = yield self._request(
            "POST",
            f"/api/models/{ref}/compress",
            content=msgspec.json.encode(options),
            headers={"content-type": "application/json"},
            extensions={"timeout": httpx.Timeout(PUBLISH_TIMEOUT_S).as_dict()},
        )
        _check(response)
        return msgspec.json.decode(response.content, type=Variant)

    def _catalog(self) -> Call[list[ModelVersion]]:
        response = yield self._request("GET", "/api/models")
        _check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    def _chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        stream: bool,
        options: Mapping[str, Any],
    ) -> httpx.Request:
        body = {"model": model, "messages": list(messages), **options, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        return self._request("POST", "/v1/chat/completions", json=body)

    def _list_keys(self) -> Call[list[KeyRecord]]:
        response = yield self._request("GET", "/api/keys")
        _check(response)
        return msgspec.json.decode(response.content, type=list[KeyRecord])

    def _create_key(
        self, name: str, scopes: Sequence[Scope], limits: Limits
    ) -> Call[tuple[KeyRecord, str]]:
        body = {"name": name, "scopes": list(scopes), "limits": msgspec.to_builtins(limits)}
        response = yield self._request("POST", "/api/keys", json=body)
        _check(response)
        told = response.json()
        return msgspec.convert(told["record"], KeyRecord), str(told["key"])

    def _revoke_key(self, key_id: str) -> Call[KeyRecord]:
        response = yield self._request("DELETE", f"/api/keys/{key_id}")
        _check(response)
        return msgspec.json.decode(response.content, type=KeyRecord)

    def _usage(
        self, start: str | None, end: str | None, by: Sequence[str], key_id: str | None
    ) -> Call[UsageReport]:
        asked = {"start": start, "end": end, "group_by": ",".join(by) or None, "key": key_id}
        params = {name: value for name, value in asked.items() if value is not None}
        response = yield self._request("GET", "/v1/usage", params=params)
        _check(response)
        return msgspec.json.decode(response.content, type=UsageReport)

    def _limits(self, key_id: str | None, given: Limits | None) -> Call[Limits]:
        path = "/api/limits" if key_id is None else f"/api/keys/{key_id}/limits"
        if given is None:
            response = yield self._request("GET", path)
        else:
            response = yield self._request("PUT", path, json=msgspec.to_builtins(given))
        _check(response)
        return msgspec.json.decode(response.content, type=Limits)

    def _prices(self) -> Call[list[ModelPrice]]:
        response = yield self._request("GET", "/api/prices")
        _check(response)
        return msgspec.json.decode(response.content, type=list[ModelPrice])

    def _set_price(self, model: str, price: Price) -> Call[ModelPrice]:
        path = f"/api/prices/{model}"
        response = yield self._request("PUT", path, json=msgspec.to_builtins(price))
        _check(response)
        return msgspec.json.decode(response.content, type=ModelPrice)

    def _versions(self, name: str) -> Call[list[ModelVersion]]:
        response = yield self._request("GET", f"/api/models/{name}/versions")
        _check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    def _set_alias(self, name: str, alias: str, version: int) -> Call[ModelVersion]:
        path = f"/api/models/{name}/aliases/{alias}"
        response = yield self._request("PUT", path, json={"version": version})
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    def _remove(self, ref: str, force: bool) -> Call[list[ModelVersion]]:
        query = "?force=true" if force else ""
        response = yield self._request("DELETE", f"/api/models/{ref}{query}")
        _check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    def _ps(self) -> Call[list[WorkerStatus]]:
        response = yield self._request("GET", "/api/ps")
        _check(response)
        return msgspec.json.decode(response.content, type=list[WorkerStatus])

    def _train(self, recipe: Recipe, priority: int) -> Call[Job]:
        body = {"recipe": msgspec.to_builtins(recipe), "priority": priority}
        response = yield self._request("POST", "/api/jobs", json=body)
        _check(response)
        return msgspec.json.decode(response.content, type=Job)

    def _upload_file(self, path: Path) -> Call[str]:
        if not path.is_file():
            raise InvalidInput(f"{path} is no file.", param="path")
        with path.open("rb") as file:
            response = yield self._request(
                "POST",
                "/v1/files",
                data={"purpose": "fine-tune"},
                files={"file": (path.name, file, OCTETS)},
                extensions={"timeout": httpx.Timeout(PUBLISH_TIMEOUT_S).as_dict()},
            )
        _check(response)
        return str(response.json()["id"])

    def _jobs(self, after: str | None, limit: int, state: JobState | None) -> Call[list[Job]]:
        asked = {"after": after, "limit": str(limit), "state": state}
        params = {name: value for name, value in asked.items() if value is not None}
        response = yield self._request("GET", "/api/jobs", params=params)
        _check(response)
        return msgspec.json.decode(response.content, type=list[Job])

    def _job(self, job_id: str, verb: Literal["cancel", "pause", "resume"] | None) -> Call[Job]:
        path = f"/api/jobs/{job_id}"
        if verb is None:
            response = yield self._request("GET", path)
        else:
            response = yield self._request("POST", f"{path}/{verb}")
        _check(response)
        return msgspec.json.decode(response.content, type=Job)

    def _job_events(self, job_id: str, after: int, limit: int) -> Call[list[StoredEvent]]:
        params = {"after": after, "limit": limit}
        response = yield self._request("GET", f"/api/jobs/{job_id}/events", params=params)
        _check(response)
        return msgspec.json.decode(response.content, type=list[StoredEvent])

    def _job_log(self, job_id: str) -> Call[str]:
        response = yield self._request("GET", f"/api/jobs/{job_id}/log")
        _check(response)
        return str(response.json()["log"])

    def _follow_job(self, job_id: str, after: int) -> httpx.Request:
        params = {"after": str(after), "stream": "true"}
        timeout = httpx.Timeout(TIMEOUT_S, read=None).as_dict()
        return self._request(
            "GET",
            f"/api/jobs/{job_id}/events",
            params=params,
            extensions={"timeout": timeout},
        )

    def _stop(self, ref: str) -> Call[ModelVersion]:
        response = yield self._request("POST", f"/api/models/{ref}/stop")
        _check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)


class ChatPiece(NamedTuple):
    """A piece of a chat answer; `usage` counts tokens as OpenAI's API does."""

    text: str
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None


class Client(_Calls):
    """Talks to one server; a context manager."""

    def __init__(self, url: str, key: str | None) -> None:
        super().__init__(url, key)
        self._http = httpx.Client(timeout=TIMEOUT_S)

    def _run(self, call: Call[T]) -> T:
        request = next(call)
        tries = 1
        try:
            while True:
                with _explained(self.url):
                    response = self._http.send(request)
                pause_s = _pause_s(request, response, tries)
                if pause_s is not None:
                    time.sleep(pause_s)
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
            _build(model, name, task, sample, folder, options)
            return self._run(self._push(folder, None))

    def push(self, path: str | os.PathLike[str], options: PushOptions | None) -> ModelVersion:
        """Upload a .keras or .onnx file, a SavedModel, a checkpoint or a package (options None)."""
        return self._run(self._push(Path(path), options))

    def pull(self, repo: str, *, name: str | None = None, task: str | None = None) -> ModelVersion:
        """Let the server download `ORG/NAME[@revision]` from its hub and register it.

        Returns when it is done; needs a key with the scope admin. Broken off, the next call
        continues the download.
        """
        return self._run(self._pull(PullBody(repo=repo, name=name, task=task)))

    def connect_upstream(self, body: ConnectBody) -> ModelVersion:
        """Serve a model that another service runs; needs a key with the scope admin."""
        return self._run(self._connect_upstream(body))

    def compress(self, ref: str, options: CompressOptions) -> Variant:
        """Make a smaller form of a language model; needs a key with the scope admin.

        Raises ParityFailed when its perplexity rises by more than `options.max_drop`.
        """
        return self._run(self._compress(ref, options))

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
        with _explained(self.url):
            response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
                _check(response)
            with _explained(self.url):
                for line in response.iter_lines():
                    if event := _event(line):
                        yield event

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
        with _explained(self.url):
            response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
                _check(response)
            with _explained(self.url):
                if not stream:
                    response.read()
                    yield _whole(response.content)
                    return
                for line in response.iter_lines():
                    if piece := _piece(line):
                        yield piece


class AsyncClient(_Calls):
    """The same calls, to be awaited; an async context manager."""

    def __init__(self, url: str, key: str | None) -> None:
        super().__init__(url, key)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def _run(self, call: Call[T]) -> T:
        request = next(call)
        tries = 1
        try:
            while True:
                with _explained(self.url):
                    response = await self._http.send(request)
                pause_s = _pause_s(request, response, tries)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
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
        with _explained(self.url):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
                _check(response)
            with _explained(self.url):
                if not stream:
                    await response.aread()
                    yield _whole(response.content)
                    return
                async for line in response.aiter_lines():
                    if piece := _piece(line):
                        yield piece

    async def answer(self, model: str, payload: Payload) -> Answer:
        """See `Client.answer`."""
        return await self._run(self._answer(model, payload))

    async def models(self) -> list[str]:
        """The names of all models."""
        return await self._run(self._models())

    async def model(self, ref: str) -> ModelVersion:
        """See `Client.model`."""
        return await self._run(self._model(ref))

    async def publish(
        self, model: Any, *, name: str, task: str, sample: Any, **options: Unpack[PublishOptions]
    ) -> ModelVersion:
        """See `Client.publish`."""
        with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
            folder = Path(scratch) / "package"
            await asyncio.to_thread(_build, model, name, task, sample, folder, options)
            return await self._run(self._push(folder, None))

    async def push(self, path: str | os.PathLike[str], options: PushOptions | None) -> ModelVersion:
        """See `Client.push`."""
        return await self._run(self._push(Path(path), options))

    async def pull(
        self, repo: str, *, name: str | None = None, task: str | None = None
    ) -> ModelVersion:
        """See `Client.pull`."""
        return await self._run(self._pull(PullBody(repo=repo, name=name, task=task)))

    async def connect_upstream(self, body: ConnectBody) -> ModelVersion:
        """See `Client.connect_upstream`."""
        return await self._run(self._connect_upstream(body))

    async def compress(self, ref: str, options: CompressOptions) -> Variant:
        """See `Client.compress`."""
        return await self._run(self._compress(ref, options))

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
        with _explained(self.url):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
                _check(response)
            with _explained(self.url):
                async for line in response.aiter_lines():
                    if event := _event(line):
                        yield event

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


def _build(
    model: Any, name: str, task: str, sample: Any, folder: Path, options: PublishOptions
) -> None:
    from lmaas.frameworks import package

    package.build(model, name=name, task=task, sample=sample, folder=folder, **options)


def _files_of(path: Path) -> list[Path]:
    """What is sent of `path`: of a checkpoint its own files, of another folder all."""
    from lmaas.frameworks import checkpoint

    if path.is_file():
        return [path]
    if checkpoint.is_checkpoint(path):
        return checkpoint.own_files(path)
    return sorted(p for p in path.rglob("*") if p.is_file())


def _pause_s(request: httpx.Request, response: httpx.Response, tries: int) -> float | None:
    """How long to wait before `request` is sent again; None when it is not."""
    if response.status_code not in (429, 503) or tries > RETRIES:
        return None
    if not isinstance(request.stream, httpx.ByteStream):
        return None
    if response.headers.get("x-should-retry") == "false":
        return None
    told = response.headers.get("retry-after", "")
    return min(LONGEST_PAUSE_S, float(told)) if told.isdigit() else None


class _explained:
    """Connection failures as errors that say what to do."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx.TransportError):
            raise Unavailable(
                f"No answer from {self._url}: {error}.", hint="Start a server with `lmaas serve`."
            ) from error


def _event(line: str) -> StoredEvent | None:
    """The event of a job that one line of a stream holds."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    return msgspec.json.decode(line[5:], type=StoredEvent)


def _piece(line: str) -> ChatPiece | None:
    """What one line of a stream of events adds. Raises the error that it tells."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    return _whole(line[5:].encode())


def _whole(body: bytes) -> ChatPiece:
    told = msgspec.json.decode(body)
    if "error" in told:
        error = told["error"]
        raise BY_CODE.get(str(error.get("code")), LMaaSError)(str(error.get("message")))
    usage = told.get("usage")
    if not told["choices"]:
        return ChatPiece("", usage=usage)
    choice = told["choices"][0]
    message = choice.get("delta") or choice.get("message") or {}
    return ChatPiece(
        message.get("content") or "",
        message.get("reasoning_content") or "",
        choice.get("finish_reason"),
        usage,
    )


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        told = response.json()
    except ValueError:
        told = {}
    error = told.get("error", told.get("detail", response.text))
    code, message = told.get("error_type", told.get("code")), error
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
    raise BY_CODE.get(str(code), LMaaSError)(str(message), hint=told.get("hint"))


def to_payload(given: Any, parameters: Mapping[str, Any]) -> Payload:
    """What `Client.predict` sends for `given`. Raises InvalidInput."""
    if isinstance(given, Mapping) and all(
        value is None or isinstance(value, str | int | float) for value in given.values()
    ):
        # A row of named values: a tensor has at least the batch axis.
        row = {"inputs": given, "parameters": parameters}
        return Payload(format="json", body=msgspec.json.encode(row))
    if isinstance(given, Mapping):
        if parameters:
            raise InvalidInput(f"Tensors take no parameters; received {sorted(parameters)}.")
        head, body = _write_tensors(given)
        return Payload(format="tensors", body=body, json_bytes=head)
    if isinstance(given, str | os.PathLike):
        given = Path(given).read_bytes()
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        given = Image.fromarray(given)
    if isinstance(given, Image.Image):
        file = io.BytesIO()
        given.save(file, "PNG")
        given = file.getvalue()
    if isinstance(given, bytes) and not parameters:
        return Payload(format="image", body=given)
    if isinstance(given, bytes):
        given = base64.b64encode(given).decode()
    value = given if isinstance(given, str | list) else np.asarray(given).tolist()
    call = {"inputs": value, "parameters": parameters}
    return Payload(format="json", body=msgspec.json.encode(call))


def read_answer(answer: Answer) -> Any:
    """What `Client.predict` gives: labels, values, nested lists by output name, or arrays by it."""
    if answer.json_bytes is not None:
        return _read_tensors(answer.body, answer.json_bytes)
    result = msgspec.json.decode(answer.body)
    if isinstance(result, dict):
        return result["value"] if "value" in result else result["outputs"]
    if result and isinstance(result[0], dict) and "value" in result[0]:
        return [each["value"] for each in result]
    several = bool(result) and isinstance(result[0], list)
    return msgspec.convert(result, list[list[Label]] if several else list[Label])


def _write_tensors(arrays: Mapping[str, Any]) -> tuple[int, bytes]:
    described, parts = [], []
    for name, value in arrays.items():
        array = np.ascontiguousarray(value)
        if array.dtype.name not in DATATYPES:
            raise InvalidInput(f"Input {name!r} has dtype {array.dtype}, which is not served.")
        raw = array.tobytes()
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": DATATYPES[array.dtype.name],
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        parts.append(raw)
    body = {"inputs": described, "parameters": {"binary_data_output": True}}
    head = msgspec.json.encode(body)
    return len(head), b"".join([head, *parts])


def _read_tensors(body: bytes, json_bytes: int) -> dict[str, np.ndarray]:
    told = msgspec.json.decode(body[:json_bytes])
    arrays, start = {}, json_bytes
    for output in told["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        raw = np.frombuffer(body[start:end], DTYPES[output["datatype"]])
        arrays[output["name"]] = raw.reshape(output["shape"])
        start = end
    return arrays
