"""Tiny models written directly as OpenVINO graphs, and a shelf that hands them to the pool."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import CorruptBlob, ModelNotFound
from lmaas.types import (
    FileRef,
    FileRole,
    Manifest,
    ModelVersion,
    ParityCheck,
    ParityReport,
    Signature,
    TensorSpec,
)

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
)
SLOW_SIGNATURE = Signature(
    inputs=(TensorSpec(name="steps", dtype="float32", shape=(-1, 1)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 1)),),
)
STEPS_PER_S = 2000
"""About: what one second of the slow model's work is depends on the machine."""
PARITY = ParityReport(
    tolerance={},
    checks=(
        ParityCheck(
            precision="f32", batch_size=1, max_abs_error=0, max_scaled_error=0, passed=True
        ),
    ),
)


def add_one(folder: Path, amount: float = 1.0) -> Signature:
    """y = x + amount."""
    import openvino
    import openvino.opset13 as ops

    x = ops.parameter([-1, 4], np.float32, name="x")
    y = ops.add(x, ops.constant(np.array([[amount]], np.float32)))
    _save(openvino.Model([ops.result(y)], [x], "add_one"), folder, SIGNATURE)
    return SIGNATURE


def slow(folder: Path) -> Signature:
    """y = steps, after multiplying matrices as often as the largest of `steps` says."""
    import openvino
    import openvino.opset13 as ops

    x = ops.parameter([-1, 1], np.float32, name="steps")
    trips = ops.convert(ops.reduce_max(x, ops.constant(np.array([0, 1])), False), "i64")
    weight = np.eye(512, dtype=np.float32)
    state = ops.parameter([512, 512], np.float32)
    body_y = ops.add(
        ops.matmul(state, ops.constant(weight), False, False), ops.constant(np.float32(1e-6))
    )
    going = ops.constant(np.array([True]))
    body = openvino.Model([ops.result(going), ops.result(body_y)], [state], "body")
    loop = ops.loop(trips, ops.constant(True))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 0])
    loop.set_merged_input(state, ops.constant(weight).output(0), body.results[1].output(0))
    out = loop.get_iter_value(body.results[1].output(0), -1)
    zero = ops.multiply(ops.reduce_max(out, ops.constant(np.array([0, 1])), False), np.float32(0))
    y = ops.add(x, zero)
    _save(openvino.Model([ops.result(y)], [x], "slow"), folder, SLOW_SIGNATURE)
    return SLOW_SIGNATURE


def _save(model: Any, folder: Path, signature: Signature) -> None:
    import openvino

    for port, spec in zip(model.inputs, signature.inputs, strict=True):
        port.set_names({spec.name})
    for port, spec in zip(model.outputs, signature.outputs, strict=True):
        port.set_names({spec.name})
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


class Shelf:
    """Versions and their compiled folders, in the registry's terms."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.known: dict[str, ModelVersion] = {}
        self.damaged: set[str] = set()
        self.commits = 0
        self.unpacked: list[str] = []

    def add(
        self, name: str, folder: Path, signature: Signature, *, size_bytes: int = 1000
    ) -> ModelVersion:
        self.commits += 1
        number = 1 + sum(version.name == name for version in self.known.values())
        version = ModelVersion(
            tenant="default",
            name=name,
            version=number,
            manifest=Manifest(
                name=name,
                task="tensor",
                framework="onnx",
                signature=signature,
                num_parameters=1,
                framework_version="1",
            ),
            parity=PARITY,
            files=(FileRef(path="model.bin", role="compiled", sha256="0", size_bytes=size_bytes),),
            created_at=0.0,
        )
        self.folders[version.ref] = folder
        self.known[version.ref] = version
        return version

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        found = self.known.get(ref) or max(
            self.versions(tenant, ref), key=lambda v: v.version, default=None
        )
        if found is None:
            raise ModelNotFound(f"No model {ref}.")
        return found

    def versions(self, tenant: str, name: str) -> list[ModelVersion]:
        return [version for version in self.known.values() if version.name == name]

    def data_version(self) -> int:
        return self.commits

    def unpack(
        self, version: ModelVersion, folder: Path, roles: tuple[FileRole, ...] = ("compiled",)
    ) -> Path:
        self.unpacked.append(version.ref)
        if version.ref in self.damaged:
            raise CorruptBlob(f"{version.ref}: model.bin is damaged.")
        shutil.copytree(self.folders[version.ref], folder / "compiled")
        return folder
