"""Compressed forms in the registry: stored, replaced, listed, removed with their version."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from lmaas.errors import CorruptBlob, ModelNotFound
from lmaas.registry.store import Registry
from lmaas.types import (
    TENANT,
    LanguageSpec,
    Manifest,
    Measured,
    ModelVersion,
    ParityReport,
    Signature,
    VariantReport,
)

NUMBERS = Measured(size_bytes=7, perplexity=12.5, load_s=0.1, tokens_per_s=30.0)
REPORT = VariantReport(
    source=NUMBERS,
    compressed=NUMBERS,
    drop=0.0,
    max_drop=0.05,
    token_agreement=0.75,
    first_differences=(None, 3),
    new_tokens=32,
    text="built-in",
    text_tokens=4096,
    method={"weights": "int8_asym"},
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "home")
    yield registry
    registry.close()


@pytest.fixture
def version(registry: Registry, tmp_path: Path) -> ModelVersion:
    package = tmp_path / "package"
    (package / "compiled").mkdir(parents=True)
    (package / "compiled" / "openvino_model.bin").write_bytes(b"all the weights")
    (package / "compiled" / "tokenizer.json").write_bytes(b"{}")
    save_file({"x": np.zeros(1, np.float32)}, package / "sample.safetensors")
    spec = LanguageSpec(architecture="A", context_length=8, vocabulary_size=5)
    manifest = Manifest(
        name="m",
        task="text-generation",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), language=spec),
        num_parameters=1,
        framework_version="1",
    )
    return registry.add(TENANT, manifest, ParityReport(tolerance={}, checks=()), package)


def form(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "openvino_model.bin").write_bytes(weights)
    (folder / "tokenizer.json").write_bytes(b"{}")
    return folder


def test_a_variant_is_stored_beside_what_is_served(
    registry: Registry, version: ModelVersion, tmp_path: Path
) -> None:
    found = registry.add_variant(version, "int8", REPORT, form(tmp_path / "v", b"few"))
    assert [(v.name, v.report) for v in found.variants] == [("int8", REPORT)]
    assert found == registry.resolve(TENANT, "m")
    assert msgspec.json.decode(msgspec.json.encode(found), type=ModelVersion) == found
    assert found.compiled_bytes == version.compiled_bytes
    files = {file.path: file for file in found.files if file.role == "variant"}
    assert set(files) == {"variants/int8/openvino_model.bin", "variants/int8/tokenizer.json"}
    registry.unpack(found, tmp_path / "out", ("variant",))
    assert (tmp_path / "out/variants/int8/openvino_model.bin").read_bytes() == b"few"
    assert registry.check(repair=False).ok
    assert not registry.check(repair=False).orphans


def test_a_variant_that_is_made_again_takes_the_place_of_the_old(
    registry: Registry, version: ModelVersion, tmp_path: Path
) -> None:
    registry.add_variant(version, "int8", REPORT, form(tmp_path / "a", b"few"))
    registry.add_variant(version, "int4", REPORT, form(tmp_path / "b", b"fewer"))
    again = msgspec.structs.replace(REPORT, token_agreement=1.0)
    found = registry.add_variant(version, "int8", again, form(tmp_path / "c", b"other"))
    assert {v.name: v.report.token_agreement for v in found.variants} == {"int4": 0.75, "int8": 1.0}
    registry.unpack(found, tmp_path / "out", ("variant",))
    assert (tmp_path / "out/variants/int8/openvino_model.bin").read_bytes() == b"other"
    assert len([f for f in found.files if f.role == "variant"]) == 4
    assert not registry.check(repair=False).orphans


def test_variants_go_with_their_version(
    registry: Registry, version: ModelVersion, tmp_path: Path
) -> None:
    found = registry.add_variant(version, "int8", REPORT, form(tmp_path / "a", b"few"))
    registry.remove(TENANT, "m")
    assert not list(registry.blobs.all())
    with pytest.raises(ModelNotFound):
        registry.add_variant(found, "int4", REPORT, form(tmp_path / "b", b"fewer"))
    registry.collect_garbage()
    assert not list(registry.blobs.all())


def test_damage_to_a_variant_is_found(
    registry: Registry, version: ModelVersion, tmp_path: Path
) -> None:
    found = registry.add_variant(version, "int8", REPORT, form(tmp_path / "a", b"few"))
    digest = next(f.sha256 for f in found.files if f.path == "variants/int8/openvino_model.bin")
    blob = registry.blobs.path(digest)
    blob.chmod(0o600)
    blob.write_bytes(b"bad")
    (damage,) = registry.check(repair=False).damaged
    assert (damage.model, damage.path) == ("m:1", "variants/int8/openvino_model.bin")
    with pytest.raises(CorruptBlob):
        registry.unpack(found, tmp_path / "out", ("variant",))
