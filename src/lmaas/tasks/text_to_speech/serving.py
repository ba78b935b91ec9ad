"""The task `text-to-speech`: a text in, sound out.

Its requests are `speech_types.SpeakRequest`s, which a worker of its own answers; the predictive
path of arrays has no part in it and is refused by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors
from lmaas.tasks.text_to_speech.spec import SPEC
from lmaas.types import Answer, Payload, Signature

HOW = 'Send a text to /v1/audio/speech, or {"inputs": "a text"} to /models/NAME.'


class TextToSpeechTask:
    """Text in, sound out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """The task itself: it reads no requests."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """A model that speaks says its `speech` and has no tensors, labels or image."""
        speech = signature.speech
        if speech is None:
            raise InvalidInput("A text-to-speech model needs signature.speech.")
        for field in ("inputs", "outputs", "labels", "image", "outputs_are", "language"):
            if getattr(signature, field):
                raise InvalidInput(f"The task text-to-speech takes no {field}.", param=field)
        least = min(speech.most_chars, speech.sample_rate)
        if not speech.voices or least < 1 or speech.most_s_per_token <= 0:
            raise InvalidInput("signature.speech needs a voice, a rate and a longest text.")
        return signature

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Refuses: a model that speaks is not called with arrays."""
        raise InvalidInput("This model speaks: it is not called this way.", hint=HOW)

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Refuses: a model that speaks does not answer with arrays."""
        raise InvalidInput("This model speaks: it does not answer this way.", hint=HOW)

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Waveforms are compared as they are."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """The error of `outputs["waveform"]` (T,) against `targets` (T,)."""
        largest = max(float(np.abs(targets).max()), 1e-9)
        return {"waveform_error": float(np.abs(outputs["waveform"] - targets).max()) / largest}

    def shown(self, result: Any) -> Shown:
        """Refuses: a model that speaks does not answer with JSON."""
        raise InvalidInput("This model speaks: it does not answer this way.", hint=HOW)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """Refuses: a model that speaks is not called with rows."""
        raise InvalidInput("This model speaks: it is not called this way.", hint=HOW)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """Refuses: a model that speaks does not answer with rows."""
        raise InvalidInput("This model speaks: it does not answer this way.", hint=HOW)


TASK: Task = TextToSpeechTask()
