"""What one request may make us decode."""

from lmaas.types import Record


class Limits(Record, frozen=True, kw_only=True):
    """Bounds on decoded data, checked before memory is taken for it."""

    max_image_pixels: int = 64_000_000
    max_media_bytes: int = 64 << 20
    max_elements: int = 16_777_216
    max_audio_s: float = 7200.0
