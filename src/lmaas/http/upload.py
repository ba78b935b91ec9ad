"""Models that come over HTTP: a multipart form, written to scratch files as it arrives."""

import asyncio
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import msgspec
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from lmaas.codecs.json import read
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.http import jobs
from lmaas.http.exchange import Exchange
from lmaas.service import Service
from lmaas.types import PushOptions

MAX_FIELD_BYTES = 1 << 20
MAX_FILES = 10_000
MAX_HEADER_BYTES = 4096
WRITE_BYTES = 1 << 20
HINT = (
    "Send multipart/form-data: the field `options` (JSON), each file as a part `file` with its "
    "relative path as filename, and optional sample inputs as a part `sample`."
)


async def publish(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Publish the files of a multipart form: a model file, a SavedModel, a checkpoint or a package.

    Parts: `options` (JSON; not needed for a package), `file` (one for each file, the filename its
    relative path), `sample` (.npy, .safetensors or .json). Once all has come it is a job, which
    goes on when its caller goes away; with wait=false the answer is the job.
    """
    jobs.check_wait(exchange)
    async with service.workshop.scratch("upload") as scratch:
        with closing(Form(exchange.headers.get(b"content-type", b""), scratch)) as form:
            await receive(exchange, form, service.settings.max_upload_bytes)
        source, options = form.result()
        assert exchange.key is not None
        job = await service.write(
            service.model_jobs.push,
            exchange.tenant,
            source,
            options,
            key_id=exchange.key.id,
            uploaded=True,
        )
    if done := await jobs.finished(service, exchange, job):
        version = await service.find(exchange.tenant, str(done.model))
        exchange.send_json(version, status=201)


class Fed(Protocol):
    """What takes a body piece by piece."""

    def feed(self, data: bytes) -> None:
        """Take a piece."""
        ...


async def receive(exchange: Exchange, form: Fed, limit_bytes: int) -> None:
    """Feed a form with the body as it comes, in a thread."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in exchange.chunks(limit_bytes):
        waiting.append(chunk)
        size += len(chunk)
        if size >= WRITE_BYTES:
            await asyncio.to_thread(form.feed, b"".join(waiting))
            waiting, size = [], 0
    await asyncio.to_thread(form.feed, b"".join(waiting))


class Form:
    """Takes a form piece by piece; files land under `folder`, never outside it."""

    def __init__(
        self,
        content_type: bytes,
        folder: Path,
        field: str | None = "options",
        *,
        file: str = "file",
    ) -> None:
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput("The body is not a multipart form.", hint=HINT)
        self._folder = folder
        self._field = field
        self._file = file
        self._options = bytearray()
        self._has_options = self._ended = False
        self._files: list[Path] = []
        self._sample: Path | None = None
        self._open: BinaryIO | None = None
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._choose,
                "on_part_data": lambda data, start, end: self._take(data[start:end]),
                "on_part_end": self.close,
                "on_end": self._finish,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse and write a piece. Raises InvalidInput."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidInput(f"The form is damaged: {error}.", hint=HINT) from None

    def result(self) -> tuple[Path, PushOptions | None]:
        """What to push: the only file, or the folder of all. Raises InvalidInput."""
        if not self._ended:
            raise InvalidInput("The form ends before its last boundary: the upload was cut off.")
        if not self._files:
            raise InvalidInput("The form has no part `file`.", hint=HINT)
        options = read(bytes(self._options), PushOptions) if self._has_options else None
        if options is not None and options.sample is not None:
            raise InvalidInput(
                "options.sample is not read here; send the sample as a part.", param="sample"
            )
        if self._sample is not None:
            if options is None:
                raise InvalidInput("A sample needs the field `options` beside it.", hint=HINT)
            options = msgspec.structs.replace(options, sample=str(self._sample))
        root = self._folder / self._file
        alone = len(self._files) == 1 and self._files[0].parent == root
        return (self._files[0] if alone else root), options

    def alone(self) -> tuple[Path, str]:
        """The only file, and the text of the field beside it, if any. Raises InvalidInput."""
        if not self._ended:
            raise InvalidInput("The form ends before its last boundary: the upload was cut off.")
        lacks_field = self._field is not None and not self._has_options
        if len(self._files) != 1 or self._sample is not None or lacks_field:
            beside = "" if self._field is None else f" and the field `{self._field}`"
            raise InvalidInput(
                f"The form needs one part `{self._file}`{beside}; it has {len(self._files)} files.",
                param=self._file,
            )
        return self._files[0], self._options.decode("utf-8", "replace")

    def _begin(self) -> None:
        self._headers = {}

    def _grow(self, part: int, data: bytes) -> None:
        self._header[part].extend(data)
        if len(self._header[part]) > MAX_HEADER_BYTES:
            raise InvalidInput("A part's header is too long.", hint=HINT)

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _choose(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if name == self._field:
            self._has_options = True
            return
        if name not in (self._file, "sample") or b"filename" not in parameters:
            raise InvalidInput(f"The form has a part {name!r} that is not known.", hint=HINT)
        given = parameters[b"filename"].decode("utf-8", "replace")
        target = self._folder / name / _safe(given)
        if len(self._files) >= MAX_FILES:
            raise PayloadTooLarge(f"The form has more than {MAX_FILES} files.")
        if name == self._file:
            self._files.append(target)
        elif self._sample is None:
            self._sample = target
        else:
            raise InvalidInput("The form has more than one part `sample`.", hint=HINT)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._open = target.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise InvalidInput(f"The form has the file {given!a} twice.") from None

    def _take(self, data: bytes) -> None:
        if self._open is not None:
            self._open.write(data)
            return
        self._options += data
        if len(self._options) > MAX_FIELD_BYTES:
            raise PayloadTooLarge(
                f"The field `{self._field}` has more than {MAX_FIELD_BYTES} bytes."
            )

    def _finish(self) -> None:
        self._ended = True

    def close(self) -> None:
        """Let go of the file that is being written."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _safe(given: str) -> PurePosixPath:
    path = PurePosixPath(given)
    parts = path.parts
    bad = not parts or path.is_absolute() or ".." in parts or "\\" in given or "\0" in given
    if bad or len(given) > 1000 or any(len(part) > 200 or ":" in part for part in parts):
        raise InvalidInput(f"A file's name must be a relative path; received {given[:200]!a}.")
    return path
