"""Zips that are made to do harm: each is refused before anything of it is unpacked."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from lmaas.data import archive
from lmaas.data.images import read_zip
from lmaas.errors import InvalidInput


def written(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def patched(path: Path, offset: int, form: str, value: int) -> None:
    """Change a field of every entry of the zip's directory, `offset` bytes after its beginning."""
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        struct.pack_into(form, content, at + offset, value)
    path.write_bytes(content)


def refused(path: Path, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as told:
        read_zip(path)
    assert told.value.param == "data"


def test_a_bomb_of_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SMALL_ZIP_BYTES", 1 << 20)
    zeros = bytes(2 << 20)
    path = written(tmp_path / "a.zip", ("cat/a.png", zeros), method=zipfile.ZIP_DEFLATED)
    refused(path, "would unpack to 2097152")


def test_what_compresses_as_drawings_do_is_no_bomb(tmp_path: Path) -> None:
    drawing = bytes(range(200)) * 20_000
    path = written(tmp_path / "a.zip", ("a/a.bmp", drawing), ("b/b.bmp", drawing), method=8)
    assert read_zip(path).content("image", 1) == drawing


def test_files_that_share_their_bytes(tmp_path: Path) -> None:
    """Many entries on one compressed kernel (Fifield, 2019) hold more than the zip is long."""
    members = [(f"cat/{number}.png", b"x" * 5000) for number in range(50)]
    path = written(tmp_path / "a.zip", *members)
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    first = content[: content.index(b"PK\x03\x04", 4)]
    ends = bytearray(content[directory:])
    at = ends.rindex(b"PK\x05\x06")
    struct.pack_into("<I", ends, at + 16, len(first))
    path.write_bytes(first + bytes(ends))
    patched(path, 42, "<I", 0)
    refused(path, "overlap")


def test_more_than_one_file_may_have(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", ("cat/a.png", b"x"))
    patched(path, 24, "<I", archive.MAX_FILE_BYTES + 1)
    refused(path, "would unpack to|more than 256 MiB")


def test_a_file_that_is_longer_than_it_says(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", ("a/a.png", bytes(1 << 20)), ("b/b.png", b"x"), method=8)
    patched(path, 24, "<I", 10)
    with pytest.raises(InvalidInput, match="damaged"):
        read_zip(path).content("image", 0)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    refused(written(tmp_path / "a.zip", *((f"a/{i}.png", b"x") for i in range(4))), "more than 3")


def test_encrypted_files(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", ("cat/a.png", b"x"))
    patched(path, 8, "<H", 1)
    refused(path, "encrypted")


def test_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cat/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(written(tmp_path / "a.zip", (link, b"/etc/passwd")), "is a link")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods(tmp_path: Path, method: int) -> None:
    refused(written(tmp_path / "a.zip", ("cat/a.png", b"x"), method=method), f"method {method}")


def test_a_file_that_is_there_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", ("a/a.png", b"x"), ("a/b.png", b"y"))
    path.write_bytes(path.read_bytes().replace(b"a/b.png", b"a/a.png"))
    refused(path, "names a file twice")
