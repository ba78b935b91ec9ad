"""Keys: only a hash is kept, revocation is immediate, near misses are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmaas.accounts.keys import KEY, Keys
from lmaas.errors import InvalidInput, NotFound, Unauthorized
from lmaas.registry.store import Registry
from lmaas.types import TENANT


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path)
    yield registry
    registry.close()


def test_a_key_works_until_revoked_in_every_process(registry: Registry, tmp_path: Path) -> None:
    keys = Keys(registry)
    assert not keys.any()
    record, text = keys.create(TENANT, "app", ("call",))
    assert KEY.fullmatch(text)
    assert keys.check(text) == record
    assert keys.any()
    other = Registry(tmp_path)
    assert Keys(other).list(TENANT) == [record]
    Keys(other).revoke(record.id)
    other.close()
    with pytest.raises(Unauthorized):
        keys.check(text)
    assert not keys.any()
    with pytest.raises(NotFound):
        keys.revoke(record.id)


def test_only_a_hash_is_on_disk(registry: Registry, tmp_path: Path) -> None:
    _, text = Keys(registry).create(TENANT, "app", ("admin",))
    secret = text[22:]
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()


def test_near_misses_are_refused_alike(registry: Registry) -> None:
    keys = Keys(registry)
    _, text = keys.create(TENANT, "app", ("call",))
    wrong = [
        "",
        text[:-1],
        text + "x",
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        text.upper(),
        text.replace("sk-lmaas-", "sk-lmaas-0", 1),
        "sk-lmaas-000000000000-" + "a" * 43,
        "' OR 1=1--",
        "sk-lmaas-' OR ''='-" + "a" * 43,
        "\udcff" * 10,
        "x" * 1_000_000,
    ]
    told = set()
    for attempt in wrong:
        with pytest.raises(Unauthorized) as caught:
            keys.check(attempt)
        told.add(str(caught.value))
    assert len(told) == 1


@pytest.mark.parametrize(("name", "scopes"), [("a", ()), ("a", ("root",)), ("", ("call",))])
def test_bad_keys_are_not_made(registry: Registry, name: str, scopes: Any) -> None:
    with pytest.raises(InvalidInput):
        Keys(registry).create(TENANT, name, scopes)


def test_a_known_key_is_found_without_the_database(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop asks so, also while others write."""
    keys = Keys(registry)
    record, text = keys.create(TENANT, "app", ("call",))
    keys.refresh()
    keys.create(TENANT, "another", ("call",))
    assert not keys.fresh()

    def wait() -> None:
        raise AssertionError("It waits for the database.")

    monkeypatch.setattr(registry.database, "read", wait)
    assert keys.known(text) == record
