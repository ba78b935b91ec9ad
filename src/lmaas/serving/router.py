"""From what a caller names to the version that answers. Asks the registry only when it changed.

When the newest version of a floating name cannot be served because its stored files are damaged,
the newest good one before it answers, and the log and `Pool.status` name the damage.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from lmaas import tasks
from lmaas.aside import Aside
from lmaas.errors import CorruptBlob, InvalidInput
from lmaas.serving.generation import Answered, Receiver
from lmaas.serving.pool import Pool
from lmaas.serving.speech import Listener
from lmaas.tasks.generating import HOW
from lmaas.tasks.text_to_speech.serving import HOW as HOW_TO_HEAR
from lmaas.types import GENERATE, Answer, ModelVersion, Payload

log = logging.getLogger(__name__)

KEEP_MOST: Final = 4096
T = TypeVar("T")


class Versions(Protocol):
    """What the router asks of the registry."""

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `ref` names now. Raises ModelNotFound."""
        ...

    def versions(self, tenant: str, name: str) -> list[ModelVersion]:
        """All versions of a model."""
        ...

    def revision(self) -> int:
        """Rises when any process has changed a model, a version or an alias. Costs little."""
        ...


class Router:
    """Resolves names and sends calls to the pool."""

    def __init__(self, registry: Versions, pool: Pool, aside: Aside | None = None) -> None:
        self._registry = registry
        self._aside = aside or Aside()
        self._pool = pool
        self._known: dict[tuple[str, str], ModelVersion] = {}
        self._revision = -1
        self._reported: set[tuple[str, str]] = set()

    async def find(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `ref` names for `tenant`. Raises ModelNotFound, InvalidInput."""
        revision = self._registry.revision()
        if revision != self._revision:
            self._known.clear()
            self._revision = revision
        version = self._known.get((tenant, ref))
        if version is None:
            needed = ("version", tenant, ref, revision)
            version = await self._aside.share(needed, self._registry.resolve, tenant, ref)
            if len(self._known) >= KEEP_MOST:
                self._known.clear()
            if revision == self._revision:  # else it may be another by now
                self._known[tenant, ref] = version
        return version

    async def call(
        self,
        version: ModelVersion,
        ref: str,
        payload: Payload,
        receiver: Receiver | None = None,
    ) -> tuple[ModelVersion, Answer]:
        """The answer of `version`, which `ref` named, and which version gave it.

        `receiver` hears of pieces that come before it, where the task has any.

        Raises what `Pool.call` raises, and InvalidInput for a language model, which is not called
        with arrays; CorruptBlob only when no version is left.
        """
        if tasks.spec(version.manifest.task).generates and payload.media_type != GENERATE:
            raise InvalidInput(
                f"{version.ref} is a language model: it is not called this way.",
                hint=HOW,
                param="model",
            )
        if tasks.spec(version.manifest.task).speaks:
            raise InvalidInput(
                f"{version.ref} speaks: it is not called this way.", hint=HOW_TO_HEAR, param="model"
            )
        return await self._first(version, ref, lambda v: self._pool.call(v, payload, receiver))

    async def generate(
        self, version: ModelVersion, ref: str, payload: Payload, receiver: Receiver
    ) -> Answered:
        """The end of a generation by `version`, which `ref` named. Raises as `call` does."""
        _, answered = await self._first(
            version, ref, lambda each: self._pool.generate(each, payload, receiver)
        )
        return answered

    async def speak(
        self, version: ModelVersion, ref: str, payload: Payload, listener: Listener
    ) -> tuple[ModelVersion, Answer]:
        """The end of a speech by `version`, which `ref` named. Raises as `call` does."""
        return await self._first(
            version, ref, lambda each: self._pool.speak(each, payload, listener)
        )

    async def _first(
        self, version: ModelVersion, ref: str, ask: Callable[[ModelVersion], Awaitable[T]]
    ) -> tuple[ModelVersion, T]:
        """What the version answers or, for a floating name, the newest good one before it."""
        try:
            return version, await ask(version)
        except CorruptBlob as error:
            if ":" in ref:
                raise
            return await self._ask_older(version, error, ask)

    async def _ask_older(
        self,
        damaged: ModelVersion,
        error: CorruptBlob,
        ask: Callable[[ModelVersion], Awaitable[T]],
    ) -> tuple[ModelVersion, T]:
        versions = await self._aside.read(self._registry.versions, damaged.tenant, damaged.name)
        older = [version for version in versions if version.version < damaged.version]
        for version in sorted(older, key=lambda version: -version.version):
            try:
                answer = await ask(version)
            except CorruptBlob:
                continue
            if (damaged.tenant, damaged.ref) not in self._reported:
                self._reported.add((damaged.tenant, damaged.ref))
                log.warning("%s answers for %s: %s", version.ref, damaged.ref, error)
            return version, answer
        raise error
