"""What Whisper's decoder is asked: prompts, what is suppressed, what is measured.

Source: Radford et al. 2022 and its reference implementation. Knows no results.
"""

from typing import Final, Literal, NamedTuple

import numpy as np

from lmaas.runtime.sequence.calls import Decoding, SequenceCall
from lmaas.tasks.automatic_speech_recognition.transcript import STEP_S
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WhisperTokens
from lmaas.transcription_types import TranscribeRequest
from lmaas.types import SequenceSpec

FIRST_TIME_S: Final = 1.0
"""The first time of a window is at most this."""

Kind = Literal["probe", "text", "words"]


class Tag(NamedTuple):
    """Which window a sequence is for, and what it is: the text, a measurement, words' times."""

    window: int
    kind: Kind


class Asking:
    """The calls of one request, whose `language` is a code or not known yet."""

    def __init__(
        self, known: WhisperTokens, request: TranscribeRequest, spec: SequenceSpec
    ) -> None:
        self.language = request.language if spec.languages else "en"
        self._known = known
        self._request = request
        self._spec = spec
        self._beams = request.beams or spec.beams
        hint = (request.prompt or "").strip()
        self._hint = known.encode(f" {hint}") if hint else []

    @property
    def measures_apart(self) -> bool:
        """Whether silence takes a call of its own: the answer does not begin right at the start."""
        return bool(self._spec.languages)

    def before(self, previous: list[int]) -> tuple[int, ...]:
        """What a window is shown before its text: what was written before it, or the hint."""
        tokens = previous or self._hint
        most = self._spec.most_target // 2 - 1
        return (self._known.previous, *tokens[-most:]) if tokens else ()

    def start(self) -> tuple[int, ...]:
        """The tokens with which an answer begins."""
        known = self._known
        if not self._spec.languages:
            return (known.start,)
        assert self.language is not None
        task = known.translate if self._request.translate else known.transcribe
        return known.start, self._spec.languages[self.language], task

    def likeliest(self, chances: list[float]) -> str:
        """The language with the highest of the measured chances."""
        return list(self._spec.languages)[int(np.argmax(chances))]

    def probe(self, window: int, source: np.ndarray, before: tuple[int, ...]) -> SequenceCall:
        """How likely silence and each language are: the first token after the start."""
        prompt = (*before, self._known.start)
        return SequenceCall(
            tag=Tag(window, "probe"),
            source=source,
            decoding=Decoding(
                prompt=prompt,
                max_tokens=len(prompt) + 1,
                watched=(self._known.no_speech, *self._spec.languages.values()),
                stop_token_ids=self._spec.stop_token_ids,
            ),
        )

    def text(
        self,
        window: int,
        source: np.ndarray,
        before: tuple[int, ...],
        fast: tuple[int, ...],
        temperature: float,
        seed: int,
    ) -> SequenceCall:
        """The text of a window with its times, after the tokens that stand `fast` already."""
        spec, known = self._spec, self._known
        prompt = (*before, *self.start(), *fast)
        room = max(1, spec.most_target // 2 - len(fast))
        return SequenceCall(
            tag=Tag(window, "text"),
            source=source,
            decoding=Decoding(
                prompt=prompt,
                max_tokens=min(spec.most_target, len(prompt) + room),
                beams=1 if temperature else self._beams,
                temperature=temperature,
                seed=seed if temperature else None,
                length_penalty=spec.length_penalty,
                suppressed=spec.suppressed,
                suppressed_first=() if fast else spec.suppressed_first,
                stop_token_ids=spec.stop_token_ids,
                # The rules of times look at the answer's own tokens, of which `fast` are none.
                timestamps=None if fast else known.times,
                most_first_timestamp=None if fast else round(FIRST_TIME_S / STEP_S),
                watched=() if fast or self.measures_apart else (known.no_speech,),
                scores=True,
            ),
            stream=self._request.stream,
        )

    def aligned(self, window: int, source: np.ndarray, texts: list[int]) -> SequenceCall:
        """The text once more, to see where the decoder looks while it writes it."""
        prompt = (*self.start(), self._known.no_times, *texts, self._known.end)
        return SequenceCall(
            tag=Tag(window, "words"),
            source=source,
            decoding=Decoding(
                prompt=prompt,
                max_tokens=len(prompt) + 1,
                stop_token_ids=self._spec.stop_token_ids,
                attention=True,
            ),
        )
