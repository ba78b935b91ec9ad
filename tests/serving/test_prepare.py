"""What a language model gets before it starts, and that guessing changes no answer."""

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmaas.config import Settings
from lmaas.errors import ConfigError, DoesNotFit
from lmaas.generation_types import GenerateRequest, Sampling
from lmaas.runtime.language.engine import ENGINES
from lmaas.service import Service
from lmaas.serving import engines, prepare
from lmaas.serving.engines import cache_bytes, choose_engine
from lmaas.serving.prepare import need_of
from lmaas.serving.vllm_command import command
from lmaas.serving.vllm_install import Install
from lmaas.types import TENANT, LanguageSpec, ModelVersion, PartKind, WorkerStatus

SPEC = LanguageSpec(
    architecture="x", context_length=1000, vocabulary_size=10, kv_bytes_per_token=100
)
REQUEST = GenerateRequest(
    prompt="hello hello hello hello", sampling=Sampling(max_tokens=40, temperature=0)
)


@pytest.mark.parametrize(
    ("setting", "sequences", "budget", "expected"),
    [
        (777, 64, 1 << 40, 777),
        (0, 2, 1 << 40, 200_000),
        (0, 64, 4_000_000, 1_000_000),
        (0, 64, 1000, 100_000),
    ],
)
def test_cache_size(setting: int, sequences: int, budget: int, expected: int) -> None:
    assert cache_bytes(SPEC, setting, sequences, budget) == expected


def answer(home: Path, **settings: Any) -> tuple[str, WorkerStatus]:
    async def run() -> tuple[str, WorkerStatus]:
        service = Service(Settings(home=str(home), **settings))
        key, _ = service.create_key(TENANT, "k", ("call",))
        try:
            async with service.running():
                made = await service.calls.generate(
                    key, "tiny", REQUEST, endpoint="t", request_id="1"
                )
                text = "".join([delta.text async for delta in made])
                return text, service.ps(TENANT)[0]
        finally:
            service.close()

    return asyncio.run(run())


def test_guessing_changes_no_answer(tmp_path: Path, language_home: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(language_home, home)
    plain, status = answer(home)
    assert plain
    assert status.engine == "openvino-genai"
    assert "fastest on a CPU" in status.reason
    assert "fits" in status.reason
    assert answer(home, prompt_lookup=4)[0] == plain
    assert answer(home, drafts=("tiny=tiny",))[0] == plain


@pytest.fixture
def tiny(language_home: Path) -> ModelVersion:
    service = Service(Settings(home=str(language_home)))
    version = service.catalog.get(TENANT, "tiny")
    service.close()
    return version


def test_the_engine_is_the_one_that_is_set(tiny: ModelVersion) -> None:
    assert choose_engine("torch", tiny) == (ENGINES["torch"], "set by engine=torch")
    need = need_of(tiny, Settings(engine="torch"), 1 << 30, lambda _: tiny)
    assert need.files == ((tiny, "source", "model"),)
    record = need.record(Path("x"))
    assert record.engine.name == "torch"
    assert record.folder == "x/model/source"


def changed(version: ModelVersion, accepts: tuple[PartKind, ...]) -> ModelVersion:
    """`version`, trained on other parts of messages."""
    signature = version.manifest.signature
    assert signature.language is not None
    spec = msgspec.structs.replace(signature.language, accepts=accepts)
    signature = msgspec.structs.replace(signature, language=spec)
    manifest = msgspec.structs.replace(version.manifest, signature=signature)
    return msgspec.structs.replace(version, manifest=manifest)


@pytest.mark.parametrize("setting", ["auto", "openvino-genai", "torch"])
def test_an_engine_takes_what_the_model_takes(tiny: ModelVersion, setting: str) -> None:
    assert choose_engine(setting, changed(tiny, ("text",)))[0].worker == "text"
    with pytest.raises(ConfigError, match="takes no audio") as caught:
        choose_engine(setting, changed(tiny, ("text", "audio")))
    named = ["openvino-genai", "torch", "vllm"] if setting == "auto" else [setting]
    assert all(name in caught.value.message for name in named)


def test_what_an_engine_lacks_is_told(tiny: ModelVersion) -> None:
    bare = msgspec.structs.replace(
        tiny, files=tuple(file for file in tiny.files if file.role != "compiled")
    )
    assert choose_engine("auto", bare)[0].name == "torch"
    with pytest.raises(ConfigError, match="openvino-genai needs compiled files"):
        choose_engine("openvino-genai", bare)


GPU_BUILD = Install(vllm="0.1", torch="2.0+cu130", gpu=True)
CPU_BUILD = Install(vllm="0.1", torch="2.0+cpu")


@pytest.mark.parametrize(
    ("gpu", "install", "engine"),
    [
        (True, GPU_BUILD, "vllm"),
        (True, CPU_BUILD, "torch"),
        (True, None, "torch"),
        (False, GPU_BUILD, "openvino-genai"),
    ],
)
def test_vllm_is_first_where_there_is_a_gpu(
    tiny: ModelVersion,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    install: Install | None,
    engine: str,
) -> None:
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    chosen, reason = choose_engine("auto", tiny, install)
    assert chosen.name == engine
    assert ("GPU" in reason) == gpu
    assert choose_engine("vllm", tiny, CPU_BUILD) == (ENGINES["vllm"], "set by engine=vllm")


@pytest.mark.parametrize(("gpu", "cache"), [(False, 0), (True, 0), (True, 1 << 30)])
def test_what_vllm_takes(
    tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch, gpu: bool, cache: int
) -> None:
    install = GPU_BUILD if gpu else CPU_BUILD
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    monkeypatch.setattr(prepare, "has_gpu", lambda: gpu)
    monkeypatch.setattr(prepare, "vllm_install", lambda _: install)
    settings = Settings(engine="vllm", kv_cache_bytes=cache, vllm_gpu_memory=0.4)
    need = need_of(tiny, settings, 64 << 30, lambda _: tiny)
    record = need.record(Path("x"))
    assert (record.engine, record.variant) == (ENGINES["vllm"], None)
    assert record.folder == "x/model/source"
    assert record.options is not None
    argv = command(record, Path("python"), Path("s"), gpu_memory=0.4, tools=None)
    told = dict(itertools.pairwise(argv))
    if gpu and not cache:
        assert told["--gpu-memory-utilization"] == "0.4"
        assert "--kv-cache-memory-bytes" not in told
        assert need.memory_bytes == ENGINES["vllm"].memory.overhead_bytes
        assert "40% of the GPU" in record.reason
    else:
        assert int(told["--kv-cache-memory-bytes"]) == record.options.cache_bytes > 0
        assert "KV cache" in record.reason
    if not gpu:
        assert (
            need.memory_bytes > ENGINES["vllm"].memory.overhead_bytes + record.options.cache_bytes
        )
        with pytest.raises(DoesNotFit) as caught:
            need_of(tiny, settings, 1 << 30, lambda _: tiny)
        assert "compress" not in str(caught.value), "it takes no compressed forms"


@pytest.mark.parametrize(
    "settings",
    [
        {"drafts": ("tiny=tiny",), "prompt_lookup": 3},
        {"drafts": ("tiny=tiny",), "engine": "torch"},
    ],
)
def test_what_does_not_go_together_is_refused(tiny: ModelVersion, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="combined"):
        need_of(tiny, Settings(**settings), 1 << 30, lambda _: tiny)


def test_too_small_a_budget_is_told_in_numbers(tmp_path: Path, language_home: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(language_home, home)
    with pytest.raises(DoesNotFit, match=r"weights .* KV cache .* does not fit"):
        answer(home, memory_budget_bytes=1 << 20)
