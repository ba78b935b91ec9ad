"""Settings: flags > `LMAAS_*` environment > `lmaas.toml` > defaults. Unknown keys are refused.

Knows where the state lives (`LMAAS_HOME`), not what is in it.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import ConfigError

MIB = 1 << 20
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one LMaaS home. Sizes are bytes, times seconds."""

    home: str = "~/.lmaas"
    """Folder that holds all state."""
    host: str = "127.0.0.1"
    """Address that the server listens on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port that the server listens on; 0 picks a free port."""
    grpc_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Port of the Open Inference Protocol over gRPC; 0 picks a free port, none disables gRPC. Needs
    the extra `grpc`."""
    url: str | None = None
    """URL of the server that the client, `lmaas.publish` and all commands except `serve`, `demo`,
    `webhooks`, `fsck` and `doctor` use; none: this home and its server."""
    key: str | None = None
    """API key that the client sends."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of log messages."""
    precision: Literal["auto", "f32", "bf16"] = "auto"
    """Precision of served models; "auto" uses bf16 if it is faster on this CPU and accurate."""
    engine: Literal["auto", "openvino-genai", "torch", "vllm"] = "auto"
    """Engine of language models; "auto" uses the fastest engine that can run the model here."""
    vllm_python: str | None = None
    """Python interpreter of an environment with vLLM. If it is set and the machine has a GPU, vLLM
    serves language models."""
    vllm_start_timeout_s: Positive = 600.0
    """Maximum time from the start of vLLM to its first token."""
    vllm_gpu_memory: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Fraction of GPU memory that vLLM uses for weights and KV cache. If `kv_cache_bytes` is set,
    it is the size of the cache instead."""
    variant: Literal["auto", "source", "bf16", "int8", "int4"] = "auto"
    """Compressed variant of models to serve; "auto": the smallest that passed. Of a language model,
    another one must have been made; other models are served as they are where it was not."""
    kv_cache_bytes: Annotated[int, Meta(ge=0)] = 0
    """KV cache size of a language model; 0: derived from the model's size and the memory budget."""
    max_sequences: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Maximum number of answers that a language model generates at once; others wait."""
    drafts: tuple[str, ...] = ()
    """Draft models for speculative decoding, `MODEL=DRAFT`; both need the same vocabulary."""
    prompt_lookup: Annotated[int, Meta(ge=0, le=16)] = 0
    """Tokens proposed from the prompt in each step (prompt lookup decoding); 0 disables it."""
    cached_models: tuple[str, ...] = ()
    """Language models whose deterministic answers are cached. A request with `"cache": false` skips
    the cache."""
    response_cache_bytes: Annotated[int, Meta(ge=0)] = 256 * MIB
    """Memory for cached answers."""
    redis_url: str | None = None
    """Redis server that caches answers instead of memory, `redis://…`."""
    memory_budget_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory for loaded models; 0: 70 % of the machine's."""
    pinned: tuple[str, ...] = ()
    """Models that are loaded at start and never evicted."""
    worker_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Maximum memory of one worker; 0: 70 % of the machine's."""
    isolation: Literal["auto", "required"] = "auto"
    """What happens if the kernel lacks a part of the isolation of workers, jobs and children:
    "auto" logs what is missing, "required" refuses to start."""
    max_batch_size: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Maximum number of samples in one batch."""
    max_queue: Count = 256
    """Maximum number of requests that wait or run for one model; above it: 429."""
    max_body_bytes: Count = 64 * MIB
    """Maximum size of a request body; above it: 413."""
    max_upload_bytes: Count = 8192 * MIB
    """Maximum size of an uploaded model; above it: 413."""
    max_image_pixels: Count = 64_000_000
    """Maximum size of an image in pixels."""
    max_gallery_photos: Count = 200_000
    """Maximum number of photos in one gallery of faces, and of subjects."""
    gallery_cache_bytes: Count = 1024 * MIB
    """Memory for the vectors of galleries that are searched; those not searched for longest leave
    it."""
    max_audio_bytes: Count = 25 * MIB
    """Maximum size of a sound file in a form of /v1/audio; above it: 413."""
    max_audio_s: Positive = 7200.0
    """Maximum length of a sound in seconds; above it: 413."""
    request_timeout_s: Positive = 120.0
    """Maximum time of one request in a worker."""
    generation_timeout_s: Positive = 600.0
    """Maximum time of one text generation."""
    header_timeout_s: Positive = 10.0
    """Maximum time for a client to send the head of a request, or to resume a stalled body."""
    max_connections: Count = 2048
    """Maximum number of open connections; above it: 503."""
    max_sessions: Count = 16
    """Maximum number of live sessions (WebSockets) of one key; above it: 429."""
    session_timeout_s: Positive = 3600.0
    """Maximum time of a live session (WebSocket)."""
    load_timeout_s: Positive = 120.0
    """Maximum time for a worker to load a model."""
    heartbeat_s: Positive = 1.0
    """Heartbeat interval of workers; a worker that misses three heartbeats is ended."""
    idle_unload_s: Annotated[float, Meta(ge=0)] = 1800.0
    """Idle time after which a model is unloaded; 0: never."""
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 30.0
    """Time for running requests to finish after SIGTERM."""
    compile_timeout_s: Positive = 600.0
    """Maximum time to compile a model."""
    compile_memory_bytes: Count = 16384 * MIB
    """Maximum memory to compile a model."""
    compile_disk_bytes: Count = 16384 * MIB
    """Maximum disk space to compile a model."""
    max_running_jobs: Annotated[int, Meta(ge=0, le=64)] = 1
    """Maximum number of training jobs that run at once; others wait. 0: this server runs none."""
    max_tenant_jobs: Annotated[int, Meta(ge=0, le=64)] = 0
    """Maximum number of training jobs of one tenant that run at once, and of its other jobs; 0: no
    separate limit."""
    max_model_jobs: Annotated[int, Meta(ge=1, le=64)] = 4
    """Maximum number of pulls, imports and compressions that run at once; others wait. They do not
    wait for training jobs."""
    job_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Maximum memory of a job with all its processes; 0: 70 % of the machine's."""
    job_disk_bytes: Count = 65536 * MIB
    """Maximum size of a job's folder: checkpoints, prepared data and result."""
    tenant_disk_bytes: Annotated[int, Meta(ge=0)] = 0
    """Maximum disk space for models and data files of one tenant; 0: no limit. The operator's
    tenant `default` has no limit."""
    tenant_job_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Maximum memory of a job of a tenant other than `default`; 0: `job_memory_bytes`."""
    share_hub_token: bool = False
    """Whether all tenants pull with the server's `HF_TOKEN`, not only `default`."""
    webhook_allow: tuple[str, ...] = ()
    """Internal host names, addresses and networks (`10.0.0.0/8`) that webhooks may reach."""
    webhook_http: bool = False
    """Whether webhooks may use http in addition to https."""
    image_hosts: tuple[str, ...] = ()
    """Hosts that images in conversations may be fetched from, by https (`images.example.com`), or
    origins (`http://images.internal:8080`); none: images are only taken as data."""
    image_allow: tuple[str, ...] = ()
    """Internal host names, addresses and networks that these hosts may lead to."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that a `Host` header may have, in addition to loopback and the address."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins that may call the server, in addition to its own."""

    @property
    def home_path(self) -> Path:
        """`home` as an absolute path."""
        return Path(self.home).expanduser().absolute()


NAMES = tuple(field.name for field in msgspec.structs.fields(Settings))
LISTS = tuple(f.name for f in msgspec.structs.fields(Settings) if f.default == ())
"""Settings that the environment gives as a list."""


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings in force: `flags` (None values skipped) > environment > file > defaults.

    `file` is `lmaas.toml` in the working directory unless `LMAAS_CONFIG` names another.
    Raises ConfigError for an unknown key, a bad value or an unreadable file.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("LMAAS_CONFIG")
    path = file or Path(named or "lmaas.toml")
    values: dict[str, Any] = {}
    if path.exists():
        values |= _from_file(path)
    elif file or named:
        raise ConfigError(f"Settings file {path} does not exist.", param="LMAAS_CONFIG")
    values |= _from_environ(environ)
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    _refuse_unknown(values, "flags")
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"Bad setting: {error}.", hint="docs/reference/settings.md lists all settings."
        ) from None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read settings file {path}: {error}.") from None
    _refuse_unknown(values, str(path))
    return values


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("LMAAS_") or variable == "LMAAS_CONFIG":
            continue
        name = variable.removeprefix("LMAAS_").lower()
        _refuse_unknown({name: text}, f"environment variable {variable}")
        values[name] = [item for item in text.split(",") if item] if name in LISTS else text
    return values


def _refuse_unknown(values: Mapping[str, Any], origin: str) -> None:
    for name in values:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"Settings: {', '.join(NAMES)}."
            raise ConfigError(f"Unknown setting {name!r} in {origin}.", hint=meant, param=name)
