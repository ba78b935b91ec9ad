"""Every operation once, as a generator: it yields a request, is sent the response and returns the
result.

`operation` makes each a method of `Client` and `AsyncClient`, which share all but the sending.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import httpx
import msgspec

from lmaas.accounts.records import NO_LIMITS, Limits, ModelPrice, Price, UsageReport
from lmaas.client.answers import check
from lmaas.client.operation import Call, operation
from lmaas.client.payloads import read_answer, to_payload
from lmaas.config import load_settings
from lmaas.errors import InvalidInput
from lmaas.job import Job, JobKind, JobState, StoredEvent
from lmaas.recipe import Recipe
from lmaas.types import (
    JSON,
    Answer,
    CompressOptions,
    ConnectBody,
    KeyRecord,
    ModelVersion,
    Payload,
    PipelineBody,
    PublishOptions,
    PullBody,
    PushOptions,
    Scope,
    Variant,
    WorkerStatus,
    know_records,
)

Heard = Callable[[StoredEvent], object]
"""Is told each event of a job."""
LENGTH = "inference-header-content-length"
NOT_WAITING = {"wait": "false"}
"""Has the answer be the job that was queued."""
OCTETS = "application/octet-stream"
TIMEOUT_S = 150.0
PUBLISH_TIMEOUT_S = 1200.0
WAITING = ("queued", "running")
"""States of a job that goes on by itself."""


class TranscribeOptions(TypedDict, total=False):
    """What may be said of a sound that is to be written down."""

    language: str | None
    """A code such as "en"; the model tells where it is left out."""
    prompt: str | None
    """Names and words that may be spoken, or the text before."""
    temperature: float | None
    words: bool
    """Tell when each word is spoken."""
    segments: bool
    """Tell when each stretch of speech is spoken; also where `words` is left out."""


class Calls:
    """What can be asked of a server, without saying how it is sent."""

    def __init__(self, url: str, key: str | None) -> None:
        know_records()  # a client may be used in threads
        self.url = url.rstrip("/")
        self.key = key
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def _request(self, method: str, path: str, **content: Any) -> httpx.Request:
        headers = self._headers | content.pop("headers", {})
        return httpx.Request(method, self.url + path, headers=headers, **content)

    @operation
    def predict(self, /, model: str, given: Any, **parameters: Any) -> Call[Any]:
        """The model's answer to `given`.

        An image file's path or bytes, a PIL image or uint8 pixels give labels with scores, or
        objects with boxes; other arrays and nested lists go in as the model's own input; a mapping
        of arrays by input name gives a mapping of output arrays. A list of texts gives labels for
        each; a row of named values (`{"age": 31, "job": "nurse"}`), or a list of rows, gives labels
        or a number.
        """
        payload = to_payload(given, parameters)
        return read_answer((yield from Calls.answer.call(self, model, payload)))

    @operation
    def answer(self, model: str, payload: Payload) -> Call[Answer]:
        """The raw answer to a request body; `to_payload` and `read_answer` are its two ends."""
        path, headers = f"/models/{model}", {"content-type": OCTETS}
        if payload.media_type == JSON:
            headers = {"content-type": "application/json"}
        if payload.json_bytes is not None:
            path, headers = f"/v2{path}/infer", {**headers, LENGTH: str(payload.json_bytes)}
        response = yield self._request("POST", path, content=payload.body, headers=headers)
        check(response)
        length = response.headers.get(LENGTH)
        return Answer(body=response.content, json_bytes=int(length) if length else None)

    def _transcribe(
        self, model: str, audio: bytes | str | os.PathLike[str], options: TranscribeOptions
    ) -> httpx.Request:
        """A form with a file and what is asked about it, answered by a stream."""
        data = audio if isinstance(audio, bytes) else _content(Path(audio))
        name = "sound" if isinstance(audio, bytes) else Path(audio).name
        fields: dict[str, Any] = {
            "model": model,
            "response_format": "verbose_json",
            "stream": "true",
            "timestamp_granularities[]": [
                kind for kind in ("segment", "word") if options.get(f"{kind}s")
            ]
            or ["segment"],
        }
        fields |= {
            name: str(options[name])
            for name in ("language", "prompt", "temperature")
            if options.get(name) is not None
        }
        return self._request(
            "POST", "/v1/audio/transcriptions", data=fields, files={"file": (name, data)}
        )

    @operation
    def models(self) -> Call[list[str]]:
        """The names of all models."""
        response = yield self._request("GET", "/v1/models")
        check(response)
        return [str(model["id"]) for model in response.json()["data"]]

    @operation
    def task(self, ref: str) -> Call[str]:
        """What a model does."""
        response = yield self._request("GET", f"/v1/models/{ref}")
        check(response)
        return str(response.json()["task"])

    @operation
    def model(self, ref: str) -> Call[ModelVersion]:
        """One version in full; needs a key with the scope admin."""
        response = yield self._request("GET", f"/api/models/{ref}")
        check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    @operation
    def start_push(self, path: str | os.PathLike[str], options: PushOptions | None) -> Call[Job]:
        """Upload a model and return the job that imports it."""
        path = Path(path)
        if not path.exists():
            raise InvalidInput(f"{path} does not exist.", param="path")
        files = files_of(path)
        root = path.parent if path.is_file() else path
        with contextlib.ExitStack() as stack:
            parts = [("file", file.relative_to(root).as_posix(), file) for file in files]
            if options is not None and options.sample is not None:
                parts.append(("sample", Path(options.sample).name, Path(options.sample)))
                options = msgspec.structs.replace(options, sample=None)
            response = yield self._request(
                "POST",
                "/api/models",
                params=NOT_WAITING,
                data={} if options is None else {"options": msgspec.json.encode(options).decode()},
                files=[
                    (n, (told, stack.enter_context(f.open("rb")), OCTETS)) for n, told, f in parts
                ],
                extensions={"timeout": httpx.Timeout(PUBLISH_TIMEOUT_S).as_dict()},
            )
        check(response)
        return msgspec.json.decode(response.content, type=Job)

    @operation
    def start_pull(
        self,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
    ) -> Call[Job]:
        """Queue a pull and return its job; one of the same that has not ended is returned."""
        body = PullBody(repo=repo, name=name, task=task, token=token)
        response = yield self._request(
            "POST",
            "/api/pulls",
            params=NOT_WAITING,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
        )
        check(response)
        return msgspec.json.decode(response.content, type=Job)

    @operation
    def connect_upstream(self, body: ConnectBody) -> Call[ModelVersion]:
        """Serve a model that another service runs; needs a key with the scope admin."""
        response = yield self._request(
            "POST",
            "/api/upstreams",
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
        )
        check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    @operation
    def make_pipeline(
        self, name: str, *, task: str, parts: Mapping[str, str], card: str = ""
    ) -> Call[ModelVersion]:
        """Make one model of several; `parts` names a model for each role that the task has.

        They are copied as they are now. Needs a key with the scope admin. Raises InvalidInput for
        parts that do not fit, ModelNotFound for those that are not there.
        """
        body = PipelineBody(name=name, task=task, parts=dict(parts), card=card)
        response = yield self._request(
            "POST",
            "/api/pipelines",
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
            extensions={"timeout": httpx.Timeout(PUBLISH_TIMEOUT_S).as_dict()},
        )
        check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    @operation
    def start_compress(self, ref: str, options: CompressOptions) -> Call[Job]:
        """Queue a compression and return its job, or that of the same one that has not ended."""
        response = yield self._request(
            "POST",
            f"/api/models/{ref}/compress",
            params=NOT_WAITING,
            content=msgspec.json.encode(options),
            headers={"content-type": "application/json"},
        )
        check(response)
        return msgspec.json.decode(response.content, type=Job)

    @operation
    def catalog(self) -> Call[list[ModelVersion]]:
        """The latest version of every model in full; needs a key with the scope admin."""
        response = yield self._request("GET", "/api/models")
        check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    @operation
    def list_keys(self) -> Call[list[KeyRecord]]:
        """All keys, without their secrets; needs a key with the scope admin."""
        response = yield self._request("GET", "/api/keys")
        check(response)
        return msgspec.json.decode(response.content, type=list[KeyRecord])

    @operation
    def create_key(
        self, name: str, scopes: Sequence[Scope], limits: Limits = NO_LIMITS
    ) -> Call[tuple[KeyRecord, str]]:
        """Make a key and tell its text, this once; needs a key with the scope admin."""
        body = {"name": name, "scopes": list(scopes), "limits": msgspec.to_builtins(limits)}
        response = yield self._request("POST", "/api/keys", json=body)
        check(response)
        told = response.json()
        return msgspec.convert(told["record"], KeyRecord), str(told["key"])

    @operation
    def usage(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        by: Sequence[str] = (),
        key_id: str | None = None,
    ) -> Call[UsageReport]:
        """Usage from day `start` to day `end` (UTC), by any of key, model and day.

        A key without the scope admin gets its own.
        """
        asked = {"start": start, "end": end, "group_by": ",".join(by) or None, "key": key_id}
        params = {name: value for name, value in asked.items() if value is not None}
        response = yield self._request("GET", "/v1/usage", params=params)
        check(response)
        return msgspec.json.decode(response.content, type=UsageReport)

    @operation
    def limits(self, key_id: str | None = None) -> Call[Limits]:
        """The limits of a key, or (None) of all keys together; needs the scope admin."""
        return (yield from self._limits(key_id, None))

    @operation
    def set_limits(self, key_id: str | None, limits: Limits) -> Call[Limits]:
        """Replace the limits of a key, or (None) of all keys together; needs the scope admin."""
        return (yield from self._limits(key_id, limits))

    @operation
    def prices(self) -> Call[list[ModelPrice]]:
        """What the models cost; needs the scope admin."""
        response = yield self._request("GET", "/api/prices")
        check(response)
        return msgspec.json.decode(response.content, type=list[ModelPrice])

    @operation
    def set_price(self, model: str, price: Price) -> Call[ModelPrice]:
        """Set what a model costs; needs the scope admin."""
        path = f"/api/prices/{model}"
        response = yield self._request("PUT", path, json=msgspec.to_builtins(price))
        check(response)
        return msgspec.json.decode(response.content, type=ModelPrice)

    @operation
    def revoke_key(self, key_id: str) -> Call[KeyRecord]:
        """End a key now; needs a key with the scope admin."""
        response = yield self._request("DELETE", f"/api/keys/{key_id}")
        check(response)
        return msgspec.json.decode(response.content, type=KeyRecord)

    @operation
    def versions(self, name: str) -> Call[list[ModelVersion]]:
        """All versions of a model, oldest first; needs a key with the scope admin."""
        response = yield self._request("GET", f"/api/models/{name}/versions")
        check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[ModelVersion]:
        """Point `name@alias` at a version; needs a key with the scope admin."""
        path = f"/api/models/{name}/aliases/{alias}"
        response = yield self._request("PUT", path, json={"version": version})
        check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    @operation
    def remove(self, ref: str, *, force: bool = False) -> Call[list[ModelVersion]]:
        """Remove a version (`name:3`) or a model; needs a key with the scope admin."""
        query = "?force=true" if force else ""
        response = yield self._request("DELETE", f"/api/models/{ref}{query}")
        check(response)
        return msgspec.json.decode(response.content, type=list[ModelVersion])

    @operation
    def ps(self) -> Call[list[WorkerStatus]]:
        """The loaded models; needs a key with the scope admin."""
        response = yield self._request("GET", "/api/workers")
        check(response)
        return msgspec.json.decode(response.content, type=list[WorkerStatus])

    @operation
    def stop(self, ref: str) -> Call[ModelVersion]:
        """Unload a model after its running requests; needs a key with the scope admin."""
        response = yield self._request("POST", f"/api/models/{ref}/stop")
        check(response)
        return msgspec.json.decode(response.content, type=ModelVersion)

    @operation
    def train(self, recipe: Recipe, *, priority: int = 0) -> Call[Job]:
        """Queue a training run; needs a key with the scope admin. Paths are the server's."""
        body = {"recipe": msgspec.to_builtins(recipe), "priority": priority}
        response = yield self._request("POST", "/api/jobs", json=body)
        check(response)
        return msgspec.json.decode(response.content, type=Job)

    @operation
    def upload_file(self, path: str | os.PathLike[str]) -> Call[str]:
        """Send a file of training data; its id stands for a path in a recipe's data."""
        path = Path(path)
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
        check(response)
        return str(response.json()["id"])

    @operation
    def jobs(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        state: JobState | None = None,
        kind: JobKind | None = None,
    ) -> Call[list[Job]]:
        """Jobs, newest first; `after` is the last id of the page before."""
        asked = {"after": after, "limit": str(limit), "state": state, "kind": kind}
        params = {name: value for name, value in asked.items() if value is not None}
        response = yield self._request("GET", "/api/jobs", params=params)
        check(response)
        return msgspec.json.decode(response.content, type=list[Job])

    @operation
    def job(self, job_id: str) -> Call[Job]:
        """One job with its checkpoints."""
        return (yield from self._job(job_id, None))

    @operation
    def cancel_job(self, job_id: str) -> Call[Job]:
        """End a job within seconds."""
        return (yield from self._job(job_id, "cancel"))

    @operation
    def pause_job(self, job_id: str) -> Call[Job]:
        """Hold a job, with a checkpoint of where it is."""
        return (yield from self._job(job_id, "pause"))

    @operation
    def resume_job(self, job_id: str) -> Call[Job]:
        """Put a paused job back into the queue."""
        return (yield from self._job(job_id, "resume"))

    @operation
    def job_events(
        self, job_id: str, *, after: int = 0, limit: int = 100
    ) -> Call[list[StoredEvent]]:
        """A job's events in order, those after number `after`."""
        params = {"after": after, "limit": limit}
        response = yield self._request("GET", f"/api/jobs/{job_id}/events", params=params)
        check(response)
        return msgspec.json.decode(response.content, type=list[StoredEvent])

    @operation
    def job_log(self, job_id: str) -> Call[str]:
        """The end of what a job's process has printed."""
        response = yield self._request("GET", f"/api/jobs/{job_id}/log")
        check(response)
        return str(response.json()["log"])

    def _limits(self, key_id: str | None, given: Limits | None) -> Call[Limits]:
        path = "/api/limits" if key_id is None else f"/api/keys/{key_id}/limits"
        if given is None:
            response = yield self._request("GET", path)
        else:
            response = yield self._request("PUT", path, json=msgspec.to_builtins(given))
        check(response)
        return msgspec.json.decode(response.content, type=Limits)

    def _job(self, job_id: str, verb: Literal["cancel", "pause", "resume"] | None) -> Call[Job]:
        path = f"/api/jobs/{job_id}"
        if verb is None:
            response = yield self._request("GET", path)
        else:
            response = yield self._request("POST", f"{path}/{verb}")
        check(response)
        return msgspec.json.decode(response.content, type=Job)

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

    def _follow_job(self, job_id: str, after: int) -> httpx.Request:
        params = {"after": str(after), "stream": "true"}
        timeout = httpx.Timeout(TIMEOUT_S, read=None).as_dict()
        return self._request(
            "GET",
            f"/api/jobs/{job_id}/events",
            params=params,
            extensions={"timeout": timeout},
        )


def ignore(event: object) -> None:
    """Hears nothing."""


def made_by(options: CompressOptions, version: ModelVersion) -> Variant:
    """The smaller form that was asked for."""
    return next(variant for variant in version.variants if variant.name == options.to)


def build_package(
    model: Any,
    name: str,
    task: str,
    sample: Any,
    folder: Path,
    options: PublishOptions,
    logs: Path | None = None,
) -> None:
    """Write the package of `model`, as `lmaas.publish` makes it, into `folder`.

    What libraries say on the way goes into a file in `logs` (a home's own unless given), which
    errors name.
    """
    from lmaas.frameworks import package
    from lmaas.frameworks.log import captured

    with captured(logs or load_settings({}).home_path / "logs", f"publish-{name}"):
        package.build(model, name=name, task=task, sample=sample, folder=folder, **options)


def files_of(path: Path) -> list[Path]:
    """What is sent of `path`: of a checkpoint its own files, of another folder all."""
    from lmaas.frameworks import checkpoint

    if path.is_file():
        return [path]
    if checkpoint.is_checkpoint(path):
        return checkpoint.own_files(path)
    return sorted(p for p in path.rglob("*") if p.is_file())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", param="audio") from None
