"""The SQLite database of one home: opened, migrated, read and written.

The backend of `registry.storage` for SQLite. WAL with synchronous=FULL: a commit that returned
survives power loss. Several processes may have it open; writers take turns (BEGIN IMMEDIATE, ten
seconds of patience).
"""

import fcntl
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import UpdateBase

from lmaas.aside import refuse_in_loop
from lmaas.errors import LMaaSError, StorageFull, Unavailable
from lmaas.registry import schema
from lmaas.registry.storage import TOPICS, Topic

FILE = "lmaas.db"
BUSY_TIMEOUT_MS = 10_000
FRESH_S = 0.001
RETRY_S = 0.02
LOOK = """
import mmap, sys
remains = [bytes.fromhex(line) for line in sys.stdin.read().split()]
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
    sys.exit(any(data.find(each) >= 0 for each in remains))
"""
"""What looks for remains: it ends with 1 where there are some."""
MOST_LOOKED_FOR = 64
"""Of more remains than so many, a VACUUM costs less than to look for them."""
REVISIONS = "SELECT topic, number FROM revisions"
CHANGED = "lmaas_changed"
"""Where a connection of a writer keeps the topics that it has changed."""


class Watch:
    """See `storage.Revision`."""

    __slots__ = ("_database", "number")

    def __init__(self, database: "Database") -> None:
        self._database = database
        self.number = 0

    def __call__(self) -> int:
        """As of a millisecond ago at most."""
        if time.monotonic() - self._database.looked_at >= FRESH_S:
            self._database.look()
        return self.number


class Database:
    """Connections to `home/lmaas.db`. `looked_at` is when `look` last asked for changes."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._engine = sa.create_engine(f"sqlite:///{self.path}")
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(lmaas_write=True)
        with _explained():
            _migrate(home, self._engine, self._writer)
        sa.event.listen(self._writer, "before_execute", _note_topic)
        self._watching = sqlite3.connect(
            f"file:{self.path}?mode=ro",
            timeout=0,
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        self._watch_lock = threading.Lock()
        self._watches = {topic: Watch(self) for topic in TOPICS}
        self._seen: int | None = None
        self.looked_at = -1.0

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
            changed: set[Topic] = set()
            connection.info[CHANGED] = changed
            yield connection
            if changed:
                here = schema.revisions.c
                connection.execute(
                    schema.revisions.update()
                    .where(here.topic.in_(changed))
                    .values(number=here.number + 1)
                )
        with self._watch_lock:
            self.looked_at = -1.0

    def scrub(self, remains: Sequence[bytes]) -> None:
        """See `storage.Storage.scrub`.

        Deleted rows are overwritten (`secure_delete`), but copies of rows that SQLite has moved
        within a page may lie in what the page does not use; a VACUUM writes the file anew.
        """
        refuse_in_loop("Writing the database")
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        with _explained(), closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            _prepare(connection, None)
            _empty_journal(connection, deadline)
            if len(remains) > MOST_LOOKED_FOR or _holds(self.path, remains):
                connection.execute("VACUUM")
                _empty_journal(connection, deadline)

    def watch(self, topic: Topic) -> Watch:
        """Whether anything of `topic` has changed since."""
        return self._watches[topic]

    def look(self) -> None:
        """Read the revisions, if anybody has committed anything."""
        now = time.monotonic()
        with self._watch_lock:
            try:
                # Without a look at the file, SQLite knows whether another connection has written.
                (seen,) = self._watching.execute("PRAGMA data_version").fetchone()
                if seen != self._seen:
                    for topic, number in self._watching.execute(REVISIONS):
                        self._watches[topic].number = number
                    self._seen = seen
            except sqlite3.OperationalError:
                return  # recovered by another process just now: it is told the next time
            self.looked_at = now

    def close(self) -> None:
        """Release every connection."""
        self._watching.close()
        self._engine.dispose()


def _note_topic(connection: sa.Connection, statement: Any, *_: Any) -> None:
    """What a statement changes, by its table."""
    if isinstance(statement, UpdateBase) and isinstance(statement.table, sa.Table):
        topic = statement.table.info.get("topic")
        if topic is not None:
            connection.info[CHANGED].add(topic)


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")


def _holds(path: Path, remains: Sequence[bytes]) -> bool:
    """Whether the database's file has any of these bytes, or nobody can say.

    Looked at by another process: one that opens the file beside SQLite and closes it gives up all
    locks that it has on it (POSIX), and the next process to leave would delete the journal.
    """
    argv = [sys.executable, "-I", "-S", "-c", LOOK, str(path)]
    told = b"\n".join(each.hex().encode() for each in remains)
    try:
        return subprocess.run(argv, input=told, timeout=BUSY_TIMEOUT_MS / 1000).returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        return True


def _empty_journal(connection: sqlite3.Connection, deadline: float) -> None:
    """Write the journal's pages to the database, and leave the journal without a byte."""
    while True:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                "The rows are deleted, but another process reads the database, so its journal "
                "still has them.",
                hint="Try again.",
            )
        time.sleep(RETRY_S)


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lmaas_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _explained() -> Iterator[None]:
    """SQLite's failures as errors that say what to do."""
    try:
        yield
    except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
        text = str(error.orig if isinstance(error, sa.exc.OperationalError) else error)
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
