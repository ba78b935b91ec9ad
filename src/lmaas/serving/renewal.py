"""Replaces a loaded language model when a better variant of it is registered."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from lmaas.config import Settings
from lmaas.errors import LMaaSError
from lmaas.serving.loaded import REMEMBER_FAILURE_S, Key, Loaded
from lmaas.serving.prepare import has_variants, served_variant_name
from lmaas.serving.worker import WorkerBackend
from lmaas.types import ModelVersion

log = logging.getLogger(__name__)


class Versions(Protocol):
    """What renewal asks of the registry."""

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `ref` names now."""
        ...

    def revision(self) -> int:
        """Rises when any process has changed a model, a version or an alias. Costs little."""
        ...


class Renewal:
    """Loads better variants beside what answers until they are ready."""

    def __init__(
        self,
        settings: Settings,
        versions: Versions,
        loaded: Loaded,
        start: Callable[[ModelVersion], WorkerBackend],
    ) -> None:
        self._settings = settings
        self._versions = versions
        self._loaded = loaded
        self._start = start
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._not_before: dict[Key, float] = {}
        self._seen = -1

    def cancel(self) -> None:
        """Give up what is being loaded."""
        for task in self._running.values():
            task.cancel()

    async def look(self) -> None:
        """Begin to replace what has a better variant, where anything may have changed."""
        changed = await asyncio.to_thread(self._versions.revision)
        if changed != self._seen or self._not_before:
            # Variants change with the database alone; one that failed to load is tried again.
            self._seen = changed
            await self._begin()

    async def _begin(self) -> None:
        now = asyncio.get_running_loop().time()
        for key, backend in list(self._loaded.current.items()):
            if not has_variants(backend.version) or key in self._running:
                continue
            if self._not_before.get(key, 0.0) > now:
                continue
            self._not_before.pop(key, None)
            try:
                version, variant = await asyncio.to_thread(self._newest, backend.version)
            except LMaaSError as error:
                log.debug("%s stays as it is: %s", backend.version.ref, error)
                continue
            if not backend.variant_name:
                self._seen = -1  # it still loads: look again
            if (
                backend.variant_name in ("", variant)
                or self._loaded.current.get(key) is not backend
            ):
                continue
            coming = self._loaded.coming[key] = self._start(version)
            self._running[key] = asyncio.create_task(self._renew(key, coming))

    def _newest(self, version: ModelVersion) -> tuple[ModelVersion, str]:
        """`version` as it is registered now, and the name of its best variant."""
        now = self._versions.resolve(version.tenant, version.ref)
        return now, served_variant_name(now, self._settings)

    async def _renew(self, key: Key, coming: WorkerBackend) -> None:
        """Let `coming` answer once it is loaded; what answered until then finishes what it has."""
        loop, loaded = asyncio.get_running_loop(), self._loaded
        try:
            await coming.loaded()
            if loaded.coming.get(key) is not coming:
                return  # unloaded meanwhile
            log.info("%s is served in another variant from now on.", coming.version.ref)
            before = loaded.current.get(key)
            loaded.current[key] = coming
            del loaded.coming[key]
            loaded.failed.pop(key, None)
            if before is not None:
                coming.pinned = before.pinned
                await loaded.unload(before, loop.time() + self._settings.generation_timeout_s)
        except LMaaSError as error:
            if loaded.coming.pop(key, None) is not None:
                log.error("%s keeps its variant: %s", coming.version.ref, error)
                self._not_before[key] = loop.time() + REMEMBER_FAILURE_S
        finally:
            del self._running[key]
