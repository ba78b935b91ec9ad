"""What files say they are, and base64 that is bounded before it is decoded."""

import base64
import io
import wave

import pytest
from PIL import Image

from lmaas.codecs import media
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge

BOX = b"\x00\x00\x00\x18ftyp"


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(bytes(320))
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_images_are_known_by_their_bytes(format: str) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, format)
    assert media.media_type_of(file.getvalue()) == f"image/{format.lower()}"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (wav(), "audio/wav"),
        (b"fLaC\0\0", "audio/flac"),
        (b"OggS\0", "audio/ogg"),
        (b"ID3\4", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (BOX + b"M4A ", "audio/mp4"),
        (BOX + b"heic", "image/heic"),
        (BOX + b"isom", "video/mp4"),
        (b"FORM\0\0\0\0AIFF", "audio/aiff"),
        (b"RIFF\0\0\0\0what", None),
        (b"a text", None),
        (b"", None),
    ],
)
def test_files_are_known_by_their_bytes(data: bytes, kind: str | None) -> None:
    assert media.media_type_of(data) == kind
    assert media.told(data, "x/y") == f"{kind or 'x/y'} ({len(data)} bytes)"


def test_base64_and_data_urls_are_decoded() -> None:
    text = base64.b64encode(wav()).decode()
    for given in (text, f"data:audio/wav;base64,{text}", f"data:;base64,{text}"):
        assert media.from_base64(given, Limits(), param="inputs") == wav()


def test_base64_is_bounded_before_it_is_decoded() -> None:
    limits = Limits(max_media_bytes=300)
    assert media.from_base64("A" * 400, limits, param="x") == bytes(300)
    # Were it decoded, it would be found to be no base64.
    for given in ("*" * 408, "data:image/png;base64," + "*" * 408):
        with pytest.raises(PayloadTooLarge, match="at most 300") as caught:
            media.from_base64(given, limits, param="x")
        assert caught.value.param == "x"


@pytest.mark.parametrize(
    "given",
    ["AAA", "AA A", "ÄÖÜß", "https://example.com/a.png", "file:///etc/passwd",
     "data:image/png,AAAA", "data:image/png;base64"],
)  # fmt: skip
def test_other_texts_are_no_base64(given: str) -> None:
    with pytest.raises(InvalidInput, match="base64"):
        media.from_base64(given, Limits(), param="x")
