"""The registry's promises: immutable versions, aliases, damage found, nothing half-written."""

import errno
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmaas.errors import Conflict, CorruptBlob, InvalidInput, LMaaSError, ModelNotFound, StorageFull
from lmaas.registry.names import check_name, parse_ref
from lmaas.registry.schema import HEAD
from lmaas.registry.store import Registry
from lmaas.types import TENANT, Manifest, ParityCheck, ParityReport, Signature, TensorSpec

PARITY = ParityReport(
    tolerance={"f32": 1e-4},
    checks=(
        ParityCheck(
            precision="f32", batch_size=1, max_abs_error=0.0, max_scaled_error=0.0, passed=True
        ),
    ),
)


def manifest(name: str = "digits") -> Manifest:
    spec = TensorSpec(name="x", dtype="float32", shape=(-1, 4))
    return Manifest(
        name=name,
        task="tensor",
        framework="pytorch",
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        num_parameters=4,
        framework_version="1",
    )


def package(folder: Path, content: bytes = b"weights") -> Path:
    (folder / "source").mkdir(parents=True)
    (folder / "compiled").mkdir()
    (folder / "source" / "weights.safetensors").write_bytes(content + b" source")
    (folder / "compiled" / "model.xml").write_bytes(b"<net/>")
    (folder / "compiled" / "model.bin").write_bytes(content)
    save_file({"in.1.x": np.zeros((1, 4), np.float32)}, folder / "sample.safetensors")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "home")
    yield registry
    registry.close()


def test_versions_count_up_and_are_never_reused(registry: Registry, tmp_path: Path) -> None:
    folder = package(tmp_path / "p")
    made = [registry.add(TENANT, manifest(), PARITY, folder) for _ in range(3)]
    assert [version.version for version in made] == [1, 2, 3]
    assert registry.resolve(TENANT, "digits") == made[2]
    assert registry.resolve(TENANT, "digits:2") == made[1]
    registry.remove(TENANT, "digits:3")
    assert registry.resolve(TENANT, "digits").version == 2
    assert registry.add(TENANT, manifest(), PARITY, folder).version == 4
    registry.remove(TENANT, "digits")
    with pytest.raises(ModelNotFound):
        registry.resolve(TENANT, "digits")
    assert registry.add(TENANT, manifest(), PARITY, folder).version == 5


def test_aliases_move_and_protect(registry: Registry, tmp_path: Path) -> None:
    folder = package(tmp_path / "p")
    for _ in range(2):
        registry.add(TENANT, manifest(), PARITY, folder)
    registry.set_alias(TENANT, "digits", "production", 1)
    assert registry.resolve(TENANT, "digits@production").version == 1
    registry.set_alias(TENANT, "digits", "production", 2)
    assert registry.resolve(TENANT, "digits@production").aliases == ("production",)
    with pytest.raises(ModelNotFound):
        registry.set_alias(TENANT, "digits", "production", 9)
    with pytest.raises(Conflict):
        registry.remove(TENANT, "digits:2")
    registry.remove(TENANT, "digits:2", force=True)
    with pytest.raises(ModelNotFound):
        registry.resolve(TENANT, "digits@production")


def test_another_tenant_sees_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.add(TENANT, manifest("secret-plan"), PARITY, package(tmp_path / "p"))
    assert registry.models("other") == []
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve("other", "secret-plam")
    assert "secret-plan" not in str(caught.value)
    with pytest.raises(ModelNotFound, match="secret-plan"):
        registry.resolve(TENANT, "secret-plam")


def test_equal_files_are_stored_once_and_freed_last(registry: Registry, tmp_path: Path) -> None:
    folder = package(tmp_path / "p")
    for name in ("a", "b"):
        registry.add(TENANT, manifest(name), PARITY, folder)
    assert len(list(registry.blobs.all())) == 4
    registry.remove(TENANT, "a")
    assert len(list(registry.blobs.all())) == 4
    registry.remove(TENANT, "b")
    assert list(registry.blobs.all()) == []


def test_a_flipped_byte_is_found_at_unpacking_and_named(registry: Registry, tmp_path: Path) -> None:
    version = registry.add(TENANT, manifest(), PARITY, package(tmp_path / "p"))
    folder = registry.unpack(version, tmp_path / "good")
    assert (folder / "compiled" / "model.bin").read_bytes() == b"weights"
    damaged = next(file for file in version.files if file.path == "compiled/model.bin")
    blob = registry.blobs.path(damaged.sha256)
    blob.chmod(0o600)
    blob.write_bytes(b"weighty")
    with pytest.raises(CorruptBlob) as caught:
        registry.unpack(version, tmp_path / "bad")
    for told in ("digits:1", "compiled/model.bin", damaged.sha256):
        assert told in str(caught.value)
    assert not (tmp_path / "bad").exists()
    report = registry.check()
    assert not report.ok
    assert [(d.model, d.path) for d in report.damaged] == [("digits:1", "compiled/model.bin")]
    registry.add(TENANT, manifest(), PARITY, tmp_path / "p")
    assert registry.check().ok


def test_a_missing_blob_is_found(registry: Registry, tmp_path: Path) -> None:
    version = registry.add(TENANT, manifest(), PARITY, package(tmp_path / "p"))
    registry.blobs.remove(version.files[0].sha256)
    assert [damage.problem for damage in registry.check().damaged] == ["missing"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_write_leaves_before_or_after_never_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Fail the 1st, 2nd, … fsync until the add completes."""
    folder = package(tmp_path / "p")
    real = os.fsync
    refused: set[int] = set()
    for nth in range(50):
        registry = Registry(tmp_path / f"home{nth}")
        calls = iter(range(1000))

        def failing(descriptor: int, nth: int = nth, calls: Iterator[int] = calls) -> None:
            if next(calls) == nth:
                raise OSError(code, os.strerror(code))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        done = False
        try:
            registry.add(TENANT, manifest(), PARITY, folder)
            done = True
        except StorageFull:
            refused.add(errno.ENOSPC)
        except OSError:
            refused.add(errno.EIO)
        monkeypatch.setattr(os, "fsync", real)
        report = registry.check(repair=True)
        assert report.ok
        assert report.leftovers == ()
        assert len(registry.models(TENANT)) == done
        assert registry.add(TENANT, manifest(), PARITY, folder).version == 1 + done
        registry.close()
        if done:
            break
    else:
        pytest.fail("the add never completed")
    assert nth > 4
    assert refused == {code}


def add_many(home: Path, folder: Path, count: int) -> None:
    registry = Registry(home)
    for _ in range(count):
        registry.add(TENANT, manifest(), PARITY, folder)
    registry.close()


def test_processes_that_add_at_once_get_distinct_versions(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = package(tmp_path / "p")
    jobs = [context.Process(target=add_many, args=(tmp_path / "home", folder, 5)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    registry = Registry(tmp_path / "home")
    assert [v.version for v in registry.versions(TENANT, "digits")] == list(range(1, 16))
    assert registry.check().ok
    registry.close()


def test_killed_while_adding_leaves_a_registry_that_checks(tmp_path: Path) -> None:
    folder = package(tmp_path / "p", os.urandom(1 << 20))
    code = (
        "import os, pathlib, sys; sys.path.insert(0, sys.argv[3]);"
        "import test_store as t; from lmaas.registry import blobs;"
        "real = blobs._sync_folder; n = [0]\n"
        "def stop(f):\n n[0] += 1\n real(f)\n n[0] == 3 and os.kill(os.getpid(), 9)\n"
        "blobs._sync_folder = stop\n"
        "t.add_many(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 1)"
    )
    paths = [tmp_path / "home", folder, Path(__file__).parent]
    argv = [sys.executable, "-c", code, *map(str, paths)]
    assert subprocess.run(argv, timeout=60, check=False).returncode == -9
    registry = Registry(tmp_path / "home")
    report = registry.check(repair=True)
    assert report.ok
    assert report.orphans
    assert registry.check().orphans == ()
    assert registry.models(TENANT) == []
    registry.close()


def test_other_processes_commits_change_the_revision(registry: Registry, tmp_path: Path) -> None:
    before = registry.revision()
    assert registry.revision() == before
    add_many(tmp_path / "home", package(tmp_path / "p"), 1)
    assert registry.revision() != before


def test_the_database_is_durable_and_at_head(registry: Registry) -> None:
    with registry.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        told = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert told == HEAD


def test_migrations_make_the_tables_that_the_code_reads(registry: Registry) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from lmaas.registry.schema import metadata

    with registry.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_newer_database_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.close()
    connection = sqlite3.connect(tmp_path / "home" / "lmaas.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(LMaaSError, match="newer LMaaS"):
        Registry(tmp_path / "home")


@pytest.mark.parametrize(
    "name",
    ["", "..", "a..b", "../a", "a/b", "a\\b", "%2e%2e", "a\0b", "a" * 97, "A", ".a", "a.", "a b",
     "dіgits", "digits\n", "ﬁle", "a\u202e", "a:b", "a@b", "-a", "C:"],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(name)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("ref", ["a:", "a:0", "a:-1", "a:1.0", "a:１", "a@", "a@b@c", "a:1:2"])
def test_refs_that_are_refused(ref: str) -> None:
    with pytest.raises(InvalidInput):
        parse_ref(ref)
