"""Image decoding: formats, limits, damage, and exact preprocessing."""

import io
import struct
import zlib

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas.codecs import image
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.types import ImageSpec

SPEC = ImageSpec(height=8, width=8, channels=3, layout="HWC")


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", image.FORMATS)
def test_every_listed_format_decodes(kind: str) -> None:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    decoded = image.decode(encode(pixels, kind), SPEC, Limits())
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded).astype(int) - 128).max() <= 2


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"hello", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7"])
def test_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        image.decode(data, SPEC, Limits())


def test_truncated_image() -> None:
    data = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")
    with pytest.raises(InvalidInput, match="damaged"):
        image.decode(data[: len(data) // 2], SPEC, Limits())


@pytest.mark.parametrize("side", [9000, 12_000, 65_000, 2**31 - 1])
def test_a_header_that_claims_too_many_pixels(side: int) -> None:
    with pytest.raises(PayloadTooLarge):
        image.decode(png_header(side, side), SPEC, Limits())


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    pixels = np.full((8, 8), 0x8000, np.uint16)
    decoded = image.decode(encode(pixels, "PNG"), SPEC, Limits())
    assert np.asarray(decoded).max() == 128


def test_exif_orientation_is_applied() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = image.decode(encode(pixels, "PNG", exif=exif), SPEC, Limits())
    assert decoded.size == (8, 16)


@pytest.mark.parametrize(
    ("layout", "shape"), [("HWC", (8, 8, 3)), ("CHW", (3, 8, 8)), ("flat", (192,))]
)
def test_layout_and_normalisation(layout: str, shape: tuple[int, ...]) -> None:
    values = {"height": 8, "width": 8, "layout": layout}
    norm = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}
    spec = msgspec.convert(values | norm, ImageSpec)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    got = image.to_array(Image.fromarray(pixels), spec, "float32")
    want = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    want = want.transpose(2, 0, 1) if layout == "CHW" else want
    assert got.shape == shape
    np.testing.assert_allclose(got, want.reshape(shape), rtol=1e-5, atol=1e-6)


def test_crop_keeps_the_centre() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    spec = ImageSpec(height=8, width=8, layout="HWC", resize="crop", scale=1)
    assert (image.to_array(Image.fromarray(pixels), spec, "float32") == 200).all()


@pytest.mark.parametrize(
    ("brand", "format"), [("heic", "HEIC"), ("avif", "AVIF"), ("mif1", "HEIF")]
)
def test_an_image_of_a_format_that_is_not_read_is_told_by_it(brand: str, format: str) -> None:
    data = b"\x00\x00\x00\x18ftyp" + brand.encode() + bytes(64)
    spec = ImageSpec(height=4, width=4, channels=1, layout="HW")
    with pytest.raises(InvalidInput, match=f"The input is {format}, which is not read"):
        image.decode(data, spec, Limits())
    assert not image.is_image(data)
