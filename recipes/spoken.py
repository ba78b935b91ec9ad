"""Speech to learn from: sentences of a small grammar, said by espeak-ng in many voices.

`write` makes a folder of sounds and a metadata.jsonl, as `lmaas train --task
automatic-speech-recognition` reads it. espeak-ng and its voices come in the package
espeakng-loader; nothing is installed or downloaded.
"""

import ctypes
import functools
import io
import json
import random
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

VOICES = tuple(
    f"{accent}+{voice}"
    for accent in ("en-us", "en")
    for voice in ("m1", "m2", "m3", "m5", "f1", "f2", "f3", "f5")
)
UNSEEN = ("en-us+m7", "en+f4")
"""Voices that are tested on and never learned from."""

VERBS = ("open", "close", "paint", "find", "move", "wash")
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COLOURS = ("red", "green", "blue", "white", "black")
THINGS = ("door", "window", "lamp", "box")
PLACES = ("garden", "kitchen", "street")


def sentence(draw: random.Random) -> str:
    """A sentence of the grammar; it has 32 words."""
    count = draw.choice((*COUNTS, "the", "the", "the", "the"))
    parts = [draw.choice(VERBS), count, draw.choice(COLOURS), draw.choice(THINGS)]
    if draw.random() < 0.5:
        parts += ["in", "the", draw.choice(PLACES)]
    if draw.random() < 0.3:
        parts.insert(0, "please")
    if draw.random() < 0.2:
        parts.append("now")
    return " ".join(parts)


class Speaker:
    """espeak-ng's library. One a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        retrieval, no_buffer, no_options = 1, 0, 0
        self.rate = int(self._library.espeak_Initialize(retrieval, no_buffer, data, no_options))
        if self.rate <= 0:
            raise RuntimeError("espeak-ng does not start")
        self._samples: list[bytes] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._heard = kind(self._take)  # espeak-ng keeps no reference
        self._library.espeak_SetSynthCallback(self._heard)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, words_per_minute: int = 170, pitch: int = 50) -> bytes:
        """Mono samples of 16 bits at `rate`."""
        self._samples.clear()
        rate, tone = 1, 3
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(rate, words_per_minute, 0)
        self._library.espeak_SetParameter(tone, pitch, 0)
        spoken, utf8, characters = text.encode(), 1, 1
        self._library.espeak_Synth(
            spoken, ctypes.c_size_t(len(spoken) + 1), 0, characters, 0, utf8, None, None
        )
        self._library.espeak_Synchronize()
        return b"".join(self._samples)


@functools.cache
def speaker() -> Speaker:
    """The process's own."""
    return Speaker()


def said(
    text: str, voice: str = "en-us", before_s: float = 0.0, after_s: float = 0.0, **how: int
) -> bytes:
    """A wav file of `text`, with so much silence around it."""
    rate = speaker().rate
    before, after = (bytes(2 * int(seconds * rate)) for seconds in (before_s, after_s))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", ""))
        writer.writeframes(before + speaker().say(text, voice, **how) + after)
    return file.getvalue()


def spoken(count: int, voices: Sequence[str], seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` sentences and how they sound, each in one of the voices."""
    draw = random.Random(seed)
    for _ in range(count):
        text = sentence(draw)
        yield (
            text,
            said(
                text,
                draw.choice(voices),
                # Who learns only sentences that begin at once does not know them after a pause.
                before_s=draw.uniform(0, 0.6),
                after_s=draw.uniform(0, 0.6),
                words_per_minute=draw.randint(140, 190),
                pitch=draw.randint(35, 65),
            ),
        )


def write(folder: Path, count: int, voices: Sequence[str] = VOICES, seed: int = 0) -> Path:
    """A folder of sounds with their texts in metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as lines:
        for number, (text, sound) in enumerate(spoken(count, voices, seed)):
            name = f"{number:05}.wav"
            (folder / name).write_bytes(sound)
            lines.write(json.dumps({"file_name": name, "text": text}) + "\n")
    return folder
