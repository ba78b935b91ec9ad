"""Sound files that libsndfile reads: wav, aiff, flac and ogg."""

import io
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from lmaas.codecs.audio_source import BLOCK_FRAMES, Source, damaged, missing

KINDS: Final = ("audio/wav", "audio/aiff", "audio/flac", "audio/ogg")
"""Media types of `codecs.media` that are read here."""
UNKNOWN: Final = (1 << 63) - 1
"""What libsndfile says of a length that it cannot tell."""


class _Bytes(io.BytesIO):
    """Bytes of which a damaged file may ask for any place: outside them nothing moves."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def open_file(data: bytes) -> Source:
    """The file's head. Raises InvalidInput where it cannot be read."""
    try:
        import soundfile
    except (ImportError, OSError):
        raise missing("soundfile") from None
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except (soundfile.SoundFileError, TypeError, ValueError, OverflowError) as error:
        raise damaged(_told(error)) from None
    frames = file.frames
    return Source(
        sample_rate=file.samplerate,
        channels=file.channels,
        frames=frames if 0 < frames < UNKNOWN else None,
        blocks=lambda: _blocks(file, soundfile.SoundFileError),
    )


def _blocks(file: Any, error_kind: type[Exception]) -> Iterator[np.ndarray]:
    size = max(1, BLOCK_FRAMES // file.channels)
    buffer = np.empty((size, file.channels), np.float32)
    with file:
        while True:
            try:
                count = file.buffer_read_into(buffer, "float32")
            except (error_kind, ValueError, OverflowError, RuntimeError) as error:
                raise damaged(_told(error)) from None
            if count <= 0:
                return
            block = buffer[:count]
            yield block[:, 0].copy() if file.channels == 1 else block.mean(axis=1)


def _told(error: Exception) -> str:
    """libsndfile's own words, without the name of an object of ours."""
    return str(getattr(error, "error_string", "") or "its head cannot be read")
