"""Uploads in parts: bounds, order, ends, and what is left of them."""

import hashlib
import threading
from pathlib import Path

import pytest

from lmaas.errors import Conflict, InvalidInput, NotFound, PayloadTooLarge
from lmaas.registry.data_files import Files
from lmaas.registry.uploads import (
    FOLDER,
    LIFETIME_S,
    MAX_PENDING,
    StoredPart,
    Uploads,
    check_filename,
)


class Bench:
    """Uploads of a home, with a clock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.now = 1000.0
        self.files = Files(home)
        self.uploads = Uploads(home, self.files, 1000, clock=lambda: self.now)
        self._number = 0

    def begin(self, size: int = 6, tenant: str = "t") -> str:
        return self.uploads.create(tenant, "a.csv", "fine-tune", size).id

    def part(self, upload: str, content: bytes, tenant: str = "t") -> StoredPart:
        self._number += 1
        source = self.home / f"part-{self._number}"
        source.write_bytes(content)
        return self.uploads.add_part(tenant, upload, source)

    def complete(self, upload: str, *parts: StoredPart, md5: str | None = None) -> str:
        self._number += 1
        scratch = self.home / f"scratch-{self._number}"
        scratch.mkdir()
        ids = [part.id for part in parts]
        done = self.uploads.complete("t", upload, ids, scratch, md5=md5)
        assert done.file is not None
        return self.files.path("t", done.file.id).read_text()

    def left(self, upload: str) -> list[str]:
        """The parts that are on the disk."""
        folder = self.home / FOLDER / upload
        return [path.name for path in folder.iterdir() if path.name.startswith("part_")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_parts_are_put_together_in_the_order_that_is_told(bench: Bench) -> None:
    upload = bench.begin()
    second, first = bench.part(upload, b"def"), bench.part(upload, b"abc")
    md5 = hashlib.md5(b"abcdef").hexdigest().upper()
    assert bench.complete(upload, first, second, md5=md5) == "abcdef"
    assert bench.left(upload) == []
    assert bench.complete(upload) == "abcdef"
    assert len(bench.files.list("t")) == 1
    with pytest.raises(Conflict, match="completed"):
        bench.part(upload, b"x")
    with pytest.raises(Conflict, match="completed"):
        bench.uploads.cancel("t", upload)


def test_what_is_wrong_leaves_the_upload_as_it_was(bench: Bench) -> None:
    upload = bench.begin()
    first, second = bench.part(upload, b"abc"), bench.part(upload, b"def")
    with pytest.raises(InvalidInput, match="3 bytes"):
        bench.complete(upload, first)
    with pytest.raises(InvalidInput, match="twice"):
        bench.complete(upload, first, first)
    other = bench.part(bench.begin(), b"def")
    with pytest.raises(InvalidInput, match="no part"):
        bench.complete(upload, first, other)
    with pytest.raises(InvalidInput, match="MD5"):
        bench.complete(upload, first, second, md5="0" * 32)
    assert bench.files.list("t") == []
    assert bench.complete(upload, first, second) == "abcdef"


def test_sizes_are_bounded(bench: Bench) -> None:
    with pytest.raises(PayloadTooLarge):
        bench.begin(1001)
    with pytest.raises(InvalidInput):
        bench.begin(0)
    upload = bench.begin()
    bench.part(upload, b"abcd")
    with pytest.raises(PayloadTooLarge, match="7 bytes"):
        bench.part(upload, b"xyz")
    with pytest.raises(InvalidInput):
        bench.part(upload, b"")
    assert len(bench.left(upload)) == 1


def test_parts_that_come_at_once_do_not_exceed_the_size_together(bench: Bench) -> None:
    upload = bench.begin(10)
    refused: list[Exception] = []

    def send(number: int) -> None:
        source = bench.home / f"thread-{number}"
        source.write_bytes(b"abcd")
        try:
            bench.uploads.add_part("t", upload, source)
        except PayloadTooLarge as error:
            refused.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.left(upload)) == len(bench.uploads.get("t", upload).parts) == 2
    assert len(refused) == 6


def test_uploads_are_their_tenants(bench: Bench) -> None:
    upload = bench.begin(tenant="u")
    with pytest.raises(NotFound):
        bench.uploads.get("t", upload)
    with pytest.raises(NotFound):
        bench.part(upload, b"a")
    with pytest.raises(NotFound):
        bench.uploads.cancel("t", upload)
    with pytest.raises(NotFound):
        bench.complete(upload)
    for name in ("../files", "upload_", "upload_" + "0" * 24):
        with pytest.raises(NotFound):
            bench.uploads.get("t", name)


def test_a_cancelled_upload_leaves_nothing(bench: Bench) -> None:
    upload = bench.begin()
    part = bench.part(upload, b"abc")
    assert bench.uploads.cancel("t", upload).status == "cancelled"
    assert bench.uploads.cancel("t", upload).status == "cancelled"
    assert bench.left(upload) == []
    with pytest.raises(Conflict, match="cancelled"):
        bench.complete(upload, part)


def test_an_upload_expires_and_then_goes(bench: Bench) -> None:
    upload = bench.begin()
    part = bench.part(upload, b"abcdef")
    bench.now += LIFETIME_S + 1
    assert bench.uploads.get("t", upload).status == "expired"
    with pytest.raises(Conflict, match="expired"):
        bench.complete(upload, part)
    Bench(bench.home).uploads.tidy()
    assert len(bench.left(upload)) == 1
    bench.uploads.tidy()
    assert bench.left(upload) == []
    bench.now += LIFETIME_S
    bench.uploads.tidy()
    with pytest.raises(NotFound):
        bench.uploads.get("t", upload)
    assert list((bench.home / FOLDER).iterdir()) == []


def test_so_many_are_under_way_at_most(bench: Bench) -> None:
    made = [bench.begin() for _ in range(MAX_PENDING)]
    with pytest.raises(Conflict, match="under way"):
        bench.begin()
    bench.begin(tenant="u")
    bench.uploads.cancel("t", made[0])
    bench.begin()
    with pytest.raises(Conflict, match="under way"):
        bench.begin()
    bench.now += LIFETIME_S + 1
    bench.begin()


def test_another_server_goes_on_with_an_upload(bench: Bench) -> None:
    upload = bench.begin()
    first = bench.part(upload, b"abc")
    torn = bench.home / FOLDER / ("upload_" + "a" * 24)
    torn.mkdir()
    again = Bench(bench.home)
    again.uploads.tidy()
    assert not torn.exists()
    assert [part.id for part in again.uploads.get("t", upload).parts] == [first.id]
    second = bench.part(upload, b"def")
    assert bench.complete(upload, first, second) == "abcdef"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "c:d", "a\0", "x" * 201, "é" * 150, "a\nb"]
)
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_filename(name)
    assert refused.value.param == "filename"
