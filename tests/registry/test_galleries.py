"""Galleries: who is in them, who sees them, and that what is deleted is gone, in every place."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lmaas.errors import (
    Conflict,
    DoesNotFit,
    InsufficientQuota,
    InvalidInput,
    NotFound,
    Unavailable,
)
from lmaas.face_types import Gallery
from lmaas.registry.database import FILE, Database
from lmaas.registry.galleries import Galleries
from lmaas.registry.gallery_rows import check_subject, subject_id
from lmaas.serving.face_search import FaceSearch

SIZE = 16
MODEL = "faces:1"
MIB = 1 << 20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    opened = Database(home)
    yield opened
    opened.close()


@pytest.fixture
def galleries(database: Database) -> Galleries:
    made = Galleries(database, 10_000)
    made.create("acme", "key", gallery("staff"))
    return made


def gallery(name: str, model: str = MODEL) -> Gallery:
    return Gallery(
        name=name,
        model=model,
        dimensions=SIZE,
        threshold=0.5,
        false_accept_rate=0.01,
        created_at=1.0,
    )


def vectors(seed: int, count: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, SIZE))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def search_of(database: Database, galleries: Galleries, most: int = MIB) -> FaceSearch:
    return FaceSearch(galleries, database.watch("galleries"), most)


def in_files(home: Path, what: bytes) -> bool:
    return any(what in path.read_bytes() for path in home.glob(f"{FILE}*"))


def test_what_is_enrolled_is_found_and_lasts(
    home: Path, database: Database, galleries: Galleries
) -> None:
    drawn = vectors(1, 6)
    for number, vector in enumerate(drawn):
        # Of any length: what is kept has length 1.
        galleries.enrol("acme", "key", "staff", f"p{number % 3}", vector * 7, MODEL)
    assert [(s.name, s.photos) for s in galleries.subjects("acme", "staff")] == [
        ("p0", 2), ("p1", 2), ("p2", 2)
    ]  # fmt: skip
    row = galleries.row("acme", "staff")
    search = search_of(database, galleries)
    (near,) = search.nearest(row, drawn[4:5], 2)
    assert near[0].subject == "p1"
    assert near[0].similarity == pytest.approx(1)
    expected = sorted(
        ((max(drawn[i] @ drawn[4], drawn[i + 3] @ drawn[4]), f"p{i}") for i in range(3)),
        reverse=True,
    )
    assert [n.subject for n in near] == [name for _, name in expected[:2]]
    assert near[1].similarity == pytest.approx(expected[1][0], abs=1e-6)
    again = Database(home)
    kept, vector = Galleries(again, 10).vector(
        "acme", "staff", galleries.photos("acme", "staff", "p2").photos[0].id
    )
    again.close()
    assert kept.subject == "p2"
    np.testing.assert_allclose(vector, drawn[2], atol=1e-6)


def test_a_gallery_is_its_tenants(galleries: Galleries) -> None:
    galleries.enrol("acme", "key", "staff", "ada", vectors(1, 1)[0], MODEL)
    told = set()
    for tenant, name in (("other", "staff"), ("acme", "none"), ("other", "none")):
        for ask in (
            lambda: galleries.row(tenant, name),  # noqa: B023
            lambda: galleries.subjects(tenant, name),  # noqa: B023
            lambda: galleries.delete(tenant, "key", name),  # noqa: B023
            lambda: galleries.enrol(tenant, "key", name, "a", vectors(1, 1)[0], MODEL),  # noqa: B023
        ):
            with pytest.raises(NotFound) as caught:
                ask()
            told.add(caught.value.message.replace(name, "NAME"))
    assert len(told) == 1
    assert galleries.of_tenant("other") == []
    assert galleries.audit("other", before=None, limit=10) == []


def test_vectors_of_another_model_and_none_at_all_are_refused(galleries: Galleries) -> None:
    good = vectors(1, 1)[0]
    with pytest.raises(InvalidInput, match="do not compare"):
        galleries.enrol("acme", "key", "staff", "ada", good, "faces:2")
    for bad in (good[:-1], good * 0, good * np.nan, good * np.inf):
        with pytest.raises(InvalidInput):
            galleries.enrol("acme", "key", "staff", "ada", bad, MODEL)
    assert galleries.subjects("acme", "staff") == []
    with pytest.raises(Conflict):
        galleries.create("acme", "key", gallery("staff"))


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb", "a\0", "x" * 201, " a", "\u202ea"])
def test_names_that_nobody_has(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_subject(name)


@pytest.mark.parametrize("name", ["ada", "Ada Lovelace", "李四", "o'neill; drop table--", "a%b_c"])
def test_names_that_somebody_has(galleries: Galleries, name: str) -> None:
    galleries.enrol("acme", "key", "staff", name, vectors(1, 1)[0], MODEL)
    assert [subject.name for subject in galleries.subjects("acme", "staff")] == [name]


def test_a_deleted_subject_leaves_nothing(
    home: Path, database: Database, galleries: Galleries
) -> None:
    """Rows, indexes, journals, pages that SQLite has moved rows in, and memory."""
    drawn = vectors(2, 450)
    names = [f"Person Number {number:03d} of many" for number in range(90)]
    order = np.random.default_rng(3).permutation(450).tolist()
    for number in order:
        galleries.enrol("acme", "key", "staff", names[number % 90], drawn[number], MODEL)
    row = galleries.row("acme", "staff")
    ids = {s.name: subject_id(row.id, s.name) for s in galleries.subjects("acme", "staff")}
    search = search_of(database, galleries)
    search.nearest(row, drawn[:1], 1)
    matrix = search._kept[row.id]
    held = matrix.rows
    assert in_files(home, drawn[5].tobytes())
    assert in_files(home, names[5].encode())
    # One after the other, so that pages become empty, are merged and used anew.
    for number in range(0, 90, 2):
        galleries.delete_subjects("acme", "key", "staff", [names[number]])
    gone = [n for n in range(450) if (n % 90) % 2 == 0]
    data = b"".join(path.read_bytes() for path in home.glob(f"{FILE}*"))
    for number in gone:
        assert drawn[number].tobytes()[-24:] not in data
        assert drawn[number].tobytes()[:24] not in data
    for number in range(0, 90, 2):
        assert names[number].encode() not in data
        assert ids[names[number]].encode() not in data
    search.tidy()
    assert not held.any(), "what the matrix had is overwritten"
    (near,) = search.nearest(galleries.row("acme", "staff"), drawn[:1], 90)
    assert {n.subject for n in near} == set(names[1::2])
    kept = [line.action for line in galleries.audit("acme", before=None, limit=1000)]
    assert kept.count("subjects deleted") == 45


def test_a_gallery_and_photos_are_deleted(
    home: Path, database: Database, galleries: Galleries
) -> None:
    drawn = vectors(4, 4)
    photos = [
        galleries.enrol("acme", "key", "staff", name, vector, MODEL)
        for name, vector in zip(("ada", "ada", "bob", "bob"), drawn, strict=True)
    ]
    with pytest.raises(NotFound):
        galleries.delete_photos("acme", "key", "staff", [photos[0].id, "none"])
    (gone,) = galleries.delete_photos("acme", "key", "staff", [photos[0].id])
    assert gone.subject == "ada"
    assert not in_files(home, drawn[0].tobytes()[-24:])
    assert in_files(home, drawn[1].tobytes())
    told = galleries.delete("acme", "key", "staff")
    assert (told.subjects, told.photos) == (2, 3)
    assert not any(in_files(home, vector.tobytes()[-24:]) for vector in drawn)
    assert galleries.of_tenant("acme") == []


def test_who_reads_for_long_is_told_of(
    home: Path, database: Database, galleries: Galleries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are gone at once; what is left in the journal goes with the next deletion."""
    monkeypatch.setattr("lmaas.registry.database.BUSY_TIMEOUT_MS", 50)
    drawn = vectors(9, 2)
    for name, vector in zip(("ada", "bob"), drawn, strict=True):
        galleries.enrol("acme", "key", "staff", name, vector, MODEL)
    other = Database(home)
    with other.read() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM gallery_photos").fetchone()
        with pytest.raises(Unavailable, match="reads the database"):
            galleries.delete_subjects("acme", "key", "staff", ["ada"])
        assert [subject.name for subject in galleries.subjects("acme", "staff")] == ["bob"]
    other.close()
    galleries.delete_subjects("acme", "key", "staff", ["bob"])
    assert not any(in_files(home, vector.tobytes()[-24:]) for vector in drawn)


def test_another_process_changes_a_gallery(
    home: Path, database: Database, galleries: Galleries
) -> None:
    search = search_of(database, galleries)
    drawn = vectors(5, 3)
    galleries.enrol("acme", "key", "staff", "ada", drawn[0], MODEL)
    assert search.nearest(galleries.row("acme", "staff"), drawn[:1], 1)[0][0].subject == "ada"
    other = Database(home)
    others = Galleries(other, 10)
    others.enrol("acme", "key", "staff", "bob", drawn[1], MODEL)
    assert search.nearest(galleries.row("acme", "staff"), drawn[1:2], 1)[0][0].subject == "bob"
    others.rename("acme", "key", "staff", "bob", "Robert")
    assert search.nearest(galleries.row("acme", "staff"), drawn[1:2], 1)[0][0].subject == "Robert"
    assert not in_files(home, subject_id(galleries.row("acme", "staff").id, "bob").encode())
    (held,) = (search._kept[row].rows for row in search.kept)
    others.delete("acme", "key", "staff")
    deadline = time.monotonic() + 10
    while search.kept and time.monotonic() < deadline:
        search.tidy()
        time.sleep(0.002)
    assert not search.kept
    assert not held.any()
    other.close()


def test_renaming_into_somebody_joins_them(database: Database, galleries: Galleries) -> None:
    drawn = vectors(6, 2)
    for name, vector in zip(("ada", "ada l"), drawn, strict=True):
        galleries.enrol("acme", "key", "staff", name, vector, MODEL)
    galleries.rename("acme", "key", "staff", "ada l", "ada")
    assert [(s.name, s.photos) for s in galleries.subjects("acme", "staff")] == [("ada", 2)]
    with pytest.raises(NotFound):
        galleries.rename("acme", "key", "staff", "nobody", "ada")


def test_a_gallery_is_bounded_in_rows_and_memory(database: Database) -> None:
    small = Galleries(database, 2)
    small.create("acme", "key", gallery("a"))
    drawn = vectors(7, 3)
    for vector in drawn[:2]:
        small.enrol("acme", "key", "a", "ada", vector, MODEL)
    with pytest.raises(InsufficientQuota, match="max_gallery_photos"):
        small.enrol("acme", "key", "a", "ada", drawn[2], MODEL)
    with pytest.raises(DoesNotFit, match="gallery_cache_bytes"):
        search_of(database, small, 64).nearest(small.row("acme", "a"), drawn[:1], 1)
    for name in "bc":
        small.create("acme", "key", gallery(name))
        small.enrol("acme", "key", name, "ada", drawn[0], MODEL)
    search = search_of(database, small, 2 * 64 * (SIZE + 1) * 4)
    for name in "abc":
        search.nearest(small.row("acme", name), drawn[:1], 1)
    assert search.kept == [small.row("acme", name).id for name in "bc"]


def test_many_enrol_and_delete_at_once(home: Path, galleries: Galleries) -> None:
    """Each photo that was told of is there or deleted; a search never sees half a change."""
    drawn = vectors(8, 40)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            own = Database(home)
            mine = Galleries(own, 1000)
            search = FaceSearch(mine, own.watch("galleries"), MIB)
            for vector in drawn[number::4]:
                mine.enrol("acme", "key", "staff", f"p{number}", vector, MODEL)
                (near,) = search.nearest(mine.row("acme", "staff"), vector[None], 1)
                assert near[0].subject == f"p{number}"
            if number % 2:
                mine.delete_subjects("acme", "key", "staff", [f"p{number}"])
            own.close()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {(s.name, s.photos) for s in galleries.subjects("acme", "staff")} == {
        ("p0", 10), ("p2", 10)
    }  # fmt: skip
