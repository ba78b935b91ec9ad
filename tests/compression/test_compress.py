"""Smaller forms of a language model: made, measured, gated, registered and chosen."""

import asyncio
import math
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from checkpoints import make_llama, make_qwen3
from lmaas.cli import cli
from lmaas.client import Client
from lmaas.compression import measure
from lmaas.compression.weights import built_in_text
from lmaas.config import Settings, load_settings
from lmaas.errors import ConfigError, Forbidden, InvalidInput, ParityFailed
from lmaas.service import Service
from lmaas.serving.variant import choose_variant, require_small_drop, weights_bytes
from lmaas.types import TENANT, CompressOptions, Progress, PushOptions, Variant, VariantName
from servers import serving

TEXT = "hello world, how are you today? i am fine, thank you. " * 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Path:
    """A home with the language model `tiny`."""
    home = tmp_path_factory.mktemp("compress") / "home"
    shutil.copytree(language_home, home)
    return home


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with closing(Service(load_settings({"home": str(home)}))) as service:
        yield service


def compress(
    service: Service, to: VariantName, heard: Any = lambda _: None, **more: Any
) -> Variant:
    options = CompressOptions(to=to, text=TEXT, **more)
    return asyncio.run(service.compressor.compress(TENANT, "tiny", options, heard))


@pytest.mark.parametrize(("to", "share"), [("bf16", 0.5), ("int8", 0.27), ("int4", 0.2)])
def test_a_form_is_made_measured_and_chosen(
    service: Service, to: VariantName, share: float
) -> None:
    heard: list[Progress] = []
    variant = compress(service, to, heard.append)
    report = variant.report
    assert report.compressed.size_bytes < (share + 0.02) * report.source.size_bytes
    assert abs(report.drop) < 0.05
    assert 0 <= report.token_agreement <= 1
    assert len(report.first_differences) == measure.PROMPTS
    assert {told.stage for told in heard} == {
        f"making {to}", "measuring the source", f"measuring {to}"
    }  # fmt: skip
    assert all(0 <= told.done <= 1 for told in heard)
    version = service.catalog.get(TENANT, "tiny")
    assert variant in version.variants
    assert weights_bytes(version, to) == report.compressed.size_bytes
    names = {f.path.removeprefix("compiled/") for f in version.files if f.role == "compiled"}
    made = {
        f.path.removeprefix(f"variants/{to}/")
        for f in version.files
        if f.path.startswith(f"variants/{to}/")
    }
    assert made == names
    smallest = min(version.variants, key=lambda v: v.report.compressed.size_bytes)
    chosen, why = choose_variant(version, "auto")
    assert chosen == smallest.name
    assert "fewest bytes" in why
    assert choose_variant(version, to)[0] == to
    assert choose_variant(version, "source")[0] is None


def test_a_form_that_loses_too_much_is_not_registered(service: Service) -> None:
    before = service.catalog.get(TENANT, "tiny")
    report = compress(service, "int8").report
    worse = msgspec.structs.replace(report, drop=0.2, max_drop=0.05)
    with pytest.raises(ParityFailed, match=r"changes .*\+20\.0% worse; allowed \+5\.0%"):
        require_small_drop("tiny:1", "int8", worse)
    nothing = msgspec.structs.replace(report, drop=math.nan)
    with pytest.raises(ParityFailed):
        require_small_drop("tiny:1", "int8", nothing)
    assert {v.name for v in before.variants} <= {
        v.name for v in service.catalog.get(TENANT, "tiny").variants
    }


def test_max_drop_refuses_what_was_measured(tmp_path: Path) -> None:
    """A model that knows the text, with weights that no per-channel int8 keeps."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = make_qwen3(tmp_path / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([AutoTokenizer.from_pretrained(checkpoint)(TEXT)["input_ids"][:256]])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, 0] *= 10_000
            layer.mlp.up_proj.weight[0] /= 10_000
    model.save_pretrained(checkpoint)
    with closing(Service(Settings(home=str(tmp_path / "home")))) as service:
        asyncio.run(service.catalog.push(TENANT, checkpoint, PushOptions(name="tiny")))
        with pytest.raises(ParityFailed, match=r"int8 of tiny:1 changes .*; allowed \+5\.0%"):
            compress(service, "int8")
        assert service.catalog.get(TENANT, "tiny").variants == ()
        assert not service.registry.check(repair=False).orphans
        made = compress(service, "int8", max_drop=10)
        assert 0.05 < made.report.drop < made.report.max_drop == 10
        assert service.catalog.get(TENANT, "tiny").variants == (made,)


def test_what_cannot_be_honoured_is_refused(service: Service) -> None:
    with pytest.raises(InvalidInput, match="int8 takes no group_size"):
        compress(service, "int8", group_size=32)
    with pytest.raises(InvalidInput, match="group size 48 does not divide"):
        compress(service, "int4", group_size=48)
    with pytest.raises(InvalidInput, match="The text has 1 tokens"):
        asyncio.run(
            service.compressor.compress(TENANT, "tiny", CompressOptions(to="int8", text="a"))
        )
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"to": "int2"}, CompressOptions)
    version = msgspec.structs.replace(service.catalog.get(TENANT, "tiny"), variants=())
    with pytest.raises(ConfigError, match="variant=int8 is set, but tiny:1 has no such"):
        choose_variant(version, "int8")
    assert choose_variant(version, "auto") == (None, "no variant was made")


def test_the_command_line_shows_it(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    ran = CliRunner().invoke(
        cli,
        ["--home", str(home), "compress", "tiny", "--to", "int8", "--text", str(text), "--json"],
    )
    assert ran.exit_code == 0, ran.output
    variant = msgspec.json.decode(ran.stdout, type=Variant)
    assert variant.report.text != "built-in"
    lines = ran.stderr.splitlines()
    assert any(msgspec.json.decode(line, type=Progress).done == 1 for line in lines)
    ran = CliRunner().invoke(cli, ["--home", str(home), "models", "show", "tiny"])
    assert "  int8" in ran.stdout
    assert "perplexity" in ran.stdout


def test_a_folder_goes_over_http_and_is_compressed_there(home: Path, tmp_path: Path) -> None:
    checkpoint = make_llama(tmp_path / "checkpoint")
    with serving(home) as running, Client(running.url, running.key) as client:
        version = client.push(checkpoint, PushOptions(name="llama"))
        assert version.manifest.signature.language is not None
        assert version.manifest.signature.language.architecture == "LlamaForCausalLM"
        variant = client.compress("llama", CompressOptions(to="int8", text=TEXT))
        assert variant in client.model("llama").variants
        with Client(running.url, running.call_key) as caller, pytest.raises(Forbidden):
            caller.compress("llama", CompressOptions(to="int8"))


def test_agreement_counts_tokens_and_tells_where_they_part() -> None:
    want, got = ((1, 2, 3, 4), (5, 6, 7, 8)), ((1, 2, 3, 4), (5, 0, 7, 0))
    assert measure.agreement(want, got) == (0.75, (None, 1))


def test_perplexity_is_what_its_definition_says() -> None:
    """Of a model that gives every token the same probability: the size of its vocabulary."""

    class Uniform:
        def reset(self) -> None: ...

        def feed(self, ids: np.ndarray) -> np.ndarray:
            return np.zeros((*ids.shape, 50), np.float32)

    model: Any = Uniform()
    ids = np.arange(600) % 50
    for window in (2, 7, 512):
        assert measure._perplexity(model, ids, window, lambda _: None) == pytest.approx(50)


def test_the_built_in_text_is_short_and_in_several_scripts() -> None:
    text = built_in_text()
    assert len(text.encode()) < 20_000
    assert any("\u4e00" <= c <= "\u9fff" for c in text)
    assert any("\u0400" <= c <= "\u04ff" for c in text)
