"""Uploaded files are looked through before they are kept, and what is wrong has its line."""

import asyncio
import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa  # noqa: TID253 - the files under test are its
import pyarrow.parquet as pq  # noqa: TID253
import pytest

from lmaas.config import Settings
from lmaas.data.reading import check
from lmaas.errors import InvalidInput, TimedOut
from lmaas.service import Service

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "tools": []}


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def test_what_some_task_reads_passes_and_nothing_is_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    zipped(tmp_path / "a.zip", "cat/1.png", "dog/2.png")
    # Samples of a chat differ in kind, which a table's may not.
    written(tmp_path / "a.jsonl", f'{json.dumps(CHAT)}\n\n{json.dumps(PARTS)}\n{{"messages": 1}}')
    written(tmp_path / "a.csv", 'a;b\n1;"x\ny"\n')
    written(tmp_path / "b.tsv", "a\tb\n1\t2\n")
    there = sorted(tmp_path.iterdir())
    for path in there:
        check(path)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1\n', ("a.jsonl, line 2", "not a JSON object")),
        ("a.jsonl", "\n{}\n", ("a.jsonl holds no samples",)),
        ("a.jsonl", "", ("a.jsonl is empty",)),
        ("a.jsonl", pickle.dumps({"a": 1}), ("a.jsonl", "pickle")),
        ("a.pkl", "a", ("a.pkl", "pickle")),
        ("a.csv", "a,b\n1,2\n3\n", ("a.csv, line 3", "1 cells")),
        ("a.csv", "a,b\n1,=SUM(A1)\n", ("a.csv, line 2", "formula")),
        ("a.csv", "a,b\n", ("a.csv holds no samples",)),
        ("a.csv", "a,b\n1,ä\n".encode("latin-1"), ("a.csv, line 2", "0xe4")),
        ("a.csv", b"MZ\x90\x00\x03", ("a.csv, line 1", "no text")),
        ("a.exe", b"MZ\x90\x00\x03", ("a.exe", "no kind that is read")),
        ("a.csv", b"\x7fELF\x02", ("a.csv", "a program")),
        ("a.parquet", b"PAR1 and PAR1", ("a.parquet is damaged",)),
        ("a.zip", b"PK\x03\x04 and no more", ("a.zip is no zip",)),
        ("a", "{}", ("no kind that is read",)),
    ],
)
def test_what_no_task_reads_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes | str, words: tuple[str, ...]
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(InvalidInput) as told:
        check(path)
    assert all(word in told.value.message for word in words), told.value.message


def test_damage_within_a_parquet_and_a_zip_is_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "a.parquet", use_dictionary=False)
    whole = (tmp_path / "a.parquet").read_bytes()
    written(tmp_path / "a.parquet", whole[:200] + bytes(1000) + whole[1200:])
    with pytest.raises(InvalidInput, match="damaged Parquet"):
        check(tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match="outside itself"):
        check(zipped(tmp_path / "a.zip", "../cat/1.png"))
    with pytest.raises(InvalidInput, match="not an image in the folder of a class"):
        check(zipped(tmp_path / "a.zip", "cat/1.png", "2.png"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with closing(Service(Settings(home=str(tmp_path / "home")))) as made:
        yield made


def test_a_bad_line_far_down_is_named_and_nothing_is_kept(service: Service, tmp_path: Path) -> None:
    content = b'{"a":1}\n' * 1_000_000 + b'{"a":1\n' + b'{"a":1}\n'
    with pytest.raises(InvalidInput, match=r"a\.jsonl, line 1000001 is not") as told:
        asyncio.run(service.data.add("t", written(tmp_path / "a.jsonl", content)))
    assert told.value.param == "file"
    assert service.data.all("t") == []
    assert list((service.home / "tmp").iterdir()) == []


def test_a_check_is_bounded_and_told_as_one(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path / "home"), compile_timeout_s=0.01)
    with (
        closing(Service(settings)) as service,
        pytest.raises(TimedOut, match=r"Checking a\.csv took longer than 0\.01 s"),
    ):
        asyncio.run(service.data.add("t", written(tmp_path / "a.csv", "a,b\n1,2\n")))
