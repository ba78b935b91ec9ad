"""When somebody speaks: turns are found in sound as it comes, by loudness alone.

A frame of 20 ms is as loud as its mean square in dB of full scale. The noise floor follows what is
heard while nobody speaks: fast downwards, slowly upwards. A frame counts as speech by how far it
lies above the floor; it takes less to go on speaking than to begin (hysteresis). Cheap enough for
an event loop: some microseconds for a second of sound. Knows no transport and no model.
"""

from typing import Final, Literal, NamedTuple

import numpy as np

FRAME_MS: Final = 20
FULL_DB: Final = 30.0
"""So far above the noise floor a frame is speech for the threshold 1."""
RELEASE: Final = 0.15
"""So much below the threshold speech goes on."""
ONSET_FRAMES: Final = 3
"""So many frames in a row begin a turn: a click does not."""
FLOOR_DB: Final = (-65.0, -20.0)
"""The least and the greatest noise floor."""
FIRST_FLOOR_DB: Final = -40.0
"""The greatest one that the first frame is taken for: somebody may speak in it already."""
FALL: Final = 0.3
RISE: Final = 0.05
RISE_SPEAKING: Final = 0.002
"""Shares of the difference that the floor moves in a frame. A noise that begins and stays is no
speech after about ten seconds."""


class Turn(NamedTuple):
    """A turn has begun, or ended, at this time of the sound."""

    what: Literal["began", "ended"]
    at_ms: int


class TurnDetector:
    """Finds turns in the sound of one speaker.

    `threshold` is from 0 to 1. A turn begins `prefix_ms` before its first loud frame and ends
    when it was quiet for `silence_ms`.
    """

    def __init__(
        self, rate: int, *, threshold: float, prefix_ms: int, silence_ms: int, at_ms: int = 0
    ) -> None:
        self._frame = rate * FRAME_MS // 1000
        self._threshold = threshold
        self._prefix_ms = prefix_ms
        self._silence_frames = max(1, silence_ms // FRAME_MS)
        self._rest = np.empty(0, np.int16)
        self._at_ms = at_ms
        self._floor: float | None = None
        self._loud = 0
        self._quiet = 0
        self.speaking = False

    def feed(self, pcm: np.ndarray) -> list[Turn]:
        """What (T,) more int16 samples begin and end, in order."""
        pcm = np.concatenate((self._rest, pcm)) if self._rest.size else pcm
        count = pcm.size // self._frame
        self._rest = pcm[count * self._frame :].copy()
        if not count:
            return []
        frames = pcm[: count * self._frame].astype(np.float32).reshape(count, self._frame)
        power = np.einsum("ij,ij->i", frames, frames) / (self._frame * 32768.0**2)
        turns = []
        for level in (10 * np.log10(power + 1e-10)).tolist():
            self._at_ms += FRAME_MS
            turn = self._hear(level)
            if turn is not None:
                turns.append(turn)
        return turns

    def end(self) -> None:
        """The turn was ended by somebody else."""
        self.speaking = False
        self._loud = self._quiet = 0

    def _hear(self, level: float) -> Turn | None:
        floor = self._floor
        if floor is None:
            floor = min(max(level, FLOOR_DB[0]), FIRST_FLOOR_DB)
        above = (level - floor) / FULL_DB
        share = FALL if level < floor else RISE_SPEAKING if self.speaking else RISE
        if self.speaking or above < self._threshold:
            floor += share * (level - floor)
        self._floor = min(max(floor, FLOOR_DB[0]), FLOOR_DB[1])
        if not self.speaking:
            self._loud = self._loud + 1 if above >= self._threshold else 0
            if self._loud < ONSET_FRAMES:
                return None
            self.speaking, self._quiet, self._loud = True, 0, 0
            began = self._at_ms - ONSET_FRAMES * FRAME_MS - self._prefix_ms
            return Turn("began", max(0, began))
        self._quiet = self._quiet + 1 if above < self._threshold - RELEASE else 0
        if self._quiet < self._silence_frames:
            return None
        self.end()
        return Turn("ended", self._at_ms)
