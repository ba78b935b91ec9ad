"""A model that speaks, by OpenVINO GenAI's pipeline: one piece of text at a time, as sound.

A folder has the pipeline's graphs, `tokenizer.json` and `voices.safetensors`: a vector for each
voice. Speed is made of the sound itself, so that every model has it.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.codecs.time_stretch import stretch
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.runtime import ov
from lmaas.types import SpeechSpec

VOICES: Final = "voices.safetensors"
DEFAULT_VOICE: Final = "default"
BUILT_IN_DIMENSIONS: Final = 512
"""A model without voices whose vectors have so many numbers speaks with the pipeline's own."""
TOKENIZER: Final = "tokenizer.json"
MOST_SHOWN: Final = 10
MAX_LENGTH_RATIO: Final = 20.0
"""Frames of sound for each token of text at most, as in transformers' `generate_speech`."""


class SpeechEngine:
    """One loaded voice model. For one thread at a time."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._unknown: int | None = None
        self._voices: dict[str, np.ndarray | None] = {}
        self._spec: SpeechSpec | None = None

    def warm(self) -> None:
        """Import what `load` takes; it may be called before the files are there."""
        ov.load()
        import openvino_genai  # noqa: F401
        import tokenizers  # noqa: F401

    def load(self, folder: Path, spec: SpeechSpec, threads: int) -> None:
        """Make the model in `folder` ready; `threads` 0 means all cores. Raises InvalidInput."""
        ov.load()
        import openvino_genai
        from tokenizers import Tokenizer

        self._spec = spec
        vectors = read_voices(folder / VOICES) if (folder / VOICES).is_file() else {}
        missing = [name for name in spec.voices if name not in vectors]
        if missing == [DEFAULT_VOICE] and not vectors:
            missing = []
        if missing:
            raise InvalidInput(f"{VOICES} lacks the voices {', '.join(missing)}.")
        self._voices = {name: vectors.get(name) for name in spec.voices}
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._unknown = self._tokenizer.token_to_id("<unk>")
        bounds = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self._pipeline = openvino_genai.Text2SpeechPipeline(
            folder, "CPU", INFERENCE_PRECISION_HINT="f32", **bounds
        )

    def voice(self, name: str | None) -> str:
        """The voice of this name; None: the default. Raises InvalidInput, which lists them."""
        assert self._spec is not None
        known = self._spec.voices
        if name is None:
            return known[0]
        if name not in known:
            listed = ", ".join(known[:50])
            raise InvalidInput(
                f"There is no voice {name!r}.", hint=f"Voices are {listed}.", param="voice"
            )
        return name

    def check(self, text: str) -> None:
        """Raises InvalidInput for characters that the model has not learned to say, and for a text
        that has more tokens than characters, and too many."""
        assert self._spec is not None
        told = self._tokenizer.encode(text)
        if len(told.ids) > self._spec.most_chars + 2:
            raise InvalidInput(
                "The text has signs that stand for many letters.",
                hint="Write them out, or make the sentence shorter.",
                param="input",
            )
        places = [
            place
            for token, place in zip(told.ids, told.offsets, strict=True)
            if token == self._unknown
        ]
        if places:
            foreign = sorted({char for start, end in places for char in text[start:end]})
            shown = ", ".join(repr(char) for char in foreign[:MOST_SHOWN])
            raise InvalidInput(
                f"The model cannot say {shown}.",
                hint="Write it in words: numbers and signs are not read out.",
                param="input",
            )

    def say(self, text: str, voice: str, speed: float) -> np.ndarray:
        """`text` as (T,) float32 samples at the model's rate."""
        assert self._spec is not None
        sound = self.speak(text, self._voices[voice])
        if not np.isfinite(sound).all():
            raise LMaaSError("The model's sound has values that are no numbers.")
        return stretch(sound, speed, self._spec.sample_rate)

    def speak(self, text: str, vector: np.ndarray | None) -> np.ndarray:
        """`text` in the voice of a vector (D,); None: the pipeline's own. As `say` otherwise."""
        result = self._pipeline.generate(
            text,
            None if vector is None else ov.load().Tensor(vector[None]),
            minlenratio=0.0,
            maxlenratio=MAX_LENGTH_RATIO,
        )
        return np.array(result.speeches[0].data, np.float32).reshape(-1)

    def close(self) -> None:
        """Release the model."""
        self._pipeline = None


def read_voices(path: Path) -> dict[str, np.ndarray]:
    """The vector of each voice, (D,) float32. Raises InvalidInput."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        vectors: dict[str, np.ndarray] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {str(error)[:200]}.") from None
    for name, vector in vectors.items():
        if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise InvalidInput(f"The voice {name!a} is no vector of finite float32 numbers.")
    return vectors
