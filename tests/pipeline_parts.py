"""Models that pipelines of tests are made of, registered without being measured: they are right."""

import asyncio
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import detectors
from ir_models import PARITY
from lmaas import tasks
from lmaas.config import Settings
from lmaas.registry.store import Registry
from lmaas.runtime import ov
from lmaas.service import Service
from lmaas.types import (
    TENANT,
    DetectionSpec,
    ImageSpec,
    Manifest,
    ModelVersion,
    PipelineBody,
    Signature,
    TensorSpec,
)

WHOLE = ImageSpec(height=64, width=64, resize="letterbox", fill=0)
CROP = ImageSpec(height=16, width=16)
PARTS = {"detector": "shapes", "classifier": "warmth"}


def add(
    registry: Registry, name: str, task: str, graph: Path, tenant: str = TENANT, **signature: Any
) -> ModelVersion:
    """Register the ONNX file `graph` as a model for `task`."""
    core = ov.core()
    model = core.read_model(graph)

    def specs(ports: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=port.get_any_name(),
                dtype="float32",
                shape=tuple(d.get_length() if d.is_static else -1 for d in port.partial_shape),
            )
            for port in ports
        )

    told = Signature(inputs=specs(model.inputs), outputs=specs(model.outputs), **signature)
    with TemporaryDirectory() as folder:
        package = Path(folder)
        (package / "compiled").mkdir()
        ov.load().save_model(model, package / "compiled" / "model.xml", compress_to_fp16=False)
        manifest = Manifest(
            name=name,
            task=task,
            framework="onnx",
            signature=tasks.get(task).check_signature(told),
            num_parameters=9,
            framework_version="1",
        )
        return registry.add(tenant, manifest, PARITY, package)


def add_parts(registry: Registry, tenant: str = TENANT) -> None:
    """Register `shapes`, which finds squares of three colours, and `warmth` of a colour."""
    with TemporaryDirectory() as folder:
        grid, warmth = Path(folder) / "grid.onnx", Path(folder) / "warmth.onnx"
        detectors.export(grid, "grid")
        detectors.export_classifier(warmth)
        add(
            registry, "shapes", "object-detection", grid, tenant, image=WHOLE,
            labels=detectors.LABELS, detection=DetectionSpec(head="grid", nms=0.2),
        )  # fmt: skip
        add(
            registry, "warmth", "image-classification", warmth, tenant, image=CROP,
            labels=("warm", "cold"), outputs_are="logits",
        )  # fmt: skip


def make_home(home: Path) -> None:
    """A home with both parts, and `seer`, the pipeline of them."""
    with closing(Service(Settings(home=str(home)))) as service:
        add_parts(service.registry)
        body = PipelineBody(name="seer", task="object-detection", parts=PARTS, card="Warm or cold.")
        asyncio.run(service.pipelines.make(TENANT, body))
