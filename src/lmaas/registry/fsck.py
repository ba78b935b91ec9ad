"""Does the registry hold what it says: each row its files, each file its digest, what is left."""

import sqlalchemy as sa

from lmaas.registry.blobs import Blobs, digest_of
from lmaas.registry.schema import files
from lmaas.registry.storage import Storage
from lmaas.types import Record


class Damage(Record, frozen=True, kw_only=True):
    """A file of a version that is missing or has other bytes than its digest names."""

    tenant: str
    model: str
    path: str
    sha256: str
    problem: str


class FsckReport(Record, frozen=True, kw_only=True):
    """What `lmaas fsck` found. `orphans` are digests that no version names; harmless.

    So are `downloads` from a hub that were broken off: the next pull continues them.
    """

    num_files: int
    damaged: tuple[Damage, ...] = ()
    orphans: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()
    database: tuple[str, ...] = ()
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether every version can be served."""
        return not self.damaged and not self.database


def check(database: Storage, blobs: Blobs, *, repair: bool) -> FsckReport:
    """Read every blob. With `repair`, delete orphans and leftovers when nobody is adding."""
    with database.read() as connection:
        integrity = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        foreign = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        rows = connection.execute(sa.select(files)).all()
    problems: dict[str, str] = {}
    for sha256 in {row.sha256 for row in rows}:
        path = blobs.path(sha256)
        if not path.exists():
            problems[sha256] = "missing"
        elif (found := digest_of(path)) != sha256:
            problems[sha256] = f"has the digest {found}"
    damaged = tuple(
        Damage(
            tenant=row.tenant,
            model=f"{row.name}:{row.version}",
            path=row.path,
            sha256=row.sha256,
            problem=problems[row.sha256],
        )
        for row in rows
        if row.sha256 in problems
    )
    with blobs.alone() as alone:
        with database.read() as connection:
            used = set(connection.scalars(sa.select(files.c.sha256).distinct()))
        orphans = [sha256 for sha256 in blobs.all() if sha256 not in used] if alone else []
        leftovers = blobs.leftovers() if alone else []
        if repair:
            for sha256 in orphans:
                blobs.remove(sha256)
            for leftover in leftovers:
                leftover.unlink()
    return FsckReport(
        num_files=len(rows),
        damaged=damaged,
        orphans=tuple(orphans),
        leftovers=tuple(path.name for path in leftovers),
        database=(
            *(line for line in integrity if line != "ok"),
            *(f"row {row} names a missing parent" for row in foreign),
        ),
        repaired=repair,
    )
