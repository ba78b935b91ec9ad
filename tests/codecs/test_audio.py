"""Sound files: every format gives the sound that was written; what is none says why, at once."""

import contextlib
import io
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sounds
from lmaas.codecs import audio, audio_container
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, PayloadTooLarge

FORMATS = ["wav", "wav float", "aiff", "flac", "vorbis", "opus", "mp3", "m4a", "mp4", "webm", "aac"]
TWO_CHANNELS = ("flac", "mp4")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_sound(name: str) -> None:
    data = sounds.files(2.0)[name]
    assert audio.is_audio(data)
    found = audio.decode(data, 16_000, Limits())
    assert found.dtype == np.float32
    assert abs(len(found) / 16_000 - 2) < 0.08  # lossy formats have frames of their own
    inner = found[4_000:-4_000]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert abs(spectrum.argmax() * 16_000 / len(inner) - 440) < 1
    # The second channel is silent: the mean has half the power of the first.
    loud = 0.25 if name in TWO_CHANNELS else 0.5
    assert np.sqrt(2 * np.mean(np.square(inner))) == pytest.approx(loud, rel=0.02)


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_are_the_whole_sound(name: str) -> None:
    data = sounds.files(2.0)[name]
    parts = list(audio.blocks(data, 8_000, Limits()))
    assert all(len(part) for part in parts)
    assert np.array_equal(np.concatenate(parts), audio.decode(data, 8_000, Limits()))


@pytest.mark.parametrize(
    ("subtype", "worst"), [("PCM_U8", 0.01), ("PCM_24", 1e-6), ("PCM_32", 1e-7), ("DOUBLE", 1e-7)]
)
def test_samples_of_any_width(subtype: str, worst: float) -> None:
    sound = sounds.tone()
    found = audio.decode(sounds.wav(sound, 16_000, subtype), 16_000, Limits())
    assert np.abs(found - sound).max() <= worst


def test_whole_numbers_in_containers_are_scaled() -> None:
    sound = sounds.tone()
    data = sounds.contained(sound, 16_000, "ipod", "alac")
    assert np.abs(audio.decode(data, 16_000, Limits()) - sound).max() < 1e-4


def silence(seconds: float, format_: str = "FLAC", rate: int = 8_000, channels: int = 1) -> bytes:
    import soundfile

    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format=format_) as writer:
        for _ in range(int(seconds // 60)):
            writer.write(np.zeros((60 * rate, channels), np.float32))
    return file.getvalue()


def with_bytes(data: bytes, at: int, put: bytes) -> bytes:
    return data[:at] + put + data[at + len(put) :]


def test_a_long_sound_is_refused_by_its_head() -> None:
    data = silence(3 * 3600)
    began = time.process_time()
    with pytest.raises(PayloadTooLarge, match="10800 s; at most 7200 s"):
        audio.open_source(data, Limits())
    assert time.process_time() - began < 1
    assert len(audio.decode(data, 1_000, Limits(max_audio_s=10_800))) == 10_800_000


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_holds_in_every_format(name: str) -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 1\.5 s"):
        audio.decode(sounds.files(2.0)[name], 16_000, Limits(max_audio_s=1.5))


def test_a_file_that_hides_its_length_stops_at_the_bound() -> None:
    data = silence(1200)
    # The last 36 bits of these 8 bytes of STREAMINFO are the number of samples; 0: unknown.
    told = int.from_bytes(data[18:26], "big") >> 36 << 36
    data = with_bytes(data, 18, told.to_bytes(8, "big"))
    assert audio.open_source(data, Limits()).frames is None
    with pytest.raises(PayloadTooLarge, match="more samples than its head says"):
        audio.decode(data, 16_000, Limits(max_audio_s=600))
    blocks = audio.blocks(data, 16_000, Limits(max_audio_s=600))
    seen: list[int] = []
    with contextlib.suppress(PayloadTooLarge):
        seen.extend(len(block) for block in blocks)
    assert 500 * 16_000 < sum(seen) <= 600 * 16_000


def test_a_container_is_measured_by_its_packets() -> None:
    data = sounds.files(2.0)["m4a"]
    # The lengths that the head tells, of the film and of its track.
    for name, at in ((b"mvhd", 20), (b"mdhd", 20)):
        data = with_bytes(data, data.index(name) + at, struct.pack(">I", 1))
    source = audio.open_source(data, Limits())
    assert source.frames is not None
    assert 1.9 < source.frames / source.sample_rate < 2.2
    with pytest.raises(PayloadTooLarge):
        audio.open_source(data, Limits(max_audio_s=1.5))


def test_sound_of_many_samples_a_second_may_be_shorter() -> None:
    data = silence(120, "FLAC", 96_000, 4)
    with pytest.raises(PayloadTooLarge):
        audio.open_source(data, Limits(max_audio_s=240))
    audio.open_source(data, Limits(max_audio_s=481))


def nan_file() -> bytes:
    sound = sounds.tone()
    sound[100] = np.nan
    return sounds.wav(sound, 16_000, "FLOAT")


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not a sound"),
    "text": (lambda: b"hello there", "not a sound"),
    "an image": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "received image/png"),
    "a playlist": (lambda: b"#EXTM3U\nhttp://127.0.0.1:1/a.mp3\n", "application/x-mpegurl"),
    "a list of files": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "text/x-ffconcat"),
    "a manifest": (lambda: b"<?xml version='1.0'?><MPD/>", "not a sound"),
    "no samples": (lambda: sounds.wav(sounds.tone(0)), "no samples"),
    "NaN": (nan_file, "NaN or infinite"),
    "infinity": (lambda: sounds.wav(sounds.tone() + np.inf, 16_000, "FLOAT"), "NaN or infinite"),
    "16-bit numbers as floats": (
        lambda: sounds.wav(sounds.tone() * 32_768, 16_000, "FLOAT"), "samples up to 16384"
    ),
    "no channels": (lambda: with_bytes(sounds.wav(sounds.tone()), 22, bytes(2)), "damaged"),
    "60,000 channels": (
        lambda: with_bytes(sounds.wav(sounds.tone()), 22, struct.pack("<H", 60_000)), "damaged"
    ),
    "17 channels": (lambda: sounds.wav(np.zeros((9, 17), np.float32)), "17 channels; 1 to 16"),
    "no rate": (lambda: with_bytes(sounds.wav(sounds.tone()), 24, bytes(4)), "damaged"),
    "a rate of 2,000,000": (
        lambda: with_bytes(sounds.wav(sounds.tone()), 24, struct.pack("<I", 2_000_000)),
        "2000000 samples a second",
    ),
    "cut off in its head": (lambda: sounds.files()["mp4"][:60], "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_says_why(name: str) -> None:
    make, told = REFUSED[name]
    data = make()
    began = time.process_time()
    with pytest.raises(InvalidInput, match=told):
        audio.decode(data, 16_000, Limits())
    assert time.process_time() - began < 1


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", [name for name in sounds.files(0.1) if name != "aac"])
def test_a_file_that_was_cut_off_is_refused(name: str, share: float) -> None:
    whole = sounds.files(3.0)[name]
    audio.decode(whole, 16_000, Limits())
    with pytest.raises(InvalidInput, match=r"cut off|damaged"):
        audio.decode(whole[: int(len(whole) * share)], 16_000, Limits())


@pytest.mark.parametrize("size", [0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_that_was_written_while_it_was_recorded_is_read(size: int) -> None:
    sound = sounds.wav(sounds.tone(1.0))
    at = sound.index(b"data") + 4
    told = with_bytes(sound, at, size.to_bytes(4, "little"))
    assert len(audio.decode(told, 16_000, Limits())) > 15_000


def test_too_many_bytes_are_not_looked_at() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 10 are decoded"):
        audio.open_source(sounds.wav(sounds.tone()), Limits(max_media_bytes=10))


def test_a_film_without_sound_is_refused_and_its_pictures_are_not_decoded() -> None:
    import av

    file = io.BytesIO()
    container: Any = av.open(file, "w", format="matroska")
    with container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidInput, match="no sound track"):
        audio.decode(file.getvalue(), 16_000, Limits())


def test_a_container_opens_no_other_file(tmp_path: Any) -> None:
    data = sounds.files()["mp4"]
    opened = tmp_path / "other.mp4"
    opened.write_bytes(data)
    # A data reference to a file, where the samples are said to be.
    at = data.index(b"dref")
    size = int.from_bytes(data[at - 4 : at], "big")
    name = str(opened).encode() + b"\0"
    entry = struct.pack(">I", 12 + len(name)) + b"url " + bytes(4) + name
    box = struct.pack(">I", 16 + len(entry)) + b"dref" + struct.pack(">II", 0, 1) + entry
    grown = len(box) - size
    lies = data[: at - 4] + box + data[at - 4 + size :]
    for parent in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        found = lies.index(parent) - 4
        length = int.from_bytes(lies[found : found + 4], "big") + grown
        lies = with_bytes(lies, found, struct.pack(">I", length))
    file = audio_container._open(__import__("av"), lies, "video/mp4")
    with file:
        assert audio_container._track(file).sample_rate == 44_100
    # Its own bytes are read or it is refused; the other file stays closed.
    opened.unlink()
    with contextlib.suppress(InvalidInput):
        assert len(audio.decode(lies, 16_000, Limits())) < 20_000
