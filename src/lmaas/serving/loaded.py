"""Which models have a backend, or get or lose one: the table that the pool's parts share."""

import asyncio
from typing import Final

from lmaas.serving.backend import Backend
from lmaas.types import ModelVersion

REMEMBER_FAILURE_S: Final = 10.0
"""For so long a model that could not be loaded is not tried again."""

Key = tuple[str, str, int]


def key_of(version: ModelVersion) -> Key:
    """What stands for a version: tenant, name and number."""
    return version.tenant, version.name, version.version


class Loaded:
    """The backends of one server.

    `current` answer, or will once they are loaded; `coming` replace a current one when they are
    loaded; `leaving` finish what they have; `failed` are remembered until a time of the loop.
    """

    def __init__(self) -> None:
        self.current: dict[Key, Backend] = {}
        self.coming: dict[Key, Backend] = {}
        self.leaving: set[Backend] = set()
        self.failed: dict[Key, tuple[Backend, float]] = {}

    def all(self) -> list[Backend]:
        """Everything that has or gets a process."""
        return [*self.current.values(), *self.coming.values(), *self.leaving]

    def remember_failure(self, backend: Backend) -> None:
        """Note that a model could not be loaded."""
        until = asyncio.get_running_loop().time() + REMEMBER_FAILURE_S
        self.failed[key_of(backend.version)] = backend, until

    async def unload(self, backend: Backend, deadline: float) -> None:
        """End `backend`. It leaves the table first: from now on, calls get a new one."""
        key = key_of(backend.version)
        for table in (self.current, self.coming):
            if table.get(key) is backend:
                del table[key]
        self.leaving.add(backend)
        try:
            await backend.stop(deadline)
        finally:
            self.leaving.discard(backend)
