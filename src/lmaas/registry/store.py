"""The registry: models by name, immutable versions, movable aliases.

Synchronous and thread-safe. Several processes may open the same home.
"""

import collections
import difflib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from lmaas.errors import Conflict, CorruptBlob, ModelNotFound, NotFound
from lmaas.registry import fsck
from lmaas.registry.blobs import Blobs
from lmaas.registry.database import Database
from lmaas.registry.names import check_name, parse_ref
from lmaas.registry.schema import aliases, files, models, variants, versions
from lmaas.registry.storage import Storage, next_number
from lmaas.types import (
    FileRef,
    FileRole,
    Manifest,
    ModelVersion,
    ParityReport,
    Variant,
    VariantName,
    VariantReport,
)

T = TypeVar("T")
MOST_NAMES = 500
"""So many values one query is asked for: SQLite bounds them."""
PACKAGE_FILES: tuple[tuple[str, FileRole], ...] = (
    ("source", "source"),
    ("compiled", "compiled"),
    ("native", "native"),
    ("sample.safetensors", "sample"),
    ("metrics.csv", "curves"),
    ("curves.png", "curves"),
)
"""What of a package is stored, and as what."""


class Registry:
    """The models of one home."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home = home
        self.database: Storage = Database(home)
        self.revision = self.database.watch("models")
        """Whether models, versions or aliases have changed since (`storage.Revision`)."""
        self.blobs = Blobs(home)

    def close(self) -> None:
        """Release the database."""
        self.database.close()

    # Writing

    def add(
        self,
        tenant: str,
        manifest: Manifest,
        parity: ParityReport,
        package: Path,
        beside: Callable[[sa.Connection, str], None] | None = None,
    ) -> ModelVersion:
        """Store a package's files and make it the next version of `manifest.name`.

        A version number is never used twice, even after deletion. `beside` writes what is to be
        true together with it, in the same transaction, and is given the version's reference.
        Raises StorageFull, and what `beside` raises, with nothing registered.
        """
        check_name(manifest.name)
        with self.blobs.adding():
            stored = [
                FileRef(path=path, role=role, sha256=sha256, size_bytes=size)
                for path, role in _package_files(package)
                for sha256, size in [self.blobs.put(package / path)]
            ]
            key = {"tenant": tenant, "name": manifest.name}
            with self.database.write() as connection:
                same = (models.c.tenant == tenant) & (models.c.name == manifest.name)
                number = next_number(connection, models.c.last_version, same, deleted=0)
                if number is None:
                    number = 1
                    connection.execute(models.insert().values(**key, last_version=1, deleted=0))
                connection.execute(
                    versions.insert().values(
                        **key,
                        version=number,
                        manifest=msgspec.json.encode(manifest).decode(),
                        parity=msgspec.json.encode(parity).decode(),
                        created_at=time.time(),
                    )
                )
                if stored:
                    connection.execute(
                        files.insert(),
                        [{**key, "version": number, **msgspec.structs.asdict(f)} for f in stored],
                    )
                if beside is not None:
                    beside(connection, f"{manifest.name}:{number}")
        return self.resolve(tenant, f"{manifest.name}:{number}")

    def add_variant(
        self,
        version: ModelVersion,
        variant: VariantName,
        report: VariantReport,
        folder: Path,
        beside: Callable[[sa.Connection, str], None] | None = None,
    ) -> ModelVersion:
        """Store `folder`'s files as a compressed variant of `version`, in place of an older one.

        `beside` writes what is to be true together with it, as in `add`.
        Raises ModelNotFound when the version is gone, StorageFull with nothing changed.
        """
        key = {"tenant": version.tenant, "name": version.name, "version": version.version}
        top = f"variants/{variant}/"
        with self.blobs.adding():
            stored = [
                {**key, "path": top + path, "role": "variant", "sha256": sha256, "size_bytes": size}
                for path in _files_in(folder)
                for sha256, size in [self.blobs.put(folder / path)]
            ]
            before: set[str] = set()
            with self.database.write() as connection:
                if connection.execute(sa.select(versions).where(_same(versions, key))).first():
                    older = sa.select(files.c.sha256).where(
                        _same(files, key) & files.c.path.startswith(top, autoescape=True)
                    )
                    before = set(connection.scalars(older))
                    connection.execute(
                        variants.delete().where(_same(variants, {**key, "variant": variant}))
                    )
                    connection.execute(
                        files.delete().where(
                            _same(files, key) & files.c.path.startswith(top, autoescape=True)
                        )
                    )
                    connection.execute(files.insert(), stored)
                    connection.execute(
                        variants.insert().values(
                            **key,
                            variant=variant,
                            report=msgspec.json.encode(report).decode(),
                            created_at=time.time(),
                        )
                    )
                    if beside is not None:
                        beside(connection, version.ref)
        self._collect(before | {str(row["sha256"]) for row in stored})
        return self.resolve(version.tenant, version.ref)

    def set_alias(self, tenant: str, name: str, alias: str, version: int) -> None:
        """Point `name@alias` at `version`, whatever it pointed at before."""
        check_name(alias, what="alias")
        with self.database.write() as connection:
            _find(connection, tenant, f"{name}:{version}")
            connection.execute(aliases.delete().where(_alias(tenant, name, alias)))
            connection.execute(
                aliases.insert().values(tenant=tenant, name=name, alias=alias, version=version)
            )

    def remove_alias(self, tenant: str, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound."""
        with self.database.write() as connection:
            gone = connection.execute(aliases.delete().where(_alias(tenant, name, alias)))
            if not gone.rowcount:
                raise NotFound(f"{name} has no alias {alias!r}.", param="alias")

    def remove(self, tenant: str, ref: str, *, force: bool = False) -> list[ModelVersion]:
        """Remove one version (`name:3`), what an alias points to, or a whole model (`name`).

        Raises Conflict for a version that an alias points to, unless `force` removes both.
        """
        parsed = parse_ref(ref)
        whole = parsed.version is None and parsed.alias is None
        with self.database.write() as connection:
            if whole:
                gone = _all(connection, tenant, parsed.name)
            else:
                gone = [_find(connection, tenant, ref)]
            held = [f"{v.name}@{alias}" for v in gone for alias in v.aliases]
            if held and not force:
                raise Conflict(
                    f"{ref} is what {', '.join(held)} points to.",
                    hint="Move the alias first, or remove with --force.",
                )
            numbers = [version.version for version in gone]
            for table in (aliases, versions):
                connection.execute(
                    table.delete().where(
                        (table.c.tenant == tenant)
                        & (table.c.name == parsed.name)
                        & table.c.version.in_(numbers)
                    )
                )
        self._collect({file.sha256 for version in gone for file in version.files})
        return gone

    def collect_garbage(self) -> list[str]:
        """Delete the files that no version names; their digests.

        In slices, between which others may add. A slice in which somebody does is passed over: the
        next collection finds what it has.
        """
        gone = []
        for candidates in self.blobs.slices():
            gone += self._collect(candidates)
        with self.blobs.alone() as alone:
            for leftover in self.blobs.leftovers() if alone else ():
                leftover.unlink()
        return gone

    def _collect(self, candidates: set[str]) -> list[str]:
        """Delete those of these files that no version names, unless somebody is adding."""
        with self.blobs.alone() as alone:
            if not (alone and candidates):
                return []
            used: set[str] = set()
            named = sa.select(files.c.sha256).distinct()
            with self.database.read() as connection:
                for part in _batched(sorted(candidates)):
                    used |= set(connection.scalars(named.where(files.c.sha256.in_(part))))
            gone = sorted(candidates - used)
            for sha256 in gone:
                self.blobs.remove(sha256)
        return gone

    # Reading

    def resolve(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `name` (the latest), `name:3` or `name@alias` refers to.

        Raises ModelNotFound, suggesting a name of this tenant that is close.
        """
        with self.database.read() as connection:
            return _find(connection, tenant, ref)

    def models(self, tenant: str) -> list[ModelVersion]:
        """The latest version of every model of `tenant`, by name."""
        latest = (
            sa.select(versions.c.name, sa.func.max(versions.c.version).label("version"))
            .where(versions.c.tenant == tenant)
            .group_by(versions.c.name)
            .subquery()
        )
        query = _of_tenant(tenant).join(
            latest,
            (versions.c.name == latest.c.name) & (versions.c.version == latest.c.version),
        )
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(versions.c.name)).all()
            return _load(connection, rows)

    def versions(self, tenant: str, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first. Raises ModelNotFound."""
        check_name(name)
        with self.database.read() as connection:
            return _all(connection, tenant, name)

    def unpack(
        self, version: ModelVersion, folder: Path, roles: Sequence[FileRole] = ("compiled",)
    ) -> Path:
        """Put the files of these roles into `folder` by their package path (`compiled/model.xml`).

        Each is checked against its digest now. On CorruptBlob, which names model, file and
        digest, `folder` is removed.
        """
        for file in version.files:
            if file.role in roles:
                try:
                    self.blobs.link(file.sha256, folder / file.path)
                except CorruptBlob as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise CorruptBlob(
                        f"{version.ref}: {file.path}: {error.message}", hint=error.hint
                    ) from None
        return folder

    def unpack_package(self, version: ModelVersion, folder: Path) -> Path:
        """Put the package of a version into `folder`, as training begins from it."""
        self.unpack(version, folder, ("source", "compiled", "native", "sample"))
        (folder / "manifest.json").write_bytes(msgspec.json.encode(version.manifest))
        return folder

    def check(self, *, repair: bool = False) -> fsck.FsckReport:
        """Every file against its digest, every row against its files; see `fsck`."""
        return fsck.check(self.database, self.blobs, repair=repair)


def _package_files(package: Path) -> list[tuple[str, FileRole]]:
    found: list[tuple[str, FileRole]] = []
    for top, role in PACKAGE_FILES:
        path = package / top
        inside = [f"{top}/{name}" for name in _files_in(path)] if path.is_dir() else [top]
        found += [(name, role) for name in inside if _is_plain(package / name)]
    return found


def _files_in(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if _is_plain(p)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _same(table: sa.Table, key: Mapping[str, object]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in key.items()))


def _of_tenant(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(versions).where(versions.c.tenant == tenant)


def _alias(tenant: str, name: str, alias: str) -> sa.ColumnElement[bool]:
    return sa.and_(aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.alias == alias)


def _batched(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), MOST_NAMES):
        yield values[start : start + MOST_NAMES]


def _find(connection: sa.Connection, tenant: str, ref: str) -> ModelVersion:
    parsed = parse_ref(ref)
    query = _of_tenant(tenant).where(versions.c.name == parsed.name)
    if parsed.version is not None:
        query = query.where(versions.c.version == parsed.version)
    elif parsed.alias is not None:
        pointed = sa.select(aliases.c.version).where(_alias(tenant, parsed.name, parsed.alias))
        query = query.where(versions.c.version == pointed.scalar_subquery())
    rows = connection.execute(query.order_by(versions.c.version.desc()).limit(1)).all()
    if not rows:
        raise _not_found(connection, tenant, ref, parsed.name)
    return _load(connection, rows)[0]


def _all(connection: sa.Connection, tenant: str, name: str) -> list[ModelVersion]:
    query = _of_tenant(tenant).where(versions.c.name == name).order_by(versions.c.version)
    rows = connection.execute(query).all()
    if not rows:
        raise _not_found(connection, tenant, name, name)
    return _load(connection, rows)


def _load(
    connection: sa.Connection, rows: Sequence[sa.Row[tuple[object, ...]]]
) -> list[ModelVersion]:
    """The versions of these rows, with three queries for each `MOST_NAMES` of their names."""
    keys: list[Any] = [
        (row._mapping["tenant"], row._mapping["name"], row._mapping["version"]) for row in rows
    ]
    found: dict[str, dict[tuple[object, ...], list[sa.Row[tuple[object, ...]]]]] = {}
    for table, order in ((files, "path"), (aliases, "alias"), (variants, "variant")):
        of_key = found[table.name] = collections.defaultdict(list)
        for part in _batched(sorted(set(keys))):
            which = sa.tuple_(table.c.tenant, table.c.name, table.c.version)
            query = sa.select(table).where(which.in_(part))
            for row in connection.execute(query.order_by(table.c[order])):
                of_key[row.tenant, row.name, row.version].append(row)
    return [
        ModelVersion(
            tenant=row._mapping["tenant"],
            name=row._mapping["name"],
            version=row._mapping["version"],
            manifest=msgspec.json.decode(row._mapping["manifest"], type=Manifest),
            parity=msgspec.json.decode(row._mapping["parity"], type=ParityReport),
            files=tuple(
                FileRef(path=f.path, role=f.role, sha256=f.sha256, size_bytes=f.size_bytes)
                for f in found["files"][key]
            ),
            created_at=row._mapping["created_at"],
            aliases=tuple(pointing.alias for pointing in found["aliases"][key]),
            variants=tuple(
                Variant(
                    name=made.variant,
                    report=msgspec.json.decode(made.report, type=VariantReport),
                    created_at=made.created_at,
                )
                for made in found["variants"][key]
            ),
        )
        for row, key in zip(rows, keys, strict=True)
    ]


def _not_found(connection: sa.Connection, tenant: str, ref: str, name: str) -> ModelNotFound:
    known = list(
        connection.scalars(sa.select(versions.c.name).where(versions.c.tenant == tenant).distinct())
    )
    if name in known:
        return ModelNotFound(
            f"Model {name!r} has no {ref.removeprefix(name)!r}.",
            hint=f"`lmaas models show {name}` lists its versions and aliases.",
            param="model",
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "`lmaas models list` shows what there is."
    return ModelNotFound(f"There is no model {name!r}.", hint=hint, param="model")
