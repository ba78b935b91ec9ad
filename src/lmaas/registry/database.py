"""The SQLite database of one home: opened, migrated, read and written.

WAL with synchronous=FULL: a commit that returned survives power loss. Several processes may have
it open; writers take turns (BEGIN IMMEDIATE, ten seconds of patience).
"""

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lmaas.aside import refuse_in_loop
from lmaas.errors import LMaaSError, StorageFull, Unavailable
from lmaas.registry import schema

FILE = "lmaas.db"
BUSY_TIMEOUT_MS = 10_000
FRESH_S = 0.001


class Database:
    """Connections to `home/lmaas.db`. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._engine = sa.create_engine(f"sqlite:///{self.path}")
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(lmaas_write=True)
        with _explained():
            _migrate(home, self._engine, self._writer)
        self._watch = sqlite3.connect(
            f"file:{self.path}?mode=ro",
            timeout=0,
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        self._watch_lock = threading.Lock()
        self._watched = (0, -1.0)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one moment of the database."""
        refuse_in_loop("Reading the database")
        with _explained(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end, or undone by an exception."""
        refuse_in_loop("Writing the database")
        with _explained(), self._writer.connect() as connection, connection.begin():
            yield connection
        self._watched = (0, -1.0)

    def data_version(self) -> int:
        """A number that changes when any process commits.

        A commit of another process shows after a millisecond at most, one of this at once. Waits
        for no lock, so that an event loop may ask.
        """
        number, asked = self._watched
        now = time.monotonic()
        if now - asked < FRESH_S:
            return number
        with self._watch_lock:
            try:
                (number,) = self._watch.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError:
                return number  # recovered by another process just now: it is told the next time
            self._watched = number, now
        return int(number)

    def close(self) -> None:
        """Release every connection."""
        self._watch.close()
        self._engine.dispose()


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lmaas_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _explained() -> Iterator[None]:
    """SQLite's failures as errors that say what to do."""
    try:
        yield
    except sa.exc.OperationalError as error:
        text = str(error.orig)
        if "full" in text or "disk I/O" in text:
            raise StorageFull(
                f"The database cannot be written: {text}.", hint="Free space and try again."
            ) from error
        if "locked" in text:
            raise Unavailable(
                "The database is busy with another writer.", hint="Try again."
            ) from error
        raise


def _migrate(home: Path, engine: sa.Engine, writer: sa.Engine) -> None:
    if _revision(engine) == schema.HEAD:
        return
    with (home / "migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _revision(engine)
        if found == schema.HEAD:
            return
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise LMaaSError(
                f"{home / FILE} was written by a newer LMaaS (schema {found}; this one knows up "
                f"to {schema.HEAD}).",
                hint="Upgrade LMaaS, or use another LMAAS_HOME.",
            )
        with writer.connect() as connection, connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else str(row[0])
