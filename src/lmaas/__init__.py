"""LMaaS: Large Models as a Service, on your own machines.

    import lmaas
    lmaas.publish(model, name="digits", task="image-classification", labels=[...], sample=x[:4])
    with lmaas.local() as client:
        client.predict("digits", "digit.png")

Importing this package loads no framework and has no side effect.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmaas.client import connect, connect_async
    from lmaas.own_server import local
    from lmaas.publishing import publish
    from lmaas.recipes import train
    from lmaas.types import DetectionSpec, FaceSpec, ImageSpec, ReadingSpec

__all__ = [
    "DetectionSpec",
    "FaceSpec",
    "ImageSpec",
    "ReadingSpec",
    "__version__",
    "connect",
    "connect_async",
    "local",
    "publish",
    "train",
]

_HOMES = {
    "DetectionSpec": "lmaas.types",
    "FaceSpec": "lmaas.types",
    "ImageSpec": "lmaas.types",
    "ReadingSpec": "lmaas.types",
    "connect": "lmaas.client",
    "connect_async": "lmaas.client",
    "local": "lmaas.own_server",
    "publish": "lmaas.publishing",
    "train": "lmaas.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lmaas' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
