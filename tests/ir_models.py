"""Tiny models written directly as OpenVINO graphs, and a registry to put them in."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.registry.store import Registry
from lmaas.types import (
    TENANT,
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


def no_graph(folder: Path) -> Signature:
    """Files that OpenVINO cannot read."""
    (folder / "model.xml").write_text("<not a model>")
    (folder / "model.bin").write_bytes(b"")
    return SIGNATURE


def _save(model: Any, folder: Path, signature: Signature) -> None:
    import openvino

    for port, spec in zip(model.inputs, signature.inputs, strict=True):
        port.set_names({spec.name})
    for port, spec in zip(model.outputs, signature.outputs, strict=True):
        port.set_names({spec.name})
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


class Models(Registry):
    """A registry of a test that makes its models itself and notes what is unpacked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "home")
        self.folder = folder
        self.unpacked: list[str] = []

    def make(self, name: str, build: Callable[[Path], Signature]) -> ModelVersion:
        package = self.folder / f"package-{name}-{time.monotonic_ns()}"
        (package / "compiled").mkdir(parents=True)
        manifest = Manifest(
            name=name,
            task="tensor",
            framework="onnx",
            signature=build(package / "compiled"),
            num_parameters=1,
            framework_version="1",
        )
        return self.add(TENANT, manifest, PARITY, package)

    def unpack(
        self, version: ModelVersion, folder: Path, roles: Sequence[FileRole] = ("compiled",)
    ) -> Path:
        self.unpacked.append(version.ref)
        return super().unpack(version, folder, roles)

    def damage(self, version: ModelVersion) -> None:
        """Flip a byte of the version's weights where they are stored."""
        file = next(file for file in version.files if file.path.endswith(".bin"))
        path = self.blobs.path(file.sha256)
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
