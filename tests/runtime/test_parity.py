"""Parity: a compiled model that is not its source is found, and is not registered."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lmaas.config import Settings
from lmaas.errors import InvalidInput, ParityFailed
from lmaas.frameworks import package
from lmaas.runtime import parity
from lmaas.service import Service
from lmaas.types import TENANT, Manifest

X = np.random.default_rng(4).standard_normal((5, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package of a linear layer."""
    import torch

    torch.manual_seed(0)
    target = tmp_path / "package"
    package.build(torch.nn.Linear(6, 2), name="m", task="tensor", sample=X, folder=target)
    return target


def change_weight(folder: Path, by: float) -> None:
    """Add `by` to the first number of the compiled model's weights."""
    path = folder / "compiled" / "model.bin"
    weights = np.frombuffer(path.read_bytes(), np.float32).copy()
    weights[0] += by
    path.write_bytes(weights.tobytes())


def measure(folder: Path) -> tuple[bool, float]:
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    report = parity.measure(folder, manifest.signature, manifest.task, manifest.engine)
    return report.passed("f32"), report.max_abs_error("f32")


def publish(folder: Path, home: Path) -> list[str]:
    """The registered versions after `folder` was published into `home`."""
    service = Service(Settings(home=str(home)))
    try:
        asyncio.run(service.catalog.publish(TENANT, folder))
    finally:
        refs = [version.ref for version in service.catalog.latest(TENANT)]
        service.close()
    return refs


def registered(home: Path) -> list[str]:
    service = Service(Settings(home=str(home)))
    refs = [version.ref for version in service.catalog.latest(TENANT)]
    service.close()
    return refs


def test_a_faithful_package_is_registered(folder: Path, tmp_path: Path) -> None:
    passed, error = measure(folder)
    assert passed
    assert error <= 1e-5
    assert publish(folder, tmp_path / "home") == ["m:1"]


@pytest.mark.parametrize("by", [0.01, float("nan"), float("inf")])
def test_one_changed_weight_is_found(folder: Path, tmp_path: Path, by: float) -> None:
    change_weight(folder, by)
    assert not measure(folder)[0]
    with pytest.raises(ParityFailed, match="batch"):
        publish(folder, tmp_path / "home")
    assert registered(tmp_path / "home") == []


@pytest.mark.parametrize("missing", ["sample.safetensors", "compiled/model.bin", "manifest.json"])
def test_an_incomplete_package_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(InvalidInput, match=missing.rpartition("/")[2]):
        publish(folder, tmp_path / "home")
    assert registered(tmp_path / "home") == []
