"""Pinned models: loaded at start, kept loaded, and followed to newer versions."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from lmaas.errors import LMaaSError
from lmaas.serving.backend import Backend
from lmaas.serving.loaded import Key, Loaded, key_of
from lmaas.types import TENANT, ModelVersion

log = logging.getLogger(__name__)


class Names(Protocol):
    """What pins ask of the registry."""

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `ref` names now."""
        ...


class Pins:
    """The references that are pinned; `live` once all that they name can answer."""

    def __init__(
        self,
        refs: Iterable[str],
        names: Names,
        loaded: Loaded,
        backend_of: Callable[[ModelVersion], Backend],
    ) -> None:
        self._refs = list(refs)
        self._names = names
        self._loaded = loaded
        self._backend_of = backend_of
        self.live = False

    def release(self, refs: set[str]) -> None:
        """Pin these no more: somebody unloaded what they name."""
        self._refs = [ref for ref in self._refs if ref not in refs]

    async def keep(self) -> None:
        """Have what each pin names now loaded; unpin what it no longer names."""
        named: set[Key] = set()
        live = True
        for ref in self._refs:
            try:
                version = await asyncio.to_thread(self._names.resolve, TENANT, ref)
                named.add(key_of(version))
                backend = self._backend_of(version)
                backend.pinned = True
                live &= backend.live
            except LMaaSError as error:
                live = False
                log.debug("Pinned %s is not served: %s", ref, error)
        for key, backend in self._loaded.current.items():
            backend.pinned = key in named
        self.live = live
