"""Files that come in parts: `uploads/ID/` with what is known and each part, until they are one.

An upload that nobody completes is gone after an hour. Knows no format and no protocol.
"""

import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from lmaas.errors import Conflict, InvalidInput, NotFound, PayloadTooLarge
from lmaas.registry.data_files import DataFile, Files, Purpose
from lmaas.types import UNREADABLE, Record

FOLDER: Final = "uploads"
RECORD: Final = "upload.json"
LIFETIME_S: Final = 3600.0
MAX_PENDING: Final = 16
"""So many uploads may a tenant have under way."""
MAX_PARTS: Final = 10_000
CHUNK_BYTES: Final = 1 << 20
UPLOAD_ID: Final = re.compile(r"upload_[0-9a-f]{24}")

Status = Literal["pending", "completed", "cancelled", "expired"]


class StoredPart(Record, frozen=True, kw_only=True):
    """A piece of an upload. `created_at` is Unix seconds."""

    id: str
    size_bytes: int
    created_at: float


class Upload(Record, frozen=True, kw_only=True):
    """A file that is to have `size_bytes`. Times are Unix seconds; `parts` as they came."""

    id: str
    tenant: str
    filename: str
    purpose: Purpose
    size_bytes: int
    created_at: float
    expires_at: float
    status: Status = "pending"
    parts: tuple[StoredPart, ...] = ()
    file: DataFile | None = None

    @property
    def received_bytes(self) -> int:
        """How much of it is there."""
        return sum(part.size_bytes for part in self.parts)


class Uploads:
    """The uploads of one home that is not open to two servers at once. Thread-safe."""

    def __init__(
        self, home: Path, files: Files, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = home / FOLDER
        self._files = files
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._joined: set[str] = set()

    def create(self, tenant: str, filename: str, purpose: Purpose, size_bytes: int) -> Upload:
        """Begin. Raises InvalidInput, PayloadTooLarge, and Conflict when too many are under way."""
        check_filename(filename)
        if size_bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"A file has at most {self._max_bytes} bytes; this is to have {size_bytes}.",
                param="bytes",
            )
        if size_bytes < 1:
            raise InvalidInput(f"A file has bytes; received {size_bytes}.", param="bytes")
        now = self._clock()
        made = Upload(
            id=f"upload_{secrets.token_hex(12)}",
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            size_bytes=size_bytes,
            created_at=now,
            expires_at=now + LIFETIME_S,
        )
        with self._lock:
            pending = [one for one in self._tidied() if one.status == "pending"]
            if sum(one.tenant == tenant for one in pending) >= MAX_PENDING:
                raise Conflict(
                    f"{MAX_PENDING} uploads are under way already.",
                    hint="Complete or cancel one; each ends by itself after an hour.",
                )
            (self._folder / made.id).mkdir(mode=0o700, parents=True)
            self._write(made)
        return made

    def get(self, tenant: str, upload_id: str) -> Upload:
        """What is known of an upload. Raises NotFound."""
        if UPLOAD_ID.fullmatch(upload_id):
            try:
                found = self._read(upload_id)
            except FileNotFoundError:
                found = None
            if found is not None and found.tenant == tenant:
                return found
        raise NotFound(f"There is no upload {upload_id[:100]!r}.", param="upload")

    def add_part(self, tenant: str, upload_id: str, source: Path) -> StoredPart:
        """Take over a file of this home's device as a part.

        Raises NotFound, Conflict when the upload has ended, PayloadTooLarge when all parts have
        more bytes than the upload was to have.
        """
        size = source.stat().st_size
        if not size:
            raise InvalidInput("A part has bytes.", param="data")
        part = StoredPart(
            id=f"part_{secrets.token_hex(12)}", size_bytes=size, created_at=self._clock()
        )
        with self._lock:
            upload = self._pending(tenant, upload_id)
            if upload.received_bytes + size > upload.size_bytes:
                raise PayloadTooLarge(
                    f"The parts would have {upload.received_bytes + size} bytes; the upload was to "
                    f"have {upload.size_bytes}.",
                    param="data",
                )
            if len(upload.parts) >= MAX_PARTS:
                raise PayloadTooLarge(f"An upload has at most {MAX_PARTS} parts.", param="data")
            source.rename(self._folder / upload_id / part.id)
            self._write(msgspec.structs.replace(upload, parts=(*upload.parts, part)))
        return part

    def complete(
        self,
        tenant: str,
        upload_id: str,
        part_ids: Sequence[str],
        scratch: Path,
        *,
        md5: str | None = None,
        check: Callable[[Path], None] = lambda whole: None,
    ) -> Upload:
        """Make one data file of the parts in this order; asked again, the same answer.

        It is put together in `scratch`, a folder of this home's device, and kept if `check` raises
        nothing. Raises NotFound, Conflict when the upload has ended otherwise, InvalidInput when
        the parts are not all its bytes.
        """
        before = self.get(tenant, upload_id)
        if before.status == "completed":
            return before
        with self._joining(tenant, upload_id) as upload:
            known = {part.id: part for part in upload.parts}
            for number, part_id in enumerate(part_ids):
                if part_id not in known or part_id in part_ids[:number]:
                    raise InvalidInput(
                        f"part_ids[{number}] is no part of this upload, or there twice: "
                        f"{part_id[:100]!r}.",
                        param="part_ids",
                    )
            size = sum(known[part_id].size_bytes for part_id in part_ids)
            if size != upload.size_bytes:
                raise InvalidInput(
                    f"These parts have {size} bytes; the upload was to have {upload.size_bytes}.",
                    param="part_ids",
                )
            whole = scratch / upload.filename
            found = self._join([self._folder / upload_id / name for name in part_ids], whole)
            if md5 is not None and found != md5.lower():
                raise InvalidInput(
                    f"The file's MD5 is {found}; expected was {md5[:100]!r}.", param="md5"
                )
            check(whole)
            file = self._files.add(tenant, whole, purpose=upload.purpose)
            return self._end(upload, "completed", file)

    def cancel(self, tenant: str, upload_id: str) -> Upload:
        """End an upload. Raises NotFound, and Conflict when it has ended otherwise."""
        with self._lock:
            if (found := self.get(tenant, upload_id)).status == "cancelled":
                return found
            return self._end(self._pending(tenant, upload_id), "cancelled")

    def tidy(self) -> None:
        """Remove the parts of those that have expired, and those that ended an hour ago."""
        with self._lock:
            for _ in self._tidied():
                pass

    def _tidied(self) -> Iterator[Upload]:
        """What there is after that."""
        now = self._clock()
        for folder in self._folder.iterdir() if self._folder.exists() else ():
            try:
                upload = self._read(folder.name)
            except (OSError, *UNREADABLE):
                # A crash came before it was known to anybody.
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if now > upload.expires_at + LIFETIME_S and upload.id not in self._joined:
                shutil.rmtree(folder, ignore_errors=True)
            elif upload.status == "expired" and upload.id not in self._joined:
                self._end(upload, "expired")
            else:
                yield upload

    def _pending(self, tenant: str, upload_id: str) -> Upload:
        upload = self.get(tenant, upload_id)
        if upload.status != "pending" or upload_id in self._joined:
            state = "being completed" if upload.status == "pending" else upload.status
            raise Conflict(f"The upload {upload_id} is {state}.", param="upload")
        return upload

    @contextmanager
    def _joining(self, tenant: str, upload_id: str) -> Iterator[Upload]:
        """Nothing else happens to an upload meanwhile, and others go on."""
        with self._lock:
            upload = self._pending(tenant, upload_id)
            self._joined.add(upload_id)
        try:
            yield upload
        finally:
            with self._lock:
                self._joined.discard(upload_id)

    @staticmethod
    def _join(parts: Sequence[Path], whole: Path) -> str:
        """Put parts together; the MD5 of all, in hex."""
        digest = hashlib.md5(usedforsecurity=False)
        with whole.open("xb") as writer:
            for part in parts:
                with part.open("rb") as reader:
                    while chunk := reader.read(CHUNK_BYTES):
                        digest.update(chunk)
                        writer.write(chunk)
        return digest.hexdigest()

    def _end(self, upload: Upload, status: Status, file: DataFile | None = None) -> Upload:
        ended = msgspec.structs.replace(upload, status=status, file=file)
        self._write(ended)
        for part in upload.parts:
            (self._folder / upload.id / part.id).unlink(missing_ok=True)
        return ended

    def _read(self, upload_id: str) -> Upload:
        content = (self._folder / upload_id / RECORD).read_bytes()
        upload = msgspec.json.decode(content, type=Upload)
        if upload.status == "pending" and self._clock() > upload.expires_at:
            return msgspec.structs.replace(upload, status="expired")
        return upload

    def _write(self, upload: Upload) -> None:
        path = self._folder / upload.id / RECORD
        written = path.with_suffix(".new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode(upload))
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)


def check_filename(name: str) -> str:
    """A file's own name, which is no path. Raises InvalidInput."""
    bad = not name or name in (".", "..") or any(c in name for c in "/\\:\0") or len(name) > 200
    if bad or len(name.encode()) > 255 or not name.isprintable():
        raise InvalidInput(
            f"A file's name has 1 to 200 characters and is no path; received {name[:100]!a}.",
            param="filename",
        )
    return name
