"""How much disk a tenant's models, data files and galleries may take.

The operator's own have no bound.
"""

import sqlalchemy as sa

from lmaas.errors import InsufficientQuota
from lmaas.registry.data_files import Files
from lmaas.registry.schema import files as stored
from lmaas.registry.schema import galleries, gallery_photos
from lmaas.registry.store import Registry
from lmaas.types import TENANT

FLOAT_BYTES = 4


class Quota:
    """The bound of all tenants of one home."""

    def __init__(self, most_bytes: int, registry: Registry, files: Files) -> None:
        self._most_bytes = most_bytes
        self._database = registry.database
        self._files = files

    def used_bytes(self, tenant: str) -> int:
        """What the tenant has. A file that several versions share counts once."""
        each = sa.select(stored.c.sha256, stored.c.size_bytes)
        of_models = each.where(stored.c.tenant == tenant).distinct().subquery()
        vectors = (
            sa.select(sa.func.sum(galleries.c.dimensions * FLOAT_BYTES))
            .join(gallery_photos, gallery_photos.c.gallery == galleries.c.id)
            .where(galleries.c.tenant == tenant)
        )
        with self._database.read() as connection:
            models = connection.scalar(sa.select(sa.func.sum(of_models.c.size_bytes))) or 0
            faces = connection.scalar(vectors) or 0
        return int(models) + int(faces) + sum(file.size_bytes for file in self._files.list(tenant))

    def check(self, tenant: str, more_bytes: int) -> None:
        """Raise InsufficientQuota where `more_bytes` would be too many."""
        if tenant == TENANT or not self._most_bytes:
            return
        used = self.used_bytes(tenant)
        if used + more_bytes > self._most_bytes:
            raise InsufficientQuota(
                f"The tenant {tenant} may have {self._most_bytes >> 20} MiB of models, data and "
                f"galleries; it has {used >> 20} MiB, and this would be {more_bytes >> 20} MiB "
                "more.",
                hint="Delete models or data files, or ask the operator (tenant_disk_bytes).",
            )
