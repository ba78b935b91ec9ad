"""Files as they are sent: what their first bytes say they are, and base64 with its bound.

Nothing is decoded here but base64.
"""

import base64
import binascii

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge

HEAD_BYTES = 16
MARKS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"), (b"BM", "image/bmp"), (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"), (b"\xff\xf1", "audio/aac"), (b"\xff\xf9", "audio/aac"),
    (b"\xff\xf0", "audio/aac"), (b"\xff\xf8", "audio/aac"),
    (b"\xff\xfb", "audio/mpeg"), (b"\xff\xfa", "audio/mpeg"), (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"), (b"\xff\xe3", "audio/mpeg"), (b"\xff\xe2", "audio/mpeg"),
    (b"\xff\xfd", "audio/mpeg"), (b"\xff\xfc", "audio/mpeg"), (b"\xff\xf5", "audio/mpeg"),
    (b"\xff\xf4", "audio/mpeg"), (b"#!AMR", "audio/amr"), (b"\x1aE\xdf\xa3", "video/webm"),
    (b"#EXTM3U", "application/x-mpegurl"), (b"\xef\xbb\xbf#EXTM3U", "application/x-mpegurl"),
    (b"[playlist]", "audio/x-scpls"), (b"ffconcat", "text/x-ffconcat"),
    (b"%PDF", "application/pdf"), (b"PK\3\4", "application/zip"), (b"\x1f\x8b", "application/gzip"),
)  # fmt: skip
"""How files of these media types begin."""
RIFF = {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
"""What stands at byte 8 of a file that begins with RIFF (RF64, RIFX: other sizes, byte order)."""
BRANDS = {
    b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic",
    b"hevc": "image/heic", b"heim": "image/heic", b"heis": "image/heic", b"mif1": "image/heif",
    b"msf1": "image/heif", b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"M4P ": "audio/mp4",
    b"F4A ": "audio/mp4",
}  # fmt: skip
"""What stands at byte 8 of an ISO media file; with other brands it is a video."""


def media_type_of(data: bytes) -> str | None:
    """The media type that the first bytes of a file tell; None where they tell none."""
    head = data[:HEAD_BYTES]
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return RIFF.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "video/mp4")
    return next((kind for mark, kind in MARKS if head.startswith(mark)), None)


def told(data: bytes, media_type: str | None = None) -> str:
    """What `data` is, for people; `media_type` is what its sender calls it."""
    found = media_type_of(data) or media_type
    return f"{found or 'no known kind of file'} ({len(data)} bytes)"


def from_base64(text: str, limits: Limits, *, param: str) -> bytes:
    """The bytes of base64 text or of a `data:` URL; other URLs are never fetched.

    Raises PayloadTooLarge before anything is decoded, InvalidInput for what is no base64.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidInput(
                f"{param} is a data: URL without base64.",
                hint="Write it as data:MEDIA/TYPE;base64,DATA.",
                param=param,
            )
    if len(text) // 4 * 3 > limits.max_media_bytes:
        raise PayloadTooLarge(
            f"{param} has a file of about {len(text) // 4 * 3} bytes; at most "
            f"{limits.max_media_bytes} are decoded.",
            param=param,
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            f"{param} is not base64.",
            hint="Send the file's bytes as base64.",
            param=param,
        ) from None
