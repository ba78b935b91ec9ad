"""Multipart forms of text fields and files, kept in memory within bounds (RFC 7578).

Fields may stand before or after the file. Knows no protocol: a door says which fields it takes.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from lmaas.errors import InvalidInput, PayloadTooLarge

MAX_HEADER_BYTES: Final = 4096
MAX_HEADERS: Final = 8
"""Of one part."""
MAX_NAME_CHARS: Final = 100
MAX_FIELD_BYTES: Final = 1 << 16
MAX_PARTS: Final = 256
MAX_BOUNDARY_BYTES: Final = 256
OVERHEAD_BYTES: Final = 1 << 20
"""What a form may have beside its file."""
LIST: Final = "[]"
HINT: Final = "Send multipart/form-data."


class Fields:
    """What came: the bytes of files by name, of which `file` is the first, and texts by name; those
    whose name ends in [] may be several."""

    def __init__(self, files: Mapping[str, bytes], texts: Mapping[str, Sequence[str]]) -> None:
        self.files = files
        self.file = next(iter(files.values()))
        self.texts = texts

    def text(self, name: str) -> str | None:
        """The only text of a name."""
        found = self.texts.get(name)
        return None if found is None else found[0]

    def all(self, name: str) -> Sequence[str]:
        """All texts of a name that ends in []."""
        return self.texts.get(name, ())


class MemoryForm:
    """Takes a form piece by piece. `known` are the names of its fields, `files` those of its files,
    each of which must come and has at most `most_bytes`.

    Raises InvalidInput, naming what does not fit, and PayloadTooLarge.
    """

    def __init__(
        self,
        content_type: bytes,
        known: Sequence[str],
        files: Sequence[str],
        most_bytes: int,
        hint: str | None = None,
    ) -> None:
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary or len(boundary) > MAX_BOUNDARY_BYTES:
            raise InvalidInput("The body is not a multipart form.", hint=HINT)
        self._known = known
        self._names = files
        self._most_bytes = most_bytes
        self._hint = hint
        self._files: dict[str, bytearray] = {}
        self._texts: dict[str, list[str]] = {}
        self._name = ""
        self._data = bytearray()
        self._parts = 0
        self._ended = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._choose,
                "on_part_data": lambda data, start, end: self._take(data[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._finish,
            },
            max_header_count=MAX_HEADERS,
        )

    def feed(self, data: bytes) -> None:
        """Parse a piece."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidInput(f"The form is damaged: {error}.", hint=HINT) from None

    def result(self) -> Fields:
        """All that came."""
        if not self._ended:
            raise InvalidInput("The form ends before its last boundary: it was cut off.")
        for name in self._names:
            if name not in self._files:
                raise InvalidInput(f"The form has no part {name!r}.", hint=HINT, param=name)
        return Fields({name: bytes(self._files[name]) for name in self._names}, self._texts)

    def _begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        self._data = bytearray()
        if self._parts > MAX_PARTS:
            raise PayloadTooLarge(f"The form has more than {MAX_PARTS} parts.")

    def _grow(self, part: int, data: bytes) -> None:
        self._header[part].extend(data)
        if len(self._header[part]) > MAX_HEADER_BYTES:
            raise InvalidInput("A part's header is too long.", hint=HINT)

    def _end_header(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _choose(self) -> None:
        kind, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not name:
            raise InvalidInput("A part of the form has no name.", hint=HINT)
        shown = name[:MAX_NAME_CHARS]
        if name not in self._names and name not in self._known:
            raise InvalidInput(
                f"Unknown field {shown}.",
                hint=f"Known are {', '.join((*self._names, *self._known))}.",
                param=shown,
            )
        if name in self._names:
            if name in self._files:
                raise _twice(name)
            self._files[name] = bytearray()
        elif name in self._texts and not name.endswith(LIST):
            raise _twice(name)
        self._name = name

    def _take(self, data: bytes) -> None:
        if self._name in self._names:
            file = self._files[self._name]
            file += data
            if len(file) > self._most_bytes:
                raise PayloadTooLarge(
                    f"The file has more than {self._most_bytes} bytes.",
                    hint=self._hint,
                    param=self._name,
                )
            return
        self._data += data
        if len(self._data) > MAX_FIELD_BYTES:
            raise PayloadTooLarge(
                f"The field {self._name} has more than {MAX_FIELD_BYTES} bytes.", param=self._name
            )

    def _end_part(self) -> None:
        if self._name in self._names:
            return
        try:
            text = self._data.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"The field {self._name} is no UTF-8.", param=self._name) from None
        self._texts.setdefault(self._name, []).append(text)

    def _finish(self) -> None:
        self._ended = True


def _twice(name: str) -> InvalidInput:
    return InvalidInput(f"The form has the part {name} twice.", hint="Send it once.", param=name)
