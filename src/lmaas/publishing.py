"""`lmaas.publish`: a live model from a notebook or script, straight into the registry."""

import asyncio
import concurrent.futures
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lmaas.config import load_settings
from lmaas.frameworks import package
from lmaas.registry.names import check_name
from lmaas.service import Service
from lmaas.types import TENANT, ImageSpec, Lineage, ModelVersion


def publish(
    model: Any,
    *,
    name: str,
    task: str,
    sample: Any,
    labels: Sequence[str] | None = None,
    image: ImageSpec | None = None,
    outputs_are: Literal["logits", "probabilities"] | None = None,
    metrics: Mapping[str, float] | None = None,
    card: str = "",
    lineage: Lineage | None = None,
    home: str | Path | None = None,
) -> ModelVersion:
    """Compile, check and register a live model in `home` (default LMAAS_HOME).

    The model is exported in this process; see `frameworks.package.build` for the arguments. A
    running server of that home serves the new version at once. Raises ParityFailed when the
    compiled model does not give the model's own outputs.
    """
    check_name(name)
    settings = load_settings({"home": None if home is None else str(home)})
    service = Service(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
            folder = Path(scratch) / "package"
            package.build(
                model,
                name=name,
                task=task,
                sample=sample,
                folder=folder,
                labels=labels,
                image=image,
                outputs_are=outputs_are,
                metrics=metrics,
                card=card,
                lineage=lineage,
            )
            # A thread of its own: in a notebook this thread already runs an event loop.
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                work = service.publish_package(TENANT, folder)
                return thread.submit(asyncio.run, work).result()
    finally:
        service.close()
