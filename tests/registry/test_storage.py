"""What a backend of the port of records promises. One list names the backends.

Processes of their own run `python test_storage.py BACKEND HOME VERB ARGUMENT…`.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lmaas.registry.database import Database
from lmaas.registry.schema import jobs, keys, limits, metadata, models, revisions, usage, versions
from lmaas.registry.storage import TOPICS, Storage, Topic, claim_row, next_number

BACKENDS: dict[str, Callable[[Path], Storage]] = {"sqlite": Database}
PROCESSES = 3


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def storage(backend: str, home: Path) -> Iterator[Storage]:
    opened = BACKENDS[backend](home)
    yield opened
    opened.close()


# What processes do


def add_key(connection: sa.Connection, key_id: str) -> None:
    row = {"tenant": "t", "name": "n", "sha256": "0", "scopes": "call", "created_at": 0.0}
    connection.execute(keys.insert().values(id=key_id, **row))


def add_model(connection: sa.Connection, name: str) -> None:
    connection.execute(models.insert().values(tenant="t", name=name, last_version=0, deleted=0))


def add_version(connection: sa.Connection, number: int) -> None:
    row = {"tenant": "t", "name": "m", "manifest": "{}", "parity": "{}", "created_at": 0.0}
    connection.execute(versions.insert().values(version=number, **row))


def add_job(connection: sa.Connection, job_id: str, created_at: float) -> None:
    row = {"tenant": "t", "key_id": "k", "kind": "train", "name": "n", "state": "queued"}
    row |= {"recipe": "{}", "metadata": "{}", "progress": "{}"}
    numbers = dict.fromkeys(("priority", "attempts", "crashes", "fence", "events_offset"), 0)
    connection.execute(jobs.insert().values(id=job_id, created_at=created_at, **row, **numbers))


def claim_one(storage: Storage, owner: str) -> str | None:
    first = sa.select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.created_at)
    values = {"state": "running", "lease_owner": owner, "fence": jobs.c.fence + 1}
    with storage.write() as connection:
        row = claim_row(connection, jobs, first.limit(1), values)
    return None if row is None else str(row.id)


def claim_all(storage: Storage, owner: str) -> list[str]:
    return list(iter(lambda: claim_one(storage, owner), None))


def number(storage: Storage, count: str) -> list[int]:
    """Take so many numbers; every third transaction is undone at its end."""
    taken = []
    for turn in range(int(count)):
        with suppress(ZeroDivisionError), storage.write() as connection:
            got = next_number(connection, models.c.last_version, models.c.name == "m", deleted=turn)
            assert got is not None
            add_version(connection, got)
            assert turn % 3 or not 1 // 0
            taken.append(got)
    return taken


def add_up(storage: Storage, count: str) -> None:
    """Read a number, and write one more: right only if nobody writes in between."""
    for _ in range(int(count)):
        with storage.write() as connection:
            found = connection.scalar(sa.select(models.c.deleted))
            connection.execute(models.update().values(deleted=(found or 0) + 1))


def die(storage: Storage, when: str) -> None:
    """Be killed amidst a transaction, or just after it."""
    with storage.write() as connection:
        add_key(connection, "half")
        add_model(connection, "half")
        if when == "amidst":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def change(storage: Storage, key_id: str) -> None:
    with storage.write() as connection:
        add_key(connection, key_id)


VERBS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (claim_all, number, add_up, die, change)
}


def start(backend: str, home: Path, verb: str, *args: str) -> subprocess.Popen[str]:
    """A process that is ready, and does it once it is told to go on."""
    process = subprocess.Popen(
        [sys.executable, __file__, backend, str(home), verb, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def together(backend: str, home: Path, verb: str, *args: str) -> list[Any]:
    """What several processes say that do it at once."""
    processes = [start(backend, home, verb, *args) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    return list(map(json.loads, said))


# Changes


def seen(storage: Storage) -> dict[Topic, int]:
    return {topic: storage.watch(topic)() for topic in TOPICS}


def risen(storage: Storage, before: dict[Topic, int]) -> set[Topic]:
    after = seen(storage)
    assert all(after[topic] >= before[topic] for topic in TOPICS)
    return {topic for topic in TOPICS if after[topic] > before[topic]}


def test_a_change_shows_at_once_and_only_in_its_topic(storage: Storage) -> None:
    before = seen(storage)
    assert not risen(storage, before)
    with storage.write() as connection:
        add_key(connection, "a")
        assert not risen(storage, before)  # not before it is committed
    assert risen(storage, before) == {"keys"}
    before = seen(storage)
    with storage.write() as connection:
        add_model(connection, "m")
        connection.execute(limits.delete())
    assert risen(storage, before) == {"models", "limits"}


def test_what_belongs_to_no_topic_changes_none(storage: Storage) -> None:
    before = seen(storage)
    with storage.write() as connection:
        connection.execute(usage.delete())
        connection.execute(sa.select(keys)).all()
    assert not risen(storage, before)


def test_what_is_undone_has_changed_nothing(storage: Storage) -> None:
    before = seen(storage)
    with suppress(ZeroDivisionError), storage.write() as connection:
        add_key(connection, "a")
        assert 1 // 0
    assert not risen(storage, before)
    with storage.read() as connection:
        assert connection.execute(sa.select(keys)).all() == []


def test_changes_of_another_process_show(backend: str, storage: Storage, home: Path) -> None:
    revision = storage.watch("keys")
    before = seen(storage)
    for number_of_key in range(3):
        last = revision()
        process = start(backend, home, "change", f"key{number_of_key}")
        process.communicate("go\n")
        assert process.returncode == 0
        deadline = time.monotonic() + 5
        while revision() == last:
            assert time.monotonic() < deadline
        with storage.read() as connection:
            found = connection.scalars(sa.select(keys.c.id)).all()
        assert len(found) == number_of_key + 1
    assert risen(storage, before) == {"keys"}


def test_a_watch_of_a_home_that_is_opened_again_goes_on(
    backend: str, storage: Storage, home: Path
) -> None:
    change(storage, "a")
    again = BACKENDS[backend](home)
    assert seen(again) == seen(storage)
    again.close()


def test_each_topic_has_tables_and_each_table_a_topic_that_there_is(storage: Storage) -> None:
    told = {table.info["topic"] for table in metadata.tables.values() if "topic" in table.info}
    assert told == set(TOPICS)
    with storage.read() as connection:
        assert set(connection.scalars(sa.select(revisions.c.topic))) == set(TOPICS)
    without = {name for name, table in metadata.tables.items() if "topic" not in table.info}
    # Who adds a table decides whether anybody keeps what it says in memory.
    assert without == {"revisions", "usage", "responses", "audit"}


# Claims and numbers


def test_no_two_claimers_get_one_row(backend: str, storage: Storage, home: Path) -> None:
    with storage.write() as connection:
        for turn in range(60):
            add_job(connection, f"job{turn}", float(turn))
    claimed = together(backend, home, "claim_all", "owner")
    assert sorted(itertools.chain(*claimed)) == sorted(f"job{turn}" for turn in range(60))
    for mine in claimed:  # in the order that was asked for
        assert mine == sorted(mine, key=lambda name: int(name[3:]))
    with storage.read() as connection:
        assert set(connection.scalars(sa.select(jobs.c.fence))) == {1}
    assert claim_one(storage, "owner") is None


def test_numbers_are_unique_and_without_gaps(backend: str, storage: Storage, home: Path) -> None:
    with storage.write() as connection:
        add_model(connection, "m")
        add_model(connection, "other")
    taken = together(backend, home, "number", "30")
    assert sorted(itertools.chain(*taken)) == list(range(1, 20 * PROCESSES + 1))
    with storage.read() as connection:
        there = connection.scalars(sa.select(versions.c.version)).all()
        last = dict(connection.execute(sa.select(models.c.name, models.c.last_version)).all())
    assert sorted(there) == list(range(1, 20 * PROCESSES + 1))
    assert last == {"m": 20 * PROCESSES, "other": 0}
    with storage.write() as connection:
        assert next_number(connection, models.c.last_version, models.c.name == "none") is None


def test_writers_take_turns(backend: str, storage: Storage, home: Path) -> None:
    with storage.write() as connection:
        add_model(connection, "m")
    together(backend, home, "add_up", "30")
    with storage.read() as connection:
        assert connection.scalar(sa.select(models.c.deleted)) == 30 * PROCESSES


def test_a_reader_sees_one_moment(storage: Storage) -> None:
    change(storage, "a")
    with storage.read() as connection:
        assert len(connection.execute(sa.select(keys)).all()) == 1
        change(storage, "b")
        assert len(connection.execute(sa.select(keys)).all()) == 1
    with storage.read() as connection:
        assert len(connection.execute(sa.select(keys)).all()) == 2


# Crashes


@pytest.mark.parametrize(("when", "kept"), [("amidst", False), ("after", True)])
def test_what_a_killed_process_wrote_is_there_whole_or_not_at_all(
    backend: str, storage: Storage, home: Path, when: str, kept: bool
) -> None:
    before = seen(storage)
    process = start(backend, home, "die", when)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    with storage.read() as connection:
        found = [connection.scalars(sa.select(table.c.name)).all() for table in (keys, models)]
    assert found == ([["n"], ["half"]] if kept else [[], []])
    change(storage, "next")  # nobody waits for the dead
    assert risen(storage, before) == ({"keys", "models"} if kept else {"keys"})


def main(backend: str, home: Path, verb: str, *args: str) -> None:
    storage = BACKENDS[backend](home)
    os.write(1, b"ready\n")
    sys.stdin.readline()
    os.write(1, json.dumps(VERBS[verb](storage, *args)).encode())
    storage.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
