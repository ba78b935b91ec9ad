"""Smaller variants of models that are no language models: judged by their task, served."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sequence_checkpoints
from lmaas.cli import cli
from lmaas.config import load_settings
from lmaas.errors import InvalidInput, ParityFailed
from lmaas.service import Service
from lmaas.serving.variant import require_small_drop, weights_bytes
from lmaas.types import JSON, TENANT, CompressOptions, CompressSample, Payload, PushOptions
from servers import publish_digits

TEXTS = ("w10 w11 w12", "w20 w21", "w30 w31 w32 w33 w34")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the models `digits` and `marian`."""
    top = tmp_path_factory.mktemp("judged")
    publish_digits(top / "home")
    folder = sequence_checkpoints.make("marian", top / "marian")
    with opened(top / "home") as service:
        options = PushOptions(name="marian", task="translation")
        asyncio.run(service.catalog.push(TENANT, folder, options))
    return top / "home"


def opened(home: Path) -> closing[Service]:
    """A service of a home, closed at the end."""
    return closing(Service(load_settings({"home": str(home)})))


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with opened(home) as service:
        yield service


def call(service: Service, ref: str, inputs: object) -> list[dict[str, str]]:
    """What a model answers, and with which variant it is served."""

    async def ask() -> bytes:
        async with service.running():
            body = msgspec.json.encode({"inputs": inputs})
            answer = await service.calls.predict_here(
                TENANT, ref, Payload(media_type=JSON, body=body)
            )
            (status,) = service.pool.status()
            assert status.variant == "int8"
            return answer.body

    return list(json.loads(asyncio.run(ask())))


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_an_encoder_decoder_is_judged_by_its_references_and_served(service: Service) -> None:
    options = CompressOptions(to="int8", max_drop=1.0)
    variant = asyncio.run(service.compressor.compress(TENANT, "marian", options))
    report = variant.report
    assert report.metric == "agreement"
    assert report.source.metrics == {"agreement": 1.0}
    assert report.drop == pytest.approx(1 - report.token_agreement)
    assert report.compressed.size_bytes < report.source.size_bytes
    version = service.catalog.get(TENANT, "marian")
    assert weights_bytes(version, "int8") == report.compressed.size_bytes
    names = {f.path.removeprefix("compiled/") for f in version.files if f.role == "compiled"}
    top = "variants/int8/"
    made = {f.path.removeprefix(top) for f in version.files if f.path.startswith(top)}
    assert made == names
    assert [set(each) for each in call(service, "marian", list(TEXTS))] == [
        {"translation_text"}
    ] * len(TEXTS)


def test_samples_judge_by_the_metric_of_the_task(service: Service) -> None:
    samples = tuple(CompressSample(inputs=text, expected="w7 w8") for text in TEXTS)
    options = CompressOptions(to="int8", samples=samples, max_drop=1.0)
    report = asyncio.run(service.compressor.compress(TENANT, "marian", options)).report
    assert report.metric == "chrf"
    assert set(report.source.metrics) == {"bleu", "chrf", "exact"}
    assert report.samples == len(TEXTS)
    before, after = report.source.metrics["chrf"], report.compressed.metrics["chrf"]
    assert report.drop == pytest.approx((before - after) / 100)
    assert report.compressed.calls_per_s
    assert report.compressed.tokens_per_s


def test_a_classifier_is_judged_by_its_labels(service: Service, home: Path, tmp_path: Path) -> None:
    rows = []
    for seed in range(6):
        (tmp_path / f"{seed}.png").write_bytes(base64.b64decode(picture(seed)))
        rows.append({"image": f"{seed}.png", "digit": "0"})
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["compress", "digits", "--to", "int8", "--max-drop", "1", "--home", str(home)]
    result = CliRunner().invoke(cli, [*args, "--data", str(data), "--expected", "digit"])
    assert result.exit_code == 0, result.output
    assert "on 6 samples" in result.output
    (variant,) = service.catalog.get(TENANT, "digits").variants
    assert variant.report.metric == "accuracy"
    assert 0 < variant.report.compressed.size_bytes < variant.report.source.size_bytes
    assert len(call(service, "digits", [picture(0)])[0]) > 1
    listed = CliRunner().invoke(cli, ["models", "show", "digits", "--home", str(home)])
    assert "accuracy" in listed.output, listed.output


def test_what_gets_worse_than_allowed_is_refused(service: Service) -> None:
    options = CompressOptions(to="int8", max_drop=1.0)
    report = asyncio.run(service.compressor.compress(TENANT, "marian", options)).report
    worse = msgspec.structs.replace(report, drop=0.2, max_drop=0.05)
    with pytest.raises(ParityFailed, match=r"agreement.*\+20.0% worse; allowed \+5.0%"):
        require_small_drop("marian:1", "int8", worse)
    for drop in (0.05, 0.0, -0.1):
        require_small_drop("marian:1", "int8", msgspec.structs.replace(worse, drop=drop))
    with pytest.raises(ParityFailed):
        require_small_drop("marian:1", "int8", msgspec.structs.replace(worse, drop=float("nan")))


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("digits", CompressOptions(to="int8"), "by what it does with samples"),
        ("marian", CompressOptions(to="bf16"), "bf16 is made of language models"),
        ("marian", CompressOptions(to="int8", text="a text"), "A text is for language models"),
        ("marian", CompressOptions(to="int8", ratio=0.5), "int8 takes no ratio"),
        (
            "digits",
            CompressOptions(to="int8", samples=(CompressSample(inputs="x", expected="0"),)),
            r"samples\[0\]",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    service: Service, model: str, options: CompressOptions, told: str
) -> None:
    before = service.catalog.get(TENANT, model).variants
    with pytest.raises(InvalidInput, match=told):
        asyncio.run(service.compressor.compress(TENANT, model, options))
    assert service.catalog.get(TENANT, model).variants == before


@pytest.mark.parametrize("given", [["--expected", "label"], ["--column", "a=b"], ["-p", "top_k=1"]])
def test_options_of_data_need_data(home: Path, given: list[str]) -> None:
    args = ["compress", "digits", "--to", "int8", "--home", str(home), *given]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code != 0
    assert "goes with --data" in str(result.exception)
