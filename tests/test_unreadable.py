"""Bytes that are no UTF-8, or JSON without end, are damage like any other."""

from pathlib import Path

import pytest

from lmaas.accounts.call_counters import NUMBERS, SLOT_BYTES, WORD, read_tally
from lmaas.errors import InvalidInput, LMaaSError, Unavailable
from lmaas.job import EVENTS_FILE
from lmaas.jobs.child import ERROR_FILE
from lmaas.jobs.process import read_error, read_events
from lmaas.runtime import verify
from lmaas.serving import upstream_answer, upstream_error

BAD = (
    b'{"choices": [{"finish_reason": "\xff"}], "name": "\xff", "code": "\xff"}',
    b'["\xff"]',
    b"[" * 100_000,
    b'{"error": ' * 50_000,
)
"""Each needs an error of its own kind: a text, nesting."""


@pytest.mark.parametrize("data", BAD)
def test_what_an_upstream_answers(data: bytes) -> None:
    with pytest.raises(Unavailable):
        upstream_answer.decode(data, "there")
    told = upstream_error.error_of(500, {}, data, "there", None)
    assert isinstance(told, LMaaSError)


@pytest.mark.parametrize("data", BAD)
def test_what_a_job_leaves(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ERROR_FILE).write_bytes(data)
    (tmp_path / EVENTS_FILE).write_bytes(data + b"\n")
    assert read_error(tmp_path) is None
    assert read_events(tmp_path, 0) == ([], len(data) + 1)


@pytest.mark.parametrize("data", BAD)
def test_a_package(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(InvalidInput, match=r"manifest\.json"):
        verify.run(b'{"folder": "%b"}' % bytes(tmp_path))


def test_what_a_killed_server_counted(tmp_path: Path) -> None:
    path = tmp_path / "1.tally"
    path.write_bytes((bytes(NUMBERS * WORD) + b'["\xff"]\n').ljust(SLOT_BYTES, b"\0"))
    assert read_tally(path) == []
