"""Uploaded data files of a home: `files/ID/` with the file under its own name and what is known.

A file appears by one rename, when all of it is there. Knows no format.
"""

import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Literal, TypeGuard

import msgspec

from lmaas.errors import NotFound
from lmaas.types import Record

FOLDER = "files"
RECORD = "file.json"
CONTENT = "content"
ID = re.compile(r"file-[0-9a-f]{24}")

Purpose = Literal["fine-tune", "fine-tune-results"]
"""What users upload, and what a training run leaves."""


class DataFile(Record, frozen=True, kw_only=True):
    """An uploaded file. `created_at` is Unix seconds."""

    id: str
    tenant: str
    filename: str
    purpose: Purpose
    size_bytes: int
    created_at: float


class Files:
    """The data files of one home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    @staticmethod
    def is_id(value: Any) -> TypeGuard[str]:
        """Whether `value` is a file's id and no path."""
        return isinstance(value, str) and ID.fullmatch(value) is not None

    def add(
        self, tenant: str, source: Path, *, purpose: Purpose, file_id: str | None = None
    ) -> DataFile:
        """Take over a file of this home's device; one of the same id goes. Raises OSError."""
        file_id = file_id or f"file-{secrets.token_hex(12)}"
        record = DataFile(
            id=file_id,
            tenant=tenant,
            filename=source.name,
            purpose=purpose,
            size_bytes=source.stat().st_size,
            created_at=time.time(),
        )
        half = self._folder / f".{file_id}"
        for old in (half, self._folder / file_id):
            shutil.rmtree(old, ignore_errors=True)
        (half / CONTENT).mkdir(mode=0o700, parents=True)
        try:
            source.rename(half / CONTENT / source.name)
            (half / RECORD).write_bytes(msgspec.json.encode(record))
            _sync(half / CONTENT / source.name, half / RECORD, half / CONTENT, half)
            half.rename(self._folder / file_id)
            _sync(self._folder)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        return record

    def get(self, tenant: str, file_id: str) -> DataFile:
        """What is known of a file. Raises NotFound."""
        if self.is_id(file_id):
            try:
                content = (self._folder / file_id / RECORD).read_bytes()
            except FileNotFoundError:
                content = b""
            if content:
                record = msgspec.json.decode(content, type=DataFile)
                if record.tenant == tenant:
                    return record
        raise NotFound(f"There is no file {file_id[:100]!r}.", param="file")

    def path(self, tenant: str, file_id: str) -> Path:
        """Where a file's content is. Raises NotFound."""
        record = self.get(tenant, file_id)
        return self._folder / file_id / CONTENT / record.filename

    def list(self, tenant: str) -> list[DataFile]:
        """All files of `tenant`, newest first."""
        if not self._folder.exists():
            return []
        found = []
        for entry in self._folder.iterdir():
            try:
                found.append(self.get(tenant, entry.name))
            except NotFound:
                continue
        return sorted(found, key=lambda record: (record.created_at, record.id), reverse=True)

    def remove(self, tenant: str, file_id: str) -> DataFile:
        """Delete a file. Raises NotFound."""
        record = self.get(tenant, file_id)
        gone = self._folder / f".{file_id}"
        (self._folder / file_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return record


def _sync(*paths: Path) -> None:
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
