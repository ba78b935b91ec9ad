"""Images as rows of a prompt: pixels, keys, and what the engine shares of what it has computed."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.generation_types import FilePart
from lmaas.runtime.language import openvino_genai
from lmaas.runtime.language.embedded import KEY_NUMBERS, Rows
from lmaas.runtime.language.engine import EngineOptions, TokenSampling
from lmaas.runtime.language.openvino_genai import OpenVINOGenAI
from lmaas.runtime.language.pictures import Picture, Pictures, pixels_of
from lmaas.service import Service
from lmaas.types import TENANT, LanguageSpec, VisionSpec
from servers import photo

PIECE = 32
EXACT = EngineOptions(precision="f32", cache_bytes=1 << 20, max_sequences=8, exact_cache=True)


class Eyes(NamedTuple):
    """The compiled model, and its specs."""

    folder: Path
    spec: LanguageSpec
    vision: VisionSpec


@pytest.fixture(scope="module")
def model(eyes_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Eyes:
    service = Service(Settings(home=str(eyes_made / "home")))
    version = service.catalog.get(TENANT, "eyes")
    folder = tmp_path_factory.mktemp("eyes")
    service.registry.unpack(version, folder, ("compiled",))
    service.close()
    spec = version.manifest.signature.language
    assert spec is not None
    assert spec.vision is not None
    return Eyes(folder / "compiled", spec, spec.vision)


@pytest.fixture(scope="module")
def pictures(model: Eyes) -> Pictures:
    return Pictures(model.folder, model.vision, "f32", Limits(max_image_pixels=1_000_000))


@pytest.fixture
def engine(model: Eyes, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenVINOGenAI]:
    """An engine that reads prompts in pieces, so that what it need not read shows in its steps."""
    monkeypatch.setattr(openvino_genai, "BATCHED_TOKENS", PIECE)
    made = OpenVINOGenAI()
    made.load(model.folder, model.spec, EXACT)
    yield made
    made.close()


def run(
    engine: OpenVINOGenAI, ids: Sequence[int], shown: Sequence[Picture], count: int = 1, **how: Any
) -> tuple[int, list[int], list[float]]:
    """Steps, tokens and log probabilities of an answer."""
    sampling = TokenSampling(max_tokens=count, temperature=0, **({"logprobs": 0} | how))
    engine.add(1, ids, sampling, shown)
    steps, tokens, scores = 0, [], []
    while engine.busy():
        outputs = engine.step()
        steps += 1
        for output in outputs:
            assert output.error is None
            tokens += output.tokens
            scores += [float(score.logprob or 0) for score in output.scores]
    return steps, tokens, scores


def prompt(model: Eyes, images: int = 1, length: int = 200) -> list[int]:
    places = [model.vision.token_id] * model.vision.tokens
    tail = np.random.default_rng(3).integers(3, 400, length).tolist()
    return [*(places * images), *tail]


def like(picture: Picture, digest: bytes) -> Picture:
    """Other rows, but equal at every number that the pipeline would compare without keys."""
    rows = picture.rows + 1
    rows[:, ::50] = picture.rows[:, ::50]
    return Picture(rows, digest)


def test_no_two_images_share_what_was_computed(
    model: Eyes, pictures: Pictures, engine: OpenVINOGenAI
) -> None:
    ids = prompt(model)
    one = pictures.see(Image.open(io.BytesIO(photo())).convert("RGB"))
    first = run(engine, ids, [one])
    again = run(engine, ids, [one])
    assert again[0] < first[0]
    assert again[1] == first[1]
    assert again[2] == pytest.approx(first[2], abs=1e-5)
    other = like(one, b"another digest that is long enough")
    seen = run(engine, ids, [other])
    assert seen[0] == first[0]
    fresh = OpenVINOGenAI()
    fresh.load(model.folder, model.spec, EXACT)
    alone = run(fresh, ids, [other])
    fresh.close()
    assert seen[2] == pytest.approx(alone[2], abs=1e-5)
    assert abs(seen[2][0] - first[2][0]) > 1e-3
    # The digest alone tells them apart: this is what happens where two have the same.
    assert run(engine, ids, [like(one, one.digest)])[2] == pytest.approx(first[2], abs=1e-5)


def test_an_answer_is_shared_by_its_tokens(model: Eyes, engine: OpenVINOGenAI) -> None:
    """What was written counts as what is read: rows that the pipeline makes have the same keys."""
    ids = prompt(model, images=0, length=64)
    _, written, _ = run(engine, ids, [], 70)
    read = run(engine, [*ids, *written], [])
    assert read[0] <= 2
    wrong = [*ids, *written[:-1], (written[-1] + 1) % 400]
    assert run(engine, wrong, [])[2] != pytest.approx(read[2], abs=1e-4)


def test_keys_of_tokens_are_exact_in_bfloat16(model: Eyes) -> None:
    rows = Rows(model.folder, model.vision)
    keys = rows.of(np.arange(430), ())[0, :, :KEY_NUMBERS]
    assert keys.max() <= 255
    assert (keys == keys.astype(int)).all()
    assert len(np.unique(keys[:, ::50], axis=0)) == 430
    assert not keys[:, 1:50].any()


def test_placeholders_and_images_fit(
    model: Eyes, pictures: Pictures, engine: OpenVINOGenAI
) -> None:
    one = pictures.see(Image.new("RGB", (9, 9)))
    for ids, shown in ((prompt(model), []), (prompt(model, 0), [one]), (prompt(model, 2), [one])):
        with pytest.raises(InvalidInput, match="placeholders for"):
            engine.add(1, ids, TokenSampling(max_tokens=1), shown)
    assert not engine.busy()


def test_the_best_tokens_are_told(model: Eyes, pictures: Pictures, engine: OpenVINOGenAI) -> None:
    one = pictures.see(Image.open(io.BytesIO(photo())).convert("RGB"))
    ids = prompt(model, length=40)
    plain = run(engine, ids, [one], 6)
    sampling = TokenSampling(max_tokens=6, temperature=0, logprobs=3)
    engine.add(1, ids, sampling, [one])
    outputs = []
    while engine.busy():
        outputs += engine.step()
    scores = [score for output in outputs for score in output.scores]
    assert [score.top[0][0] for score in scores] == plain[1]
    assert [score.logprob for score in scores] == pytest.approx(plain[2], abs=1e-4)
    assert all(len(score.top) == 3 for score in scores)


def test_what_the_engine_cannot_do_is_named(model: Eyes, engine: OpenVINOGenAI) -> None:
    for how, param in (
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"logit_bias": {1: 2.0}}, "logit_bias"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput) as caught:
            engine.add(1, [5, 6], TokenSampling(max_tokens=1, **how))
        assert caught.value.param == param
    for options in (EngineOptions(precision="f32", lookup=3),):
        with pytest.raises(LMaaSError, match="guessed ahead"):
            OpenVINOGenAI().load(model.folder, model.spec, options)


PROCESSORS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("clip", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 36}},
     {"resize": "crop", "short_side": 40}),
    ("llava", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
               "do_pad": True}, {"resize": "crop", "short_side": 32, "pad": True}),
    ("siglip", {"size": {"height": 30, "width": 44}}, {"resize": "stretch"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "expected"), PROCESSORS)
@pytest.mark.parametrize("size", [(50, 70), (70, 50), (33, 33), (8, 300), (1, 1), (200, 7)])
def test_pixels_are_those_of_transformers(
    kind: str, settings: dict[str, Any], expected: dict[str, Any], size: tuple[int, int]
) -> None:
    import importlib

    name = {"clip": "CLIP", "llava": "Llava", "siglip": "Siglip"}[kind]
    module = f"transformers.models.{kind}.image_processing_pil_{kind}"
    processor = getattr(importlib.import_module(module), f"{name}ImageProcessorPil")(**settings)
    final = settings.get("crop_size", settings["size"])
    spec = VisionSpec(
        token_id=0,
        tokens=1,
        numbers=1,
        height=final["height"],
        width=final["width"],
        resample=int(processor.resample),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        **expected,
    )
    image = Image.open(io.BytesIO(photo(3, size))).convert("RGB")
    told = processor([image], return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels_of(image, spec) - told).max() < 1e-5


def part(data: bytes, **more: Any) -> FilePart:
    encoded = base64.b64encode(data).decode()
    return FilePart(kind="image", data=encoded, place="messages[0].content[1]", **more)


def test_an_image_is_counted_by_its_head_and_read_once(model: Eyes, pictures: Pictures) -> None:
    file = part(photo(5))
    assert pictures.count(file) == model.vision.tokens
    assert pictures.read(file) is pictures.read(file)
    turned = Image.open(io.BytesIO(photo(5))).transpose(Image.Transpose.ROTATE_270)
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8
    turned.save(stored, "PNG", exif=exif)
    assert pictures.read(part(stored.getvalue())).digest == pictures.read(file).digest


@pytest.mark.parametrize("detail", ["low", "original"])
def test_a_detail_that_is_not_there_is_named(pictures: Pictures, detail: Any) -> None:
    for call in (pictures.count, pictures.read):
        with pytest.raises(InvalidInput, match=f"'{detail}' is not supported") as caught:
            call(part(photo(), detail=detail))
        assert caught.value.param == "messages[0].content[1].detail"
    assert pictures.count(part(photo(), detail="high"))


def test_too_large_is_refused_by_the_head(model: Eyes, pictures: Pictures) -> None:
    large = io.BytesIO()
    Image.new("1", (1001, 1000)).save(large, "PNG")
    for call in (pictures.count, pictures.read):
        with pytest.raises(PayloadTooLarge, match=r"messages\[0\].content\[1\]: .*1001 x 1000"):
            call(part(large.getvalue()))
    padding = VisionSpec(**{f: getattr(model.vision, f) for f in model.vision.__struct_fields__
                            if f != "pad"}, pad=True)  # fmt: skip
    strip = io.BytesIO()
    Image.new("1", (200_000, 2)).save(strip, "PNG")
    with pytest.raises(PayloadTooLarge, match="fills it up"):
        Pictures(model.folder, padding, "f32", Limits(max_image_pixels=1_000_000)).read(
            part(strip.getvalue())
        )
    assert pictures.read(part(strip.getvalue())).rows.shape[0] == model.vision.tokens
