"""Child entry: look through an uploaded file. Run by `placement.sandbox` only."""

from pathlib import Path

import msgspec

from lmaas.data.reading import check
from lmaas.errors import InvalidInput
from lmaas.types import Record


class CheckRequest(Record, frozen=True, kw_only=True):
    """The file at `path` is one that a task can read."""

    path: str


def run(body: bytes) -> bytes:
    """Check one file. Raises InvalidInput with its name and the line."""
    try:
        check(Path(msgspec.json.decode(body, type=CheckRequest).path))
    except InvalidInput as error:
        error.param = "file"
        raise
    return b"{}"
