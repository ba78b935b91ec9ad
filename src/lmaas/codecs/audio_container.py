"""Sound in containers that FFmpeg reads: m4a, mp4, mov, webm, mkv; mp3, aac and amr.

The demuxer is the one of the file's first bytes, decoders are those of sound alone, and whatever a
file refers to stays closed: it can open nothing but its own bytes.
"""

import io
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from lmaas.codecs.audio_source import BLOCK_FRAMES, Source, damaged, missing
from lmaas.errors import InvalidInput, PayloadTooLarge

KINDS: Final = {
    "audio/mp4": "mov",
    "video/mp4": "mov",
    "video/webm": "matroska",
    "audio/mpeg": "mp3",
    "audio/aac": "aac",
    "audio/amr": "amr",
}
"""FFmpeg's demuxer of each media type that is read here."""
CODECS: Final = (
    "aac", "alac", "mp3", "mp3float", "mp2", "mp2float", "mp1", "mp1float", "opus", "libopus",
    "vorbis", "flac", "ac3", "eac3", "amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le",
    "pcm_f32be", "pcm_f64le", "pcm_u8", "pcm_alaw", "pcm_mulaw",
)  # fmt: skip
OPTIONS: Final = {
    "codec_whitelist": ",".join(CODECS),
    "format_whitelist": ",".join(sorted(set(KINDS.values()) | {"mov,mp4,m4a,3gp,3g2,mj2",
                                                               "matroska,webm"})),
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "probesize": str(1 << 20),
    "analyzeduration": "5000000",
}  # fmt: skip
OURS: Final = (InvalidInput, PayloadTooLarge)


def open_container(data: bytes, kind: str, most_s: float) -> Source:
    """The first sound track. Its packets are counted, so that its length is no lie.

    Raises InvalidInput where there is none or it cannot be read, and where it is of a codec that
    is not read.
    """
    try:
        import av
    except (ImportError, OSError):
        raise missing("av") from None
    av.logging.set_level(None)
    file = _open(av, data, kind)
    try:
        track = _track(file)
        rate, channels = int(track.sample_rate or 0), int(track.channels or 0)
        frames = _count(av, file, track, most_s) if rate > 0 else None
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise damaged(_told(error)) from None
    finally:
        file.close()
    return Source(
        sample_rate=rate,
        channels=channels,
        frames=frames,
        blocks=lambda: _blocks(av, data, kind, rate),
    )


def _open(av: Any, data: bytes, kind: str) -> Any:
    def refuse(url: str, flags: int, options: object) -> Any:
        raise InvalidInput("The sound refers to another file, which is not opened.")

    try:
        return av.open(
            io.BytesIO(data), format=KINDS[kind], container_options=OPTIONS, io_open=refuse
        )
    except OURS:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise damaged(_told(error)) from None


def _track(file: Any) -> Any:
    for track in file.streams.audio:
        name = track.codec_context.name if track.codec_context else None
        if name not in CODECS:
            raise InvalidInput(f"The sound has the codec {name or 'unknown'}, which is not read.")
        return track
    raise InvalidInput("The file has no sound track.")


def _count(av: Any, file: Any, track: Any, most_s: float) -> int | None:
    """The samples of all packets by their own durations; None where they have none.

    The count stops once it is over `most_s` seconds.
    """
    total, base = 0.0, float(track.time_base or 0)
    if not base:
        return None
    for packet in file.demux(track):
        total += max(0, packet.duration or 0) * base
        if total > most_s:
            break
    return int(total * track.sample_rate) or None


def _blocks(av: Any, data: bytes, kind: str, rate: int) -> Iterator[np.ndarray]:
    file = _open(av, data, kind)
    held: list[np.ndarray] = []
    size = 0
    try:
        track = _track(file)
        for frame in file.decode(track):
            if frame.sample_rate != rate:
                raise InvalidInput(
                    f"The sound changes from {rate} to {frame.sample_rate} samples a second."
                )
            held.append(_mono(frame))
            size += len(held[-1])
            if size >= BLOCK_FRAMES:
                yield np.concatenate(held)
                held, size = [], 0
    except OURS:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise damaged(_told(error)) from None
    finally:
        file.close()
    if size:
        yield np.concatenate(held)


def _mono(frame: Any) -> np.ndarray:
    """The mean of a frame's channels, whole numbers scaled to -1 to 1."""
    values: np.ndarray = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T
    if values.dtype.kind in "iu":
        bits = 8 * values.dtype.itemsize
        offset = 1 << (bits - 1) if values.dtype.kind == "u" else 0
        values = (values.astype(np.float32) - offset) / np.float32(1 << (bits - 1))
    mono: np.ndarray = values.mean(axis=0, dtype=np.float32)
    return mono


def _told(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
