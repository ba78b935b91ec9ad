"""Lines of a text file, each checked to be UTF-8, with its number."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lmaas.errors import InvalidInput

MAX_LINE_BYTES: Final = 64 << 20
FOREIGN: Final = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
HINT: Final = "Save it as UTF-8: iconv -f ENCODING -t UTF-8 FILE > NEW."


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its end, from number 1; a UTF-8 byte order mark is taken off.

    Raises InvalidInput, with the line's number, for another encoding or an endless line.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                for mark, name in FOREIGN.items():
                    if raw.startswith(mark):
                        raise InvalidInput(
                            f"{path.name} is {name}; expected UTF-8.", hint=HINT, param="data"
                        )
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if len(raw) > MAX_LINE_BYTES:
                raise InvalidInput(
                    f"{path.name}, line {number} is longer than {MAX_LINE_BYTES >> 20} MiB.",
                    param="data",
                )
            if b"\x00" in raw:
                raise InvalidInput(
                    f"{path.name}, line {number} holds a zero byte: this is no text.", param="data"
                )
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"{path.name}, line {number} is not UTF-8 (byte {error.start + 1} is "
                    f"0x{raw[error.start]:02x}).",
                    hint=HINT,
                    param="data",
                ) from None
