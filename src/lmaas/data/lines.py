"""Lines of a text file, plain or gzip, in a stated encoding, each with its number.

A line ends with a line feed, a carriage return or both. UTF-8 is what a file is taken for; a byte
order mark says UTF-16 or UTF-32; another encoding is said by whoever gives the file.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lmaas.errors import InvalidInput

MAX_LINE_CHARS: Final = 64 << 20
MARKS: Final = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Longer marks stand first: UTF-32's begins with UTF-16's."""
ENCODINGS: Final = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "cp1250", "cp1251",
    "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp437", "cp850", "cp852", "cp866",
    "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "koi8-r", "koi8-u",
    "mac-roman", "shift_jis", "cp932", "euc_jp", "gbk", "gb18030", "big5", "euc_kr", "cp949",
)  # fmt: skip
"""What a file's encoding may be said to be, under any name that Python knows it by."""
GZIP: Final = ".gz"
MAX_GZIP_RATIO: Final = 200
"""So many times its own size may a gzip file unpack to: tables of text have 3 to 30."""
SMALL_GZIP_BYTES: Final = 1 << 30
"""To so many bytes it may unpack whatever its own size is."""
_LOST: Final = re.compile("[\udc80-\udcff]")
"""Stands for a byte that is no text in the encoding; no text has it by itself."""
_WINDOWS: Final = re.compile("[\udc80-\udc9f]")
"""Bytes that are letters in Windows' encoding of Western Europe, and in latin-1 none."""


def check_encoding(name: str) -> str:
    """`name` as one of ENCODINGS. Raises InvalidInput."""
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        known = ""
    if known == "utf-8-sig":
        known = "utf-8"
    for each in ENCODINGS:
        if codecs.lookup(each).name == known:
            return each
    raise InvalidInput(
        f"There is no encoding {name[:80]!r}; known are {', '.join(ENCODINGS)}.",
        param="data.encoding",
    )


def lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Each line with its end, from number 1; a byte order mark is taken off.

    Raises InvalidInput, with the line's number, for another encoding or an endless line.
    """
    number = 0
    with _opened(path) as raw:
        told = encoding or _marked(raw.peek(4)[:4])
        # What is no text in the encoding is read as lone surrogates, so that its line is known.
        with io.TextIOWrapper(raw, told, errors="surrogateescape", newline="") as text:
            while True:
                try:
                    line = text.readline(MAX_LINE_CHARS + 1)
                except UnicodeError as error:
                    raise _not_text(path, number + 1, told, str(error)) from None
                if not line:
                    return
                number += 1
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if len(line) > MAX_LINE_CHARS:
                    raise InvalidInput(
                        f"{path.name}, line {number} is longer than {MAX_LINE_CHARS >> 20} million "
                        "characters.",
                        param="data",
                    )
                if "\x00" in line:
                    halves = line.count("\x00") * 3 > len(line)
                    raise InvalidInput(
                        f"{path.name}, line {number} holds a zero byte: this is no text.",
                        hint=_offer("utf-16-le") if halves else None,
                        param="data",
                    )
                if not line.isascii() and (lost := _LOST.search(line)):
                    byte = ord(lost.group()) - 0xDC00
                    place = f"character {lost.start() + 1} is the byte 0x{byte:02x}"
                    raise _not_text(path, number, told, place, line)
                yield number, line


def first_text(path: Path, encoding: str | None = None) -> str:
    """The first character that is no blank, or nothing."""
    for _, line in lines(path, encoding):
        if stripped := line.strip():
            return stripped[0]
    return ""


def _marked(head: bytes) -> str:
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


def _not_text(path: Path, number: int, encoding: str, told: str, line: str = "") -> InvalidInput:
    return InvalidInput(
        f"{path.name}, line {number} is not {encoding.upper()} ({told}).",
        hint=_offer("cp1252" if _WINDOWS.search(line) else "latin-1"),
        param="data",
    )


def _offer(encoding: str) -> str:
    return (
        f"Say what it is: data.encoding: {encoding} (or another one) in the recipe, "
        f"`--set data.encoding={encoding}`; or save it as UTF-8."
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's bytes, unpacked where it is gzip. Raises InvalidInput where it is damaged."""
    with path.open("rb") as file:
        if path.suffix.lower() != GZIP:
            yield file
            return
        most = max(SMALL_GZIP_BYTES, MAX_GZIP_RATIO * path.stat().st_size)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(_Bounded(unpacked, most, path.name))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidInput(f"{path.name} is damaged gzip: {error}.", param="data") from None


class _Bounded(io.RawIOBase):
    """What a gzip file unpacks to, up to a number of bytes."""

    def __init__(self, file: gzip.GzipFile, most: int, name: str) -> None:
        self._file = file
        self._left = most
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = self._file.read(len(view))
        view[: len(content)] = content
        self._left -= len(content)
        if self._left < 0:
            raise InvalidInput(
                f"{self._name} would unpack to more than {MAX_GZIP_RATIO} times its size.",
                hint="Give it unpacked.",
                param="data",
            )
        return len(content)
