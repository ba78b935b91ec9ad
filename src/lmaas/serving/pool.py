"""All workers of one server: who is loaded, who makes room, who is watched, how all of it ends.

Runs in the server's event loop. What a single worker does is `serving.worker`'s matter.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from lmaas.config import Settings
from lmaas.errors import DoesNotFit, NotFound, Unavailable
from lmaas.placement.base import Placement, Shipment
from lmaas.placement.local import LocalPlacement
from lmaas.serving.backend import Backend
from lmaas.serving.generation import Answered, Receiver
from lmaas.serving.launch import renewed
from lmaas.serving.loaded import Key, Loaded, key_of
from lmaas.serving.metrics import Metrics
from lmaas.serving.pins import Pins
from lmaas.serving.plan import MIB, LoadedModel, Need, make_plan
from lmaas.serving.prepare import need_of, served_variant_name
from lmaas.serving.quarantine import Quarantine
from lmaas.serving.renewal import Renewal
from lmaas.serving.speech import Listener
from lmaas.serving.upstream import Upstream
from lmaas.serving.worker import Prepared, WorkerBackend
from lmaas.supervision import Supervisor
from lmaas.types import Answer, FileRole, ModelVersion, Payload, WorkerStatus

log = logging.getLogger(__name__)

ROOM_POLL_S: Final = 0.05


class Store(Protocol):
    """What the pool asks of the registry."""

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `ref` names now."""
        ...

    def revision(self) -> int:
        """Rises when any process has changed a model, a version or an alias. Costs little."""
        ...

    def unpack(
        self, version: ModelVersion, folder: Path, roles: tuple[FileRole, ...] = ...
    ) -> Path:
        """Lay the version's files out as `folder/<role>/…`, every digest verified."""
        ...


class Pool:
    """Serves any version it is given, each from a worker of its own."""

    def __init__(
        self,
        settings: Settings,
        registry: Store,
        metrics: Metrics,
        supervisor: Supervisor | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor or Supervisor()
        self._registry = registry
        self._metrics = metrics
        self._quarantine = Quarantine()
        self._placement = placement or LocalPlacement(settings.home_path)
        self._budget = settings.memory_budget_bytes or self._placement.node.memory_bytes
        self._shipments: dict[WorkerBackend, Shipment] = {}
        self._loaded = Loaded()
        self._pins = Pins(settings.pinned, registry, self._loaded, self._worker)
        self._renewal = Renewal(settings, registry, self._loaded, self._start)
        self._planning = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None
        self._open = False
        self._closing = False

    async def start(self) -> None:
        """Clear what a killed server left, begin to watch, and begin to load what is pinned."""
        await self._placement.open()
        self._open = True
        self._metrics.watch(self._depths)
        await self._pins.keep()
        self._ticker = self._supervisor.keep("pool", self._tick)

    async def close(self, deadline_s: float) -> None:
        """Refuse new calls, let running ones finish for `deadline_s`, then end every worker."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        self._closing = True
        if self._ticker:
            self._ticker.cancel()
            await asyncio.wait((self._ticker,))
        self._renewal.cancel()
        await asyncio.gather(*(worker.stop(deadline) for worker in self._loaded.all()))
        while self._loaded.leaving:
            await asyncio.sleep(ROOM_POLL_S)
        await self._placement.close()

    async def call(
        self, version: ModelVersion, payload: Payload, receiver: Receiver | None = None
    ) -> Answer:
        """The answer of `version` to `payload`; loads it first where it is not loaded.

        `receiver` hears of pieces that come before it, where the task has any. Cancelling the
        awaiting task cancels the request. Raises QueueFull, Quarantined, TimedOut, Unavailable,
        DoesNotFit, CorruptBlob and whatever the task finds wrong with the payload.
        """
        with self._metrics.statistics.timing(version):
            return await self._worker(version).call(payload, receiver)

    async def generate(
        self, version: ModelVersion, payload: Payload, receiver: Receiver
    ) -> Answered:
        """Have a language model answer; `receiver` hears of its pieces. As `call` otherwise."""
        with self._metrics.statistics.timing(version):
            worker = self._worker(version)
            ended = await worker.generate(payload, receiver)
        return Answered(version, worker.variant_name, ended)

    async def speak(self, version: ModelVersion, payload: Payload, listener: Listener) -> Answer:
        """Have a model speak; `listener` hears of its pieces. As `call` otherwise."""
        with self._metrics.statistics.timing(version):
            return await self._worker(version).speak(payload, listener)

    async def variant_name(self, version: ModelVersion) -> str:
        """The name of the variant of a language model that answers, or will once it is loaded.

        Raises ConfigError, MissingExtra and ParityFailed for settings that cannot be honoured.
        """
        worker = self._loaded.current.get(key_of(version))
        if worker is not None and worker.variant_name:
            return worker.variant_name
        return await asyncio.to_thread(served_variant_name, version, self._settings)

    async def load(self, version: ModelVersion) -> None:
        """Load `version` unless it is loaded. Raises what makes that fail."""
        await self._worker(version).loaded()

    async def stop(self, tenant: str, ref: str) -> None:
        """Unload what `ref` names (`name`: all loaded versions). Raises NotFound if none is."""
        name = ref
        number: int | None = None
        if ":" in ref or "@" in ref:
            version = await asyncio.to_thread(self._registry.resolve, tenant, ref)
            name, number = version.name, version.version
        keys = [
            key
            for key in {*self._loaded.current, *self._loaded.coming, *self._loaded.failed}
            if key[:2] == (tenant, name) and number in (None, key[2])
        ]
        if not keys:
            raise NotFound(f"{ref} is not loaded.", hint="`lmaas ps` shows what is.", param="model")
        self._pins.release({ref, name, *(f"{name}:{key[2]}" for key in keys)})
        deadline = asyncio.get_running_loop().time() + self._settings.drain_timeout_s
        for key in keys:
            self._loaded.failed.pop(key, None)
        workers = [worker for worker in self._loaded.all() if key_of(worker.version) in keys]
        await asyncio.gather(*(self._loaded.unload(worker, deadline) for worker in workers))

    def status(self) -> list[WorkerStatus]:
        """One line for each worker, those that failed to load included."""
        failed = [worker for worker, _ in self._loaded.failed.values()]
        return [worker.status() for worker in (*self._loaded.all(), *failed)]

    def ready(self) -> bool:
        """Whether calls can be answered: nothing pinned or loaded is without a live worker, and
        no task of the server is down."""
        lost = any(worker.lost for worker in self._loaded.current.values())
        held_up = lost or bool(self._supervisor.down)
        return not self._closing and self._pins.live and not held_up

    def _worker(self, version: ModelVersion) -> Backend:
        """The worker of `version`; a new one, loading, at first. All first calls share it."""
        if self._closing or not self._open:
            raise Unavailable("The server is not taking requests now.", hint="Send it again soon.")
        key = key_of(version)
        if there := self._loaded.current.get(key) or self._loaded.coming.get(key):
            return there
        if known := self._loaded.failed.get(key):
            worker, until = known
            if asyncio.get_running_loop().time() < until and worker.error:
                raise renewed(worker.error)
            del self._loaded.failed[key]
        if version.manifest.upstream is not None:
            upstream = Upstream(version, self._settings)
            upstream.start()
            self._loaded.current[key] = upstream
            return upstream
        worker = self._loaded.current[key] = self._start(version)
        return worker

    def _start(self, version: ModelVersion) -> WorkerBackend:
        worker = WorkerBackend(
            version, self._settings, self._placement, self._quarantine, self._metrics
        )
        worker.start(lambda: self._prepare(worker), self._ended)
        return worker

    async def _prepare(self, worker: WorkerBackend) -> Prepared:
        """Room and the record for `worker`; its files are on their way."""
        version = worker.version
        # In a thread: it may have to ask another Python what that has.
        need = await asyncio.to_thread(
            need_of,
            version,
            self._settings,
            self._budget,
            lambda ref: self._registry.resolve(version.tenant, ref),
        )
        await self._make_room(worker, need.memory_bytes)
        shipment = self._placement.ship(partial(self._unpack, need))
        self._shipments[worker] = shipment
        return need.record(shipment.folder), shipment.arrived

    def _unpack(self, need: Need, folder: Path) -> None:
        for part, role, name in need.files:
            self._registry.unpack(part, folder / name, (role,))

    async def _make_room(self, worker: WorkerBackend, needed: int) -> None:
        """Promise `worker` its memory; ends idle models for it, or waits for busy ones."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.load_timeout_s
        while True:
            async with self._planning:
                held = [self._holding(w) for w in self._loaded.all() if w.memory_bytes]
                plan = make_plan(worker.version.ref, needed, held, self._budget)
                if plan.enough:
                    worker.planned_bytes = needed
                    evicted = [self._loaded.current.pop(key) for key in plan.evict]
                    for other in evicted:
                        log.info("%s makes room for %s.", other.version.ref, worker.version.ref)
                    await asyncio.gather(*(self._loaded.unload(w, loop.time()) for w in evicted))
                    return
            if loop.time() >= deadline:
                raise DoesNotFit(
                    f"{worker.version.ref} needs about {needed // MIB} MiB; the memory budget of "
                    f"{self._budget // MIB} MiB is held by models that are busy.",
                    hint="Send the request again later, or raise memory_budget_bytes.",
                )
            await asyncio.sleep(ROOM_POLL_S)

    def _holding(self, worker: Backend) -> LoadedModel[Key]:
        """What `worker` holds. One that is being replaced makes room, pinned or not."""
        key = key_of(worker.version)
        coming = self._loaded.coming.get(key)
        return LoadedModel(
            key=key,
            memory_bytes=worker.memory_bytes,
            last_used=worker.last_used,
            busy=bool(worker.depth) or worker.state != "ready" or worker is coming,
            pinned=worker.pinned and coming is None,
        )

    def _ended(self, worker: WorkerBackend) -> None:
        shipment = self._shipments.pop(worker, None)
        if shipment is not None:
            shipment.remove()
        key = key_of(worker.version)
        if self._loaded.current.get(key) is not worker:
            return
        del self._loaded.current[key]
        if worker.state == "failed" and worker.error and not self._closing:
            log.error("%s is not served: %s", worker.version.ref, worker.error)
            if not isinstance(worker.error, DoesNotFit):
                self._loaded.remember_failure(worker)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        heartbeat_s = self._settings.heartbeat_s
        last = loop.time()
        while True:
            await asyncio.sleep(heartbeat_s)
            now = loop.time()
            late = now - last > 2 * heartbeat_s
            last = now
            for worker in self._loaded.all():
                worker.tick(now, late=late)
            for worker in list(self._loaded.current.values()):
                idle_s = now - worker.last_used
                if 0 < self._settings.idle_unload_s < idle_s and worker.state == "ready":
                    if worker.depth or worker.pinned:
                        continue
                    log.info("Unloading %s: idle for %.0f s.", worker.version.ref, idle_s)
                    await self._loaded.unload(worker, now)
            if self._settings.pinned:
                await self._pins.keep()
            await self._renewal.look()

    def _depths(self) -> dict[str, tuple[int, float]]:
        depths: dict[str, tuple[int, float]] = {}
        for worker in self._loaded.all():
            depth, cache_used = depths.get(worker.version.ref, (0, 0.0))
            shown = depth + worker.depth, max(cache_used, worker.cache_used)
            depths[worker.version.ref] = shown
        return depths
