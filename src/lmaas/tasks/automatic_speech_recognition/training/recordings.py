"""The sounds of training data, decoded once into a mapped file of the job's folder.

What is kept are the model's features, or samples where augmentation changes sound; both of
different lengths, one after the other.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import audio
from lmaas.codecs.limits import Limits
from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.tasks.automatic_speech_recognition import features
from lmaas.tasks.automatic_speech_recognition.ctc import QUIET
from lmaas.types import AudioSpec

SCALE: Final = 32_767
"""Samples are kept as whole numbers of 16 bits."""
EDGES: Final = ".npy"


class Recordings:
    """The sounds in a column of a table. `frames` (N,) is how long each is, as the model sees it.

    Raises InvalidInput, with the place, for a sound that does not decode, is too long or is silent.
    """

    def __init__(
        self,
        table: Table,
        column: str,
        spec: AudioSpec,
        folder: Path,
        *,
        longest_s: float,
        raw: bool,
    ) -> None:
        self._spec, self._raw = spec, raw
        told = msgspec.json.encode((table.digest, column, spec, longest_s, raw))
        path = folder / f"{hashlib.sha256(told).hexdigest()}.sound"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._write(table, column, path, longest_s)
        self._edges = np.load(path.with_suffix(EDGES))
        kind = np.int16 if raw else np.float32
        self._values = np.asarray(np.memmap(path, kind, "r"))
        if raw:
            sizes = np.diff(self._edges)
            self.frames = np.array([features.frames_of(int(n), spec) for n in sizes], np.int64)
        else:
            self.frames = np.diff(self._edges) // spec.mel_bins

    def spectrogram(self, row: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(frames, mel_bins) of a sound that was `change`d, where samples are kept."""
        values = self._values[self._edges[row] : self._edges[row + 1]]
        if not self._raw:
            return values.reshape(-1, self._spec.mel_bins)
        sound = change(values.astype(np.float32) / SCALE)
        return features.log_mel(sound, self._spec).T

    def _write(self, table: Table, column: str, path: Path, longest_s: float) -> None:
        part = path.with_suffix(f".{np.random.default_rng().integers(1 << 40):x}")
        edges = np.zeros(len(table) + 1, np.int64)
        try:
            with part.open("wb") as file:
                for row in range(len(table)):
                    values = self._read(table, column, row, longest_s)
                    file.write(values.tobytes())
                    edges[row + 1] = edges[row] + values.size
            np.save(path.with_suffix(EDGES), edges)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _read(self, table: Table, column: str, row: int, longest_s: float) -> Any:
        spec = self._spec
        try:
            data = table.content(column, row)
            sound = audio.decode(data, spec.sample_rate, Limits(max_audio_s=longest_s))
            if np.abs(sound).max() <= QUIET:
                raise InvalidInput("The sound is silent.", hint="Take it out of the data.")
        except InvalidInput as error:
            hint = error.hint
            if "too long" in error.message:
                hint = f"Cut it into sentences, or set data.options.longest_s ({longest_s:g})."
            raise InvalidInput(
                f"{_place(table, column, row)}: {error.message}", hint=hint, param="data"
            ) from None
        if self._raw:
            return np.clip(np.rint(sound * SCALE), -SCALE, SCALE).astype(np.int16)
        return np.ascontiguousarray(features.log_mel(sound, spec).T)


def _place(table: Table, column: str, row: int) -> str:
    name = table.values(column, [row])[0]
    return f"{table.place(row)}, {name[:200]}" if isinstance(name, str) else table.place(row)
