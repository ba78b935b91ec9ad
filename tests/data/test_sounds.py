"""Folders and zips of sound with texts: both layouts, and what is laid out otherwise."""

import json
import zipfile
from pathlib import Path

import pytest

import sounds
from lmaas.data.reading import check, read
from lmaas.errors import InvalidInput

WAV = sounds.wav(sounds.tone(0.1))


def lines(*rows: dict[str, str]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


NAMED = lines(
    {"file_name": "b/1.wav", "transcription": "one"}, {"file_name": "a.wav", "transcription": "two"}
)
LAYOUTS: dict[str, dict[str, bytes]] = {
    "pairs": {"a.wav": WAV, "a.txt": "\ufeffone\n".encode(), "b/c.flac": WAV, "b/c.txt": b"two"},
    "metadata": {"a.wav": WAV, "b/1.wav": WAV, "metadata.jsonl": NAMED},
    "csv": {"a.wav": WAV, "metadata.csv": b"file_name,text\na.wav,one\n", "readme.md": b"x"},
    "one file of rows": {"a.wav": WAV, "train.jsonl": lines({"audio": "a.wav", "text": "one"})},
    "a folder around": {
        "x/a.wav": WAV, "x/metadata.jsonl": lines({"path": "a.wav", "text": "one"})
    },
}  # fmt: skip


def laid(tmp_path: Path, files: dict[str, bytes], *, packed: bool) -> Path:
    if packed:
        path = tmp_path / "sounds.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    folder = tmp_path / "sounds"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_sounds_and_their_texts(tmp_path: Path, name: str, packed: bool) -> None:
    path = laid(tmp_path, LAYOUTS[name], packed=packed)
    if packed:
        check(path)
    table = read(path, tmp_path / "scratch")
    assert set(table.columns) == {"audio", "text"}
    assert table.texts("text") == ["one", "two"][: len(table)]
    assert all(table.content("audio", row) == WAV for row in range(len(table)))
    again = read(path, tmp_path / "scratch")
    assert again.digest == table.digest


def test_other_texts_are_other_data(tmp_path: Path) -> None:
    files = LAYOUTS["pairs"]
    one = read(laid(tmp_path / "1", files, packed=False), tmp_path).digest
    other = read(laid(tmp_path / "2", files | {"a.txt": b"three"}, packed=False), tmp_path).digest
    assert one != other


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "no text": ({"a.wav": WAV}, r"a\.txt is not there"),
    "no UTF-8": ({"a.wav": WAV, "a.txt": b"\xff\xfe\x00"}, "not UTF-8"),
    "two files of metadata": (
        {"a.wav": WAV, "metadata.csv": b"file_name,text\na.wav,x\n", "metadata.jsonl": NAMED},
        "has both",
    ),
    "metadata that is none": ({"a.wav": WAV, "metadata.jsonl": b"{"}, "line 1"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_laid_out_otherwise(tmp_path: Path, name: str, packed: bool) -> None:
    files, told = REFUSED[name]
    with pytest.raises(InvalidInput, match=told):
        read(laid(tmp_path, files, packed=packed), tmp_path / "scratch")


@pytest.mark.parametrize("path", ["missing.wav", "../secret.wav", "/etc/passwd"])
def test_metadata_reach_only_files_of_the_data(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.wav").write_bytes(WAV)
    files = {"a.wav": WAV, "metadata.jsonl": lines({"file_name": path, "text": "one"})}
    table = read(laid(tmp_path, files, packed=False), tmp_path / "scratch")
    with pytest.raises(InvalidInput, match="there is no file"):
        table.content("audio", 0)


def test_a_film_among_images_is_no_sound(tmp_path: Path) -> None:
    files = {"cat/1.png": b"x", "cat/film.mp4": b"x", "dog/2.png": b"x"}
    assert read(laid(tmp_path, files, packed=False), tmp_path).columns == ("image", "label")
