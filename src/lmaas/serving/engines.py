"""Which engine serves a language model, and how large its cache is. Pure but for what is installed.

The table is ordered: the first row that fits the version and this machine is taken.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Final, NamedTuple

from lmaas.config import Settings
from lmaas.errors import ConfigError, MissingExtra
from lmaas.serving.vllm_install import Install, check_python, read_install
from lmaas.types import LanguageSpec, ModelVersion

LARGEST_CACHE_BYTES: Final = 4 << 30
CACHE_SHARE: Final = 0.25
"""Share of the memory budget that one model's cache gets at most, unless it is set."""
SMALLEST_CACHE_TOKENS: Final = 2048


class Row(NamedTuple):
    """An engine, what must be installed for it, and when it is the one to take.

    `fits` is told the environment of `vllm_python`, where it counts.
    """

    engine: str
    needs: tuple[str, ...]
    fits: Callable[[ModelVersion, Install | None], bool]
    reason: str


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that a driver serves."""
    return os.path.exists("/dev/nvidiactl") and os.path.exists("/dev/nvidia0")


def _has(version: ModelVersion, role: str) -> bool:
    return any(file.role == role for file in version.files)


TABLE: Final = (
    Row(
        "vllm",
        (),
        lambda version, vllm: (
            _has(version, "source") and vllm is not None and vllm.gpu and has_gpu()
        ),
        "there is a GPU, and vllm_python has it",
    ),
    Row(
        "torch",
        ("torch", "transformers"),
        lambda version, _: _has(version, "source") and has_gpu(),
        "there is a GPU",
    ),
    Row(
        "openvino-genai",
        ("openvino_genai",),
        lambda version, _: _has(version, "compiled"),
        "fastest on a CPU",
    ),
    Row(
        "torch",
        ("torch", "transformers"),
        lambda version, _: _has(version, "source"),
        "the model does not compile to OpenVINO",
    ),
)


def vllm_install(settings: Settings) -> Install | None:
    """The environment of `vllm_python`; None where it does not count. Blocks briefly.

    Raises ConfigError where it counts and has no vLLM.
    """
    wanted = settings.engine == "vllm"
    if not wanted and not (settings.engine == "auto" and settings.vllm_python and has_gpu()):
        return None
    return read_install(check_python(settings.vllm_python))


def choose_engine(
    setting: str, version: ModelVersion, vllm: Install | None = None
) -> tuple[str, str]:
    """The engine and the reason for it. `vllm` is what `vllm_python` has.

    Raises ConfigError when the set one cannot run this version, MissingExtra when none is
    installed that could.
    """
    missing: list[str] = []
    for row in TABLE:
        if setting not in ("auto", row.engine):
            continue
        there = all(find_spec(name) is not None for name in row.needs)
        fits = row.fits(version, vllm) if setting == "auto" else _could(row, version)
        if fits and there:
            return row.engine, row.reason if setting == "auto" else f"set by engine={setting}"
        if fits:
            missing.append(row.engine)
    if missing:
        raise MissingExtra(
            f"{version.ref} needs the engine {missing[0]}, which is not installed here.",
            hint="pip install 'lmaas[language]'.",
        )
    raise ConfigError(
        f"engine={setting} cannot serve {version.ref}: it lacks the files for it.",
        hint="Set engine to auto.",
        param="engine",
    )


def _could(row: Row, version: ModelVersion) -> bool:
    return _has(version, "compiled" if row.engine == "openvino-genai" else "source")


def cache_bytes(spec: LanguageSpec, setting: int, max_sequences: int, budget: int) -> int:
    """How many bytes of keys and values a model gets.

    `setting` where it is set; else room for `max_sequences` full contexts, within a share of the
    budget, but never less than `SMALLEST_CACHE_TOKENS` or the whole of a smaller context.
    """
    if setting or not spec.kv_bytes_per_token + spec.state_bytes:
        return setting
    tokens = min(SMALLEST_CACHE_TOKENS, spec.context_length)
    least = spec.state_bytes + spec.kv_bytes_per_token * tokens
    most = (spec.state_bytes + spec.kv_bytes_per_token * spec.context_length) * max_sequences
    return max(least, min(most, LARGEST_CACHE_BYTES, int(budget * CACHE_SHARE)))
