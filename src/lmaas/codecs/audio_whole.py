"""Whether a sound file is all there: decoders give what is left of one that was cut off.

The sizes in the file itself tell: RIFF and AIFF chunks, Ogg pages, MP4 boxes, the segment of a
Matroska file, the Xing frame of an MP3. A file that was written while it was recorded marks its
size as unknown; such files are accepted, and so are those without sizes.
"""

from typing import Final, Literal

from lmaas.errors import InvalidInput

MOST_CHUNKS: Final = 10_000
UNTOLD: Final = 0x7FFF_0000
"""Sizes from here on stand for one that was not known: writers put different ones."""
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
OGG_HEAD: Final = 27
XING_BYTES: Final = 256
HAS_FRAMES, HAS_BYTES = 1, 2


def check_whole(data: bytes, kind: str) -> None:
    """Raise InvalidInput for a file of this media type that ends before its own parts do."""
    match kind:
        case "audio/wav" | "audio/aiff":
            missing = _of_chunks(data, "little" if kind == "audio/wav" else "big")
        case "audio/ogg":
            missing = _of_pages(data)
        case "audio/mpeg":
            missing = _of_frames(data)
        case "audio/mp4" | "video/mp4":
            missing = _of_boxes(data)
        case "video/webm":
            missing = _of_segment(data)
        case _:
            return
    if missing > 0:
        raise InvalidInput(
            f"The sound is cut off: at least {missing} bytes are missing at the end of the file.",
            hint="Send the whole file.",
        )


def _of_chunks(data: bytes, order: Literal["little", "big"]) -> int:
    """How many bytes of the last chunk are missing; 0 where its size is not told."""
    at = 12
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(data):
            return 0
        size = int.from_bytes(data[at + 4 : at + 8], order)
        end = at + 8 + size
        if size >= UNTOLD:
            return 0
        if end > len(data):
            # What follows the sound (names, marks) may be damaged without harm to it.
            return end - len(data) if data[at : at + 4] in (b"data", b"SSND") else 0
        at = end + size % 2
    return 0


def _of_pages(data: bytes) -> int:
    """How many bytes of the last page are missing."""
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            return 0  # no page: what follows is for the decoder to judge
        if at + OGG_HEAD > len(data):
            return at + OGG_HEAD - len(data)
        segments = data[at + 26]
        body = at + OGG_HEAD + segments
        end = body + sum(data[at + OGG_HEAD : body])
        if body > len(data) or end > len(data):
            return max(body, end) - len(data)
        at = end
    return 0


def _of_frames(data: bytes) -> int:
    """How many bytes of an MP3 are missing; 0 where no Xing frame counts them."""
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        start = 10 + size
    head = data[start : start + XING_BYTES]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return 0
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    if not flags & HAS_BYTES:
        return 0
    place = at + (12 if flags & HAS_FRAMES else 8)
    return max(0, start + int.from_bytes(head[place : place + 4], "big") - len(data))


def _of_boxes(data: bytes) -> int:
    """How many bytes of the last box of an MP4 are missing; 0 where it goes to the file's end."""
    at = 0
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(data):
            return 0
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return 0
        at += size
        if at > len(data):
            return at - len(data)
    return 0


def _of_segment(data: bytes) -> int:
    """How many bytes of the segment are missing; 0 where its size is not told."""
    if data[:4] != EBML:
        return 0
    head, at = _number(data, 4)
    if head is None:
        return 0
    at += head
    if data[at : at + 4] != SEGMENT:
        return 0
    size, at = _number(data, at + 4)
    return 0 if size is None else max(0, at + size - len(data))


def _number(data: bytes, at: int) -> tuple[int | None, int]:
    """A size as Matroska writes it, and where it ends; None: unknown, or none that is valid."""
    if at >= len(data) or not data[at]:
        return None, at
    length = 9 - data[at].bit_length()
    raw = data[at : at + length]
    if len(raw) < length:
        return None, at
    value = int.from_bytes(raw, "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
