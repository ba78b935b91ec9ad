"""How vLLM's server is started: its arguments and its environment. Pure but for what it looks up.

It is never told to trust a model's code, reads weights from safetensors only, reports nothing to
anybody, and gets none of our keys, settings or folders.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lmaas.generation_types import MAX_FILES, MAX_TOP_LOGPROBS
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.messages import ServeRecord
from lmaas.serving.vllm_install import ISOLATED, SERVER
from lmaas.types import LanguageSpec

PASSED_ON: Final = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "VLLM_ATTENTION_BACKEND",
    "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_LOGGING_LEVEL",
)  # fmt: skip
"""Variables that vLLM inherits: those of the system, and what tunes it to a machine."""
SILENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Nothing is downloaded, nothing is reported, and its processes talk on loopback."""
DTYPES: Final = {"f32": "float32", "bf16": "bfloat16"}
ELEMENT_BYTES: Final = {"f32": 4, "bf16": 2}
"""Of the cache: it has the type of the weights."""
BLOCK_TOKENS: Final = 128
"""The cache's blocks on a CPU; they are smaller on GPUs."""


def command(
    record: ServeRecord, python: Path, socket_path: Path, *, gpu_memory: float, tools: str | None
) -> list[str]:
    """The program and its arguments. `tools` names the parser of the model's tool calls.

    The cache has `record.options.cache_bytes`; where that is 0, vLLM fills the share `gpu_memory`
    of its GPU with weights and cache.
    """
    spec, options = record.signature.language, record.options
    assert spec is not None
    assert options is not None
    argv = [str(python), ISOLATED, "-m", SERVER]
    argv += ["--model", record.folder, "--served-model-name", record.model]
    argv += ["--uds", str(socket_path)]
    argv += ["--load-format", "safetensors", "--dtype", DTYPES[record.precision]]
    argv += ["--max-model-len", str(context_length(spec, options))]
    argv += ["--max-num-seqs", str(options.max_sequences)]
    argv += ["--max-logprobs", str(MAX_TOP_LOGPROBS)]
    argv += ["--enable-prompt-tokens-details"]
    argv += ["--disable-uvicorn-access-log", "--disable-fastapi-docs"]
    if options.cache_bytes:
        argv += ["--kv-cache-memory-bytes", str(options.cache_bytes)]
    else:
        argv += ["--gpu-memory-utilization", f"{gpu_memory:g}"]
    if spec.vision is not None:
        argv += ["--limit-mm-per-prompt", f'{{"image": {MAX_FILES}}}']
    if tools is not None:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", tools]
    return argv


def context_length(spec: LanguageSpec, options: EngineOptions) -> int:
    """The model's, or what fits the cache: vLLM does not start where a whole context does not."""
    token_bytes = spec.kv_bytes_per_token // 2 * ELEMENT_BYTES[options.precision]
    if not (options.cache_bytes and token_bytes):
        return spec.context_length
    blocks = options.cache_bytes // token_bytes // BLOCK_TOKENS
    # One block is never given to a request.
    return min(spec.context_length, max(1, blocks - 1) * BLOCK_TOKENS)


def environment(
    home: Path,
    key: str,
    python: Path,
    socket_path: Path,
    *,
    gpu: bool,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """vLLM's whole environment: `home` is its home, `key` the one that callers need.

    A new start finds in `home` what an earlier one compiled. The sockets between its own processes
    lie beside that of its server.
    """
    told = {name: environ[name] for name in PASSED_ON if name in environ}
    if not gpu:
        told = cpu_threads(python) | told
    return {
        **told,
        **SILENT,
        "HOME": str(home),
        "USER": "lmaas",
        "LOGNAME": "lmaas",
        "VLLM_API_KEY": key,
        "VLLM_RPC_BASE_PATH": str(socket_path.parent),
        "VLLM_CACHE_ROOT": str(home / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
    }


def cpu_threads(python: Path) -> dict[str, str]:
    """All cores and Intel's OpenMP: by itself vLLM's CPU build leaves cores unused (docs/log.md).

    The library is its own environment's.
    """
    usable = getattr(os, "sched_getaffinity", None)
    cores = sorted(usable(0)) if usable is not None else range(os.cpu_count() or 1)
    told = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    return told | ({"LD_PRELOAD": str(openmp)} if openmp.exists() else {})
