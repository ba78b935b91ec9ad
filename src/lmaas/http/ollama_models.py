"""Ollama's view of the models: which there are, what one is, which are loaded, and pulling one."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from lmaas.codecs.json import read
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.http.exchange import Exchange
from lmaas.http.ollama_answer import NDJSON
from lmaas.http.ollama_body import HOSTS, LATEST, model_of
from lmaas.http.openai_types import Body
from lmaas.service import Service
from lmaas.types import ModelVersion, PullBody, PullProgress

SPOKEN: Final = "0.12.0"
"""The version of Ollama's interface that is spoken here: some clients want a least one."""
TASKS: Final = {
    "text-generation": "completion",
    "image-text-to-text": "completion",
    "embedding": "embedding",
}
"""The tasks that Ollama's clients call, and what they call them."""
MAX_BODY_BYTES: Final = 65_536
PROGRESS_S: Final = 0.5


class OllamaVersion(msgspec.Struct, frozen=True):
    """Which interface is spoken."""

    version: str


class OllamaDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of a model it is."""

    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be called."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(msgspec.Struct, frozen=True):
    """All of them."""

    models: list[OllamaModel]


class OllamaLoaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: OllamaDetails
    expires_at: str | None
    context_length: int


class OllamaProcesses(msgspec.Struct, frozen=True):
    """The models that are loaded."""

    models: list[OllamaLoaded]


class OllamaShow(Body, frozen=True, kw_only=True):
    """Which model is to be shown; `name` is what `model` was called before."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class OllamaShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is and can do."""

    modified_at: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    license: str = ""


class OllamaPull(Body, frozen=True, kw_only=True):
    """A model of the server's hub to be downloaded: `hf.co/ORG/NAME`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None


class OllamaStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How far a download is."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


async def version(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Which version of Ollama's interface is spoken here."""
    exchange.send_json(OllamaVersion(SPOKEN))


async def tags(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The models of text that can be called."""
    known = await service.read(service.catalog.latest, exchange.tenant)
    shown = [_model(version) for version in known if version.manifest.task in TASKS]
    exchange.send_json(OllamaModels(shown))


async def show(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """What a model is and can do."""
    body = read(await exchange.body(MAX_BODY_BYTES), OllamaShow)
    found = await service.find(exchange.tenant, _named(body.model, body.name))
    language = found.manifest.signature.language
    details = _details(found)
    info: dict[str, Any] = {
        "general.architecture": details.family,
        "general.basename": found.name,
        "general.parameter_count": found.manifest.num_parameters,
    }
    capabilities = [TASKS[found.manifest.task]] if found.manifest.task in TASKS else []
    if language is not None:
        info[f"{details.family}.context_length"] = language.context_length
        info[f"{details.family}.vocab_size"] = language.vocabulary_size
        if language.dimensions is not None:
            info[f"{details.family}.embedding_length"] = language.dimensions
        capabilities += ["vision"] * ("image" in language.accepts)
        capabilities += ["tools"] * language.tools + ["thinking"] * language.reasoning
    exchange.send_json(
        OllamaShown(
            modified_at=_time(found.created_at),
            details=details,
            model_info=info,
            capabilities=capabilities,
        )
    )


async def ps(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The models that are loaded."""
    shown = []
    for status in service.ps(exchange.tenant):
        if status.state not in ("ready", "draining"):
            continue
        found = await service.find(exchange.tenant, status.model)
        language = found.manifest.signature.language
        idle_s = service.settings.idle_unload_s
        left = None if status.pinned or not idle_s else max(0.0, idle_s - status.idle_s)
        now = datetime.now(UTC).timestamp()
        shown.append(
            OllamaLoaded(
                name=status.model,
                model=status.model,
                size=status.memory_bytes,
                size_vram=0,
                digest=_digest(found),
                details=_details(found),
                expires_at=None if left is None else _time(now + left),
                context_length=0 if language is None else language.context_length,
            )
        )
    exchange.send_json(OllamaProcesses(shown))


async def pull(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Download a model of the server's hub and register it, told as it goes.

    It is a job, which goes on when its caller goes away.
    """
    body = read(await exchange.body(MAX_BODY_BYTES), OllamaPull)
    repo = repo_of(body.model or body.name or "")
    assert exchange.key is not None
    job = await service.write(
        service.model_jobs.pull, exchange.tenant, PullBody(repo=repo), key_id=exchange.key.id
    )
    finished = asyncio.ensure_future(service.jobs.finished(exchange.tenant, job.id))
    try:
        if body.stream is False:
            await finished
            exchange.send_json(OllamaStatus(status="success"))
            return
        # What is refused at once is refused with a status.
        await asyncio.wait((finished,), timeout=PROGRESS_S)
        if finished.done():
            await finished
        exchange.start(kind=NDJSON)
        _push(exchange, OllamaStatus(status="pulling manifest"))
        async for event in service.jobs.follow(exchange.tenant, job.id):
            if event.type == "metrics":
                told = msgspec.convert(event.data, PullProgress)
                _push(
                    exchange,
                    OllamaStatus(
                        status=f"pulling {told.file}",
                        digest=told.file,
                        total=told.total_bytes,
                        completed=told.done_bytes,
                    ),
                )
                await exchange.flowing()
        try:
            await finished
            _push(exchange, OllamaStatus(status="success"))
        except LMaaSError as error:
            exchange.push(msgspec.json.encode({"error": str(error)}) + b"\n")
        exchange.finish()
    finally:
        finished.cancel()
        with contextlib.suppress(asyncio.CancelledError, LMaaSError):
            await finished


def repo_of(name: str) -> str:
    """The hub's `ORG/NAME` that a name of Ollama's clients means. Raises InvalidInput."""
    host = next((host for host in HOSTS if name.startswith(host)), None)
    if host is None:
        raise InvalidInput(
            f"{name[:100]!r} is of Ollama's own library, which is not served here.",
            hint="Pull a model of the hub: hf.co/ORG/NAME.",
            param="model",
        )
    repo, _, tag = name.removeprefix(host).partition(":")
    if tag not in ("", "latest"):
        raise InvalidInput(
            f"{name[:100]!r} names one of several GGUF files.",
            hint="Leave out what follows the colon: checkpoints are pulled whole, and compressed "
            "by `lmaas compress`.",
            param="model",
        )
    return repo


def _push(exchange: Exchange, status: OllamaStatus) -> None:
    exchange.push(msgspec.json.encode(status) + b"\n")


def _named(model: str | None, name: str | None) -> str:
    named = model or name
    if not named:
        raise InvalidInput("The field model is missing.", param="model")
    return model_of(named)


def _model(version: ModelVersion) -> OllamaModel:
    return OllamaModel(
        name=f"{version.name}{LATEST}",
        model=f"{version.name}{LATEST}",
        modified_at=_time(version.created_at),
        size=version.compiled_bytes,
        digest=_digest(version),
        details=_details(version),
    )


def _details(version: ModelVersion) -> OllamaDetails:
    manifest, language = version.manifest, version.manifest.signature.language
    family = (language.architecture if language is not None else manifest.framework).lower()
    return OllamaDetails(
        format=manifest.engine,
        family=family,
        families=[family],
        parameter_size=_size(manifest.num_parameters),
        quantization_level=", ".join(variant.name for variant in version.variants) or "source",
    )


def _size(parameters: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{name}"
    return str(parameters)


def _digest(version: ModelVersion) -> str:
    """One digest for all of a version: that of its first file, for they never change."""
    return next((file.sha256 for file in version.files), "")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
