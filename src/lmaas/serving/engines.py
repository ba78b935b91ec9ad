"""Which engine serves a language model, and how large its cache is. Pure but for what is installed.

The table is ordered: the first row that fits the version and this machine is taken.
"""

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import Final, NamedTuple

from lmaas.config import Settings
from lmaas.errors import ConfigError, MissingExtra
from lmaas.runtime.engine_spec import EngineSpec
from lmaas.runtime.language.engine import ENGINES
from lmaas.runtime.sequence.limits import SLACK
from lmaas.serving.vllm_install import Install, check_python, read_install
from lmaas.types import LanguageSpec, ModelVersion, SequenceSpec

LARGEST_CACHE_BYTES: Final = 4 << 30
CACHE_SHARE: Final = 0.25
"""Share of the memory budget that one model's cache gets at most, unless it is set."""
SMALLEST_CACHE_TOKENS: Final = 2048


class Choice(NamedTuple):
    """An engine, and when it is the one to take: where there is a GPU, or anywhere."""

    engine: EngineSpec
    on_gpu: bool
    reason: str


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that a driver serves."""
    return os.path.exists("/dev/nvidiactl") and os.path.exists("/dev/nvidia0")


TABLE: Final = (
    Choice(ENGINES["vllm"], True, "there is a GPU, and vllm_python has it"),
    Choice(ENGINES["torch"], True, "there is a GPU"),
    Choice(ENGINES["openvino-genai"], False, "fastest on a CPU"),
    Choice(ENGINES["torch"], False, "the model does not compile to OpenVINO"),
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
) -> tuple[EngineSpec, str]:
    """The engine and the reason for it. `vllm` is what `vllm_python` has.

    Raises ConfigError when the set one, or any, cannot run this version, MissingExtra when none is
    installed that could.
    """
    missing: list[EngineSpec] = []
    for engine, on_gpu, reason in TABLE:
        if setting not in ("auto", engine.name) or _lacks(engine, version):
            continue
        if setting == "auto" and on_gpu and not (has_gpu() and _reaches_gpu(engine, vllm)):
            continue
        if all(find_spec(name) is not None for name in engine.needs):
            return engine, reason if setting == "auto" else f"set by engine={setting}"
        missing.append(engine)
    if missing:
        raise MissingExtra(
            f"{version.ref} needs the engine {missing[0].name}, which is not installed here.",
            hint=f"pip install 'lmaas[{missing[0].extra}]'.",
        )
    considered = {e.name: _lacks(e, version) for e, _, _ in TABLE if setting in ("auto", e.name)}
    raise ConfigError(
        f"engine={setting} cannot serve {version.ref}: "
        f"{'; '.join(f'{name} {lack}' for name, lack in considered.items() if lack)}.",
        hint="Set engine to auto." if setting != "auto" else None,
        param="engine",
    )


def _lacks(engine: EngineSpec, version: ModelVersion) -> str | None:
    """Why `engine` can never run this version; None where it can."""
    if not any(file.role == engine.files for file in version.files):
        return f"needs {engine.files} files, which it lacks"
    language = version.manifest.signature.language
    if foreign := engine.foreign(() if language is None else language.accepts):
        return f"takes no {' and no '.join(foreign)}, which it was trained on"
    return None


def _reaches_gpu(engine: EngineSpec, vllm: Install | None) -> bool:
    """Whether the environment that `engine` runs in has what a GPU needs."""
    return engine.name != "vllm" or (vllm is not None and vllm.gpu)


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


def sequence_cache_bytes(spec: SequenceSpec, setting: int, max_sequences: int, budget: int) -> int:
    """How many bytes an encoder-decoder's sequences get for what they keep.

    `setting` where it is set; else room for `max_sequences` of the longest, within a share of the
    budget, but never less than one with the model's own number of beams.
    """
    if setting:
        return setting
    row = SLACK * spec.most_target * spec.cache_bytes_per_token
    source = spec.most_source * spec.cache_bytes_per_source
    most = (row + source) * max_sequences
    return max(row * spec.beams + source, min(most, LARGEST_CACHE_BYTES, int(budget * CACHE_SHARE)))
