"""What serving a model that takes images needs, and what is refused of it by name."""

from pathlib import Path

import msgspec
import pytest

from lmaas.config import Settings
from lmaas.errors import ConfigError, InvalidInput
from lmaas.runtime.language.embedded import KEY_NUMBERS, vision_bytes
from lmaas.service import Service
from lmaas.service.compressor import check_compressible
from lmaas.serving.engines import choose_engine
from lmaas.serving.prepare import need_of
from lmaas.types import TENANT, CompressOptions, ModelVersion

BUDGET = 4 << 30


@pytest.fixture(scope="module")
def eyes(eyes_made: Path) -> ModelVersion:
    service = Service(Settings(home=str(eyes_made / "home")))
    version = service.catalog.get(TENANT, "eyes")
    service.close()
    return version


def test_only_engines_that_take_images_serve_it(eyes: ModelVersion) -> None:
    assert choose_engine("auto", eyes)[0].name == "openvino-genai"
    with pytest.raises(ConfigError, match="torch takes no image"):
        choose_engine("torch", eyes)


def test_rows_of_images_are_planned(eyes: ModelVersion) -> None:
    spec = eyes.manifest.signature.language
    assert spec is not None
    assert spec.vision is not None
    cache = 1 << 20
    settings = Settings(kv_cache_bytes=cache, max_image_pixels=123, prompt_lookup=4)
    need = need_of(eyes, settings, BUDGET, lambda _: eyes)
    tokens = cache // spec.kv_bytes_per_token
    rows = vision_bytes(spec.vision, tokens)
    assert rows > tokens * (KEY_NUMBERS + spec.vision.numbers) * 4
    signature = msgspec.structs.replace(
        eyes.manifest.signature, language=msgspec.structs.replace(spec, vision=None)
    )
    manifest = msgspec.structs.replace(eyes.manifest, signature=signature)
    blind = msgspec.structs.replace(eyes, manifest=manifest)
    assert (
        need.memory_bytes - need_of(blind, settings, BUDGET, lambda _: blind).memory_bytes == rows
    )
    record = need.record(Path("x"))
    assert record.limits.max_image_pixels == 123
    assert record.options is not None
    assert record.options.lookup == 0


def test_nothing_guesses_for_it(eyes: ModelVersion) -> None:
    with pytest.raises(ConfigError, match="takes images: no draft model") as caught:
        need_of(eyes, Settings(drafts=("eyes=eyes",)), BUDGET, lambda _: eyes)
    assert caught.value.param == "drafts"


def test_it_is_not_compressed(eyes: ModelVersion) -> None:
    with pytest.raises(InvalidInput, match="takes images: compressed are models"):
        check_compressible(eyes, CompressOptions(to="int8"))
