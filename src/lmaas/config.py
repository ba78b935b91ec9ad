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
    """Address that the server binds."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port that the server binds; 0 takes a free one."""
    grpc_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Port of the Open Inference Protocol over gRPC, 0 a free one; none: not served. Needs the
    extra `grpc`."""
    url: str | None = None
    """Server that the client, `lmaas.publish` and commands but `serve`, `demo`, `webhooks`, `fsck`
    and `doctor` talk to; none: this home and its server."""
    key: str | None = None
    """Key that the client sends."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log level that is written."""
    precision: Literal["auto", "f32", "bf16"] = "auto"
    """Precision models are served in; "auto" takes bf16 where CPU and parity allow and it helps."""
    engine: Literal["auto", "openvino-genai", "torch", "vllm"] = "auto"
    """Engine of language models; "auto" takes the fastest that can run the model here."""
    vllm_python: str | None = None
    """Python of an environment that has vLLM; with it and a GPU, vLLM serves language models."""
    vllm_start_timeout_s: Positive = 600.0
    """Longest time that vLLM may take from its start to its first token."""
    vllm_gpu_memory: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM takes for weights and cache; `kv_cache_bytes`, where set,
    is the size of the cache instead."""
    variant: Literal["auto", "source", "bf16", "int8", "int4"] = "auto"
    """Compressed form of language models that is served; "auto": the smallest that passed."""
    kv_cache_bytes: Annotated[int, Meta(ge=0)] = 0
    """Cache of keys and values that a language model gets; 0: by the model's size and budget."""
    max_sequences: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Most answers that a language model writes at once; more wait."""
    drafts: tuple[str, ...] = ()
    """Draft models for speculative decoding, `MODEL=DRAFT`; both need the same vocabulary."""
    prompt_lookup: Annotated[int, Meta(ge=0, le=16)] = 0
    """Tokens guessed from the prompt in each step (lookup decoding); 0: none."""
    cached_models: tuple[str, ...] = ()
    """Language models whose deterministic answers are kept and given again unless a request says
    `"cache": false`."""
    response_cache_bytes: Annotated[int, Meta(ge=0)] = 256 * MIB
    """Memory for kept answers."""
    redis_url: str | None = None
    """Redis server that keeps answers instead of memory, `redis://…`."""
    memory_budget_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory for loaded models; 0: 70 % of the machine's."""
    pinned: tuple[str, ...] = ()
    """Models loaded at start and never evicted."""
    worker_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory that one worker may fill; 0: 70 % of the machine's."""
    isolation: Literal["auto", "required"] = "auto"
    """Whether workers, jobs and children run where the kernel lacks a part of their isolation:
    "auto" names what is missing, "required" refuses to run."""
    max_batch_size: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Most samples that a worker joins into one engine call."""
    max_queue: Count = 256
    """Most requests that wait or run for one model; above it: 429."""
    max_body_bytes: Count = 64 * MIB
    """Largest request body of a call; above it: 413."""
    max_upload_bytes: Count = 8192 * MIB
    """Largest upload of a model; above it: 413."""
    max_image_pixels: Count = 64_000_000
    """Largest image that is decoded, in pixels."""
    request_timeout_s: Positive = 120.0
    """Longest time one request may take in a worker."""
    generation_timeout_s: Positive = 600.0
    """Longest time that one generation of text may take."""
    header_timeout_s: Positive = 10.0
    """Longest time a client may take to send a request's head, or a stalled body."""
    max_connections: Count = 2048
    """Most open connections; above it: 503."""
    load_timeout_s: Positive = 120.0
    """Longest time a worker may take to load a model."""
    heartbeat_s: Positive = 1.0
    """Time between two signs of life of a worker; three missed in a row end it."""
    idle_unload_s: Annotated[float, Meta(ge=0)] = 1800.0
    """A model that is not called for so long is unloaded; 0: never."""
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 30.0
    """Time that running requests get after SIGTERM."""
    compile_timeout_s: Positive = 600.0
    """Longest time that a compile may take."""
    compile_memory_bytes: Count = 16384 * MIB
    """Memory bound of a compile."""
    compile_disk_bytes: Count = 16384 * MIB
    """Disk bound of a compile's scratch folder."""
    max_running_jobs: Annotated[int, Meta(ge=0, le=64)] = 1
    """Most training runs at once; more wait. 0: this server runs none."""
    max_tenant_jobs: Annotated[int, Meta(ge=0, le=64)] = 0
    """Most training runs of one tenant at once, and most of its other jobs; 0: no bound of its
    own."""
    max_model_jobs: Annotated[int, Meta(ge=1, le=64)] = 4
    """Most pulls, imports and compressions that run at once; more wait. They are jobs too, but
    wait for no training."""
    job_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory that one job may use, with all its processes; 0: 70 % of the machine's."""
    job_disk_bytes: Count = 65536 * MIB
    """Disk that one job's folder may take: checkpoints, what is made of its data, its result."""
    tenant_disk_bytes: Annotated[int, Meta(ge=0)] = 0
    """Disk that models and data files of one tenant may take; 0: no bound. The tenant `default`,
    the operator's, has none."""
    tenant_job_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory that one job of another tenant than `default` may use; 0: as `job_memory_bytes`."""
    share_hub_token: bool = False
    """Whether all tenants pull with the server's `HF_TOKEN`, not only `default`."""
    webhook_allow: tuple[str, ...] = ()
    """Hosts by name, addresses and networks (`10.0.0.0/8`) that webhooks may reach although they
    are internal."""
    webhook_http: bool = False
    """Whether webhooks may be sent over http, not only https."""
    allowed_hosts: tuple[str, ...] = ()
    """Names beside loopback and the bound address that a `Host` header may give."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins beside the server's own that may call it."""

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
            f"Bad setting: {error}.", hint="docs/reference/settings.md has them all."
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
            meant = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(NAMES)}."
            raise ConfigError(f"Unknown setting {name!r} in {origin}.", hint=meant, param=name)
