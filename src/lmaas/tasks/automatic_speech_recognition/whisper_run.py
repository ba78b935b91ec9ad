"""One request to Whisper under way: windows that become text, attempt by attempt, in their order.

Knows no payloads and no engine: it asks for sequences and is told what was written.
"""

import codecs
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta
from lmaas.runtime.sequence.calls import SequenceCall, SequencePiece, SequenceResult, Turn
from lmaas.tasks.automatic_speech_recognition import timing, voice, windows
from lmaas.tasks.automatic_speech_recognition.listening import Listener
from lmaas.tasks.automatic_speech_recognition.transcript import (
    LIKELIEST_LOSS,
    MOST_COMPRESSION,
    SILENCE,
    STEP_S,
    Attempt,
    Piece,
    best_of,
    compression_ratio,
    heard_until,
    in_order,
    pieces,
    segment_of,
)
from lmaas.tasks.automatic_speech_recognition.voice import Span
from lmaas.tasks.automatic_speech_recognition.whisper_calls import Asking, Tag
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WhisperTokens
from lmaas.transcription_types import Segment, SpokenToken, TranscribeRequest, Transcript, Word
from lmaas.types import AudioSpec, SequenceSpec

TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""What is tried one after the other where a text looks wrong."""
RESET_ABOVE: Final = 0.5
"""A text of a higher temperature is no prompt for the next window."""
AT_ONCE: Final = 16
"""So many windows of a request are written side by side; each holds its features."""
REST_S: Final = 2.0
"""So much speech after the last word that was written is listened to again."""
LEAST_STEP_S: Final = 1.0
"""A window begins so long after the one before it, at least."""
SURE_TOKENS: Final = 4
"""So many tokens of a window are seen before any of them is sent."""
SEED_STRIDE: Final = 16
NOTHING: Final = np.zeros((0, 0), np.float32)
WINDOW_S: Final = 30.0


class Window:
    """A stretch of the sound on its way to text.

    The first `sent` tokens have gone out and stand fast; the attempt that runs began after `base`.
    """

    def __init__(
        self, number: int, span: Span, features: np.ndarray, before: tuple[int, ...]
    ) -> None:
        self.number = number
        self.span = span
        self.features = features
        self.before = before
        self.tries: list[Attempt] = []
        self.tokens: list[int] = []
        self.scores: list[float] = []
        self.sent = self.base = 0
        self.no_speech: float | None = None
        self.probed = False
        self.accepted: Attempt | None = None
        self.found: list[Piece] = []
        self.words: list[Word] = []
        self.over = False

    @property
    def steps(self) -> int:
        """Its length in steps of 0.02 s."""
        return max(1, round((self.span.end - self.span.start) / STEP_S))


class Run:
    """Begin it, tell it what was written until it is `over`, then ask for the `transcript`."""

    def __init__(
        self,
        known: WhisperTokens,
        request: TranscribeRequest,
        spec: SequenceSpec,
        sound: AudioSpec,
        samples: np.ndarray,
    ) -> None:
        self._known = known
        self._request = request
        self._most_previous = spec.most_target
        self._duration_s = len(samples) / sound.sample_rate
        self._most_s = sound.most_s or WINDOW_S
        self._at_once = 1 if request.previous_text or not request.cut_at_silence else AT_ONCE
        self._asking = Asking(known, request, spec)
        self._temperatures: tuple[float, ...] = TEMPERATURES
        if request.temperature is not None:
            self._temperatures = (request.temperature,)
        self._windows: list[Window] = []
        self._order: list[Window] = []
        self._released = 0
        self._previous: list[int] = []
        self._asked: set[Tag] = set()
        self._pieces: list[Delta] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._told = False
        self._spoken = voice.spans(voice.likelihoods(samples), request.detection, self._duration_s)
        if request.cut_at_silence:
            planned = windows.cut(self._spoken, voice.loudness(samples), self._most_s)
        else:
            planned = [Span(0.0, min(self._most_s, self._duration_s))] if self._spoken else []
        self._waiting = planned
        self._listener = Listener(samples, sound, planned)

    @property
    def over(self) -> bool:
        """Whether all is written."""
        return not self._asked and not self._waiting

    def begin(self) -> Turn:
        """What is asked for first."""
        return self._turn([])

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def take(self, told: SequenceResult | SequencePiece) -> Turn:
        """What is asked for once this was written. Raises what went wrong."""
        tag = told.tag
        window = self._windows[tag.window]
        calls: list[SequenceCall] = []
        if isinstance(told, SequencePiece):
            window.tokens += told.tokens
            window.scores += told.scores
        else:
            self._asked.discard(tag)
            if told.error is not None:
                raise told.error
            if tag.kind == "probe":
                calls = self._measured(window, told)
            elif tag.kind == "text":
                calls = self._wrote(window, told)
            else:
                self._time(window, told)
        self._send()
        return self._turn(calls)

    def transcript(self) -> Transcript:
        """All that was written."""
        request, known = self._request, self._known
        segments: list[Segment] = []
        words: list[Word] = []
        spoken: list[SpokenToken] = []
        texts: list[str] = []
        for window in self._order:
            attempt = window.accepted
            assert attempt is not None
            texts.append(known.text(attempt.tokens))
            words += window.words
            segments += [
                segment_of(piece, attempt, known, window.span.start, window.no_speech)
                for piece in window.found
            ]
            spoken += [
                known.spoken(token, score)
                for token, score in zip(attempt.tokens, attempt.scores, strict=True)
                if known.is_text(token)
            ]
        return Transcript(
            text="".join(texts).strip(),
            duration=round(self._duration_s, 3),
            task="translate" if request.translate else "transcribe",
            language=self._asking.language,
            segments=tuple(in_order(segments, self._duration_s)) if request.segments else None,
            words=tuple(in_order(words, self._duration_s)) if request.words else None,
            logprobs=tuple(spoken) if request.logprobs else None,
        )

    @property
    def written(self) -> int:
        """How many tokens the text has."""
        return sum(len(self._texts(window)) for window in self._order)

    # What is asked for

    def _turn(self, calls: list[SequenceCall]) -> Turn:
        """These calls, those for windows that can begin now, and the text that is ready."""
        if self._asking.language is None:
            if not self._windows and self._waiting:
                calls.append(self._probe(self._open(self._waiting.pop(0))))
        else:
            running = sum(not window.over for window in self._windows)
            while self._waiting and running < self._at_once:
                calls += self._begun(self._open(self._waiting.pop(0)))
                running += 1
        self._asked.update(call.tag for call in calls)
        ready, self._pieces = self._pieces, []
        return Turn(calls=calls, pieces=ready)

    def _open(self, span: Span) -> Window:
        before = self._asking.before(self._previous)
        window = Window(len(self._windows), span, self._listener.hear(span), before)
        self._windows.append(window)
        self._order.append(window)
        self._order.sort(key=lambda each: each.span.start)
        return window

    def _begun(self, window: Window) -> list[SequenceCall]:
        calls = [self._text(window)]
        measured = window.no_speech is not None
        if self._request.segments and self._asking.measures_apart and not measured:
            calls.append(self._probe(window))
        return calls

    def _probe(self, window: Window) -> SequenceCall:
        window.probed = True
        return self._asking.probe(window.number, window.features, window.before)

    def _text(self, window: Window) -> SequenceCall:
        """The next attempt. What was sent already stands fast."""
        window.base = window.sent
        del window.tokens[window.base :], window.scores[window.base :]
        number = len(window.tries)
        return self._asking.text(
            window.number,
            window.features,
            window.before,
            tuple(window.tokens),
            self._temperatures[number],
            window.number * SEED_STRIDE + number,
        )

    # What was written

    def _measured(self, window: Window, told: SequenceResult) -> list[SequenceCall]:
        window.no_speech, *watched = told.watched
        if self._asking.language is None:
            self._asking.language = self._asking.likeliest(watched)
            return self._begun(window)
        if Tag(window.number, "text") not in self._asked and window.accepted is None:
            return self._judge(window)
        return []

    def _wrote(self, window: Window, told: SequenceResult) -> list[SequenceCall]:
        if not told.candidates:
            raise LMaaSError("The model wrote nothing.")
        best = told.candidates[0]
        if told.watched and window.no_speech is None:
            window.no_speech = told.watched[0]
        before = window.scores[: window.base]
        window.tries.append(
            Attempt(
                (*window.tokens[: window.base], *best.tokens),
                (*before, *best.scores),
                best.logprob + sum(before),
                self._temperatures[len(window.tries)],
            )
        )
        return self._judge(window)

    def _judge(self, window: Window) -> list[SequenceCall]:
        """Take the last attempt, or ask for another one."""
        attempt = window.tries[-1]
        doubted = attempt.avg_logprob < LIKELIEST_LOSS
        if doubted and window.no_speech is None:
            if Tag(window.number, "probe") in self._asked:
                return []
            if not window.probed:
                return [self._probe(window)]
        if doubted and (window.no_speech or 0.0) > SILENCE and not window.sent:
            attempt = Attempt((), (), 0.0, attempt.temperature)
        elif doubted or compression_ratio(self._known.text(attempt.tokens)) > MOST_COMPRESSION:
            if len(window.tries) < len(self._temperatures):
                return [self._text(window)]
            if not window.sent:
                attempt = best_of(window.tries, self._known)
        window.accepted = attempt
        window.found = pieces(attempt.tokens, self._known, window.steps)
        self._listen_on(window)
        self._remember(window)
        texts = self._texts(window)
        if self._request.words and texts:
            return [self._asking.aligned(window.number, window.features, texts)]
        self._end(window)
        return []

    def _end(self, window: Window) -> None:
        window.over = True
        window.features = NOTHING  # what follows needs it no more

    def _remember(self, window: Window) -> None:
        """What the next window is shown."""
        assert window.accepted is not None
        if not self._request.previous_text:
            return
        if window.accepted.temperature > RESET_ABOVE:
            self._previous = []
            return
        self._previous += self._texts(window)
        del self._previous[: -self._most_previous]

    def _listen_on(self, window: Window) -> None:
        """Plan what comes after a window, or what of it was not written down."""
        span, heard = window.span, heard_until(window.found)
        if self._request.cut_at_silence:
            rest = Span(span.start + (heard or 0) * STEP_S, span.end)
            begins_later = rest.start >= span.start + LEAST_STEP_S
            if begins_later and windows.spoken_s(self._spoken, rest) > REST_S:
                self._waiting.insert(0, rest)
            return
        if span.end >= self._duration_s - STEP_S:
            if heard is None:
                return
        elif heard is None and len(window.found) > 1:
            heard = self._drop_last(window)
        end = span.end if heard is None else span.start + heard * STEP_S
        rest = Span(max(end, span.start + LEAST_STEP_S), self._duration_s)
        if windows.spoken_s(self._spoken, rest) > LEAST_STEP_S / 4:
            self._waiting.append(Span(rest.start, min(rest.start + self._most_s, rest.end)))

    def _drop_last(self, window: Window) -> int:
        """Leave out the stretch that the window's end cuts: it is heard again, whole."""
        attempt, last = window.accepted, window.found[-1]
        assert attempt is not None
        if window.sent > last.first:
            return window.steps
        scores = attempt.scores[: last.first]
        window.found = window.found[:-1]
        window.accepted = Attempt(
            attempt.tokens[: last.first], scores, sum(scores), attempt.temperature
        )
        return last.start

    def _time(self, window: Window, told: SequenceResult) -> None:
        """When the words are spoken."""
        attempt = window.accepted
        if told.attention is None or attempt is None:
            raise LMaaSError("The model did not say where it looked.")
        begun, texts = len(self._asking.start()), self._texts(window)
        rows = told.attention[:, begun : begun + len(texts) + 1]
        times = timing.token_times(rows, min(window.steps, rows.shape[2]))
        chances = [
            float(np.exp(score))
            for token, score in zip(attempt.tokens, attempt.scores, strict=True)
            if self._known.is_text(token)
        ]
        words = self._known.words(texts, self._asking.language)
        offset = window.span.start
        window.words = [
            msgspec.structs.replace(
                word, word=word.word.strip(), start=word.start + offset, end=word.end + offset
            )
            for word in timing.words_of(words, times, chances)
        ]
        self._end(window)

    def _texts(self, window: Window) -> list[int]:
        tokens = window.accepted.tokens if window.accepted is not None else ()
        return [token for token in tokens if self._known.is_text(token)]

    # What is sent

    def _send(self) -> None:
        """Send the text of windows that are written, and of the first that is being written."""
        while self._released < len(self._order):
            window = self._order[self._released]
            if any(span.start < window.span.start for span in self._waiting):
                return
            if window.accepted is None:
                self._send_begun(window)
                return
            if not window.over:
                return
            self._say(window.accepted.tokens[window.sent :])
            self._released += 1

    def _send_begun(self, window: Window) -> None:
        """Send what of a text that is being written looks right so far."""
        asked = Tag(window.number, "text") in self._asked
        if not self._request.stream or not asked or len(window.tokens) < SURE_TOKENS:
            return
        if len(window.scores) < len(window.tokens):
            return  # a model that does not say how sure it is
        if sum(window.scores) / len(window.scores) < LIKELIEST_LOSS:
            return
        if compression_ratio(self._known.text(window.tokens)) > MOST_COMPRESSION:
            return
        self._say(window.tokens[window.sent :])
        window.sent = len(window.tokens)

    def _say(self, tokens: Sequence[int]) -> None:
        if not self._request.stream:
            return
        texts = [token for token in tokens if self._known.is_text(token)]
        text = self._decoder.decode(b"".join(map(self._known.raw, texts)))
        if not self._told:
            text = text.lstrip()
        if text:
            self._told = True
            self._pieces.append(Delta(0, text, tokens=len(texts), done=self._heard()))

    def _heard(self) -> float:
        """The share of the sound whose text has gone out."""
        window = self._order[min(self._released, len(self._order) - 1)]
        now = window.span.end if window.accepted is not None else window.span.start
        return min(1.0, now / self._duration_s)
