"""Whisper's conversation, with answers that are written here instead of by a model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.runtime.sequence.calls import SequenceCall, SequencePiece, SequenceResult, Written
from lmaas.tasks.automatic_speech_recognition import voice
from lmaas.tasks.automatic_speech_recognition.whisper import Whisper
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import WhisperTokens
from lmaas.transcription_types import TranscribeRequest, Transcript
from lmaas.types import TRANSCRIBE, Answer, AudioSpec, Payload, SequenceSpec, Signature
from sounds import wav

WORDS = [chr(code) for code in range(33, 127)]
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>",
           "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
BLANK = "\u0120"
FIRST = len(WORDS) + 1
IDS = {name: FIRST + place for place, name in enumerate(SPECIAL)}
TIMES = FIRST + len(SPECIAL)
END, START, PREVIOUS = IDS["<|endoftext|>"], IDS["<|startoftranscript|>"], IDS["<|startofprev|>"]
RATE = 16_000
Answering = Callable[[SequenceCall], SequenceResult]


@pytest.fixture(autouse=True)
def loudness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where `silero-vad` is not installed: the noise of these tests is no speech to it."""
    monkeypatch.setattr(voice, "_network", lambda: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer that spells letter by letter, and a config with alignment heads."""
    vocabulary = {word: place for place, word in enumerate([*WORDS, BLANK])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for name, i in IDS.items()
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "generation_config.json").write_text('{"alignment_heads": [[0, 0]]}')
    return tmp_path


def signature(*, languages: bool = True) -> Signature:
    return Signature(
        inputs=(),
        outputs=(),
        audio=AudioSpec(features="log-mel", scale="whisper", most_s=30.0),
        sequence=SequenceSpec(
            architecture="whisper",
            source="audio",
            most_source=3000,
            most_target=448,
            vocabulary_size=TIMES + 1501,
            start=(START,),
            stop_token_ids=(END,),
            languages={"de": IDS["<|de|>"], "en": IDS["<|en|>"]} if languages else {},
        ),
    )


def spell(text: str) -> list[int]:
    return [len(WORDS) if letter == " " else WORDS.index(letter) for letter in text]


def timed(text: str, start: float, end: float) -> list[int]:
    return [TIMES + round(start / 0.02), *spell(text), TIMES + round(end / 0.02)]


def said(
    call: SequenceCall, tokens: Sequence[int], each: float = -0.1, **more: Any
) -> SequenceResult:
    """That these tokens were written, each with this log probability."""
    watched = tuple(0.9 if token == IDS["<|de|>"] else 0.1 for token in call.decoding.watched)
    written = Written(
        tokens=tuple(tokens),
        finish="stop",
        logprob=each * (len(tokens) + 1),
        scores=(each,) * len(tokens),
    )
    return SequenceResult(**{"tag": call.tag, "candidates": (written,), "watched": watched} | more)


class Heard:
    """A conversation that was held: its calls, pieces and answer."""

    def __init__(
        self, folder: Path, request: TranscribeRequest, answering: Answering, **more: Any
    ) -> None:
        body = msgspec.msgpack.encode(request)
        talk = Whisper.bind(folder).converse(
            Payload(media_type=TRANSCRIBE, body=body), signature(**more), Limits()
        )
        self.calls: list[SequenceCall] = []
        self.pieces: list[str] = []
        waiting: list[SequenceCall] = []
        try:
            turn = next(talk)
            while True:
                self.pieces += [piece.text for piece in turn.pieces]
                self.calls += turn.calls
                waiting += turn.calls
                if not waiting:
                    turn = talk.send(None)
                    continue
                call = waiting.pop(0)
                result = answering(call)
                if call.stream and result.candidates:
                    for token, score in zip(
                        result.candidates[0].tokens, result.candidates[0].scores, strict=True
                    ):
                        piece = SequencePiece(tag=call.tag, tokens=(token,), scores=(score,))
                        turn = talk.send(piece)
                        self.pieces += [each.text for each in turn.pieces]
                turn = talk.send(result)
        except StopIteration as end:
            answer: Answer = end.value
        self.answer = answer
        self.transcript = msgspec.json.decode(answer.body, type=Transcript)

    @property
    def texts(self) -> list[SequenceCall]:
        return [call for call in self.calls if call.tag.kind == "text"]


def sound(*lengths: float) -> bytes:
    """Noise as loud as speech of these lengths, with pauses of 2 s between."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for length in lengths:
        parts += [rng.normal(0, 0.1, int(length * RATE)), np.zeros(2 * RATE)]
    return wav(np.concatenate(parts).astype(np.float32) + 1e-5)


def test_the_language_is_told_by_the_model_and_then_asked_for(folder: Path) -> None:
    heard = Heard(
        folder,
        TranscribeRequest(audio=sound(4)),
        lambda call: said(call, timed(" Guten Tag.", 0, 4)),
    )
    probe, text = heard.calls
    assert probe.tag.kind == "probe"
    assert probe.decoding.prompt == (START,)
    assert text.decoding.prompt == (START, IDS["<|de|>"], IDS["<|transcribe|>"])
    assert text.source is probe.source
    assert (heard.transcript.text, heard.transcript.language) == ("Guten Tag.", "de")
    assert heard.answer.new_tokens == len(" Guten Tag.")


def test_translation_prompt_and_previous_text_stand_in_the_prompt(folder: Path) -> None:
    request = TranscribeRequest(
        audio=sound(28, 28), language="de", translate=True, prompt="Ada", previous_text=True
    )
    heard = Heard(folder, request, lambda call: said(call, timed(" One.", 0, 28)))
    first, second = (call.decoding.prompt for call in heard.texts)
    start = (START, IDS["<|de|>"], IDS["<|translate|>"])
    assert first == (PREVIOUS, *spell(" Ada"), *start)
    assert second == (PREVIOUS, *spell(" One."), *start)
    assert heard.transcript.task == "translate"


def test_what_spells_a_special_token_is_none(folder: Path) -> None:
    request = TranscribeRequest(audio=sound(3), language="en", prompt="<|endoftext|>")
    heard = Heard(folder, request, lambda call: said(call, timed(" A.", 0, 3)))
    assert END not in heard.texts[0].decoding.prompt


def test_windows_of_a_request_are_asked_for_at_once(folder: Path) -> None:
    heard = Heard(
        folder,
        TranscribeRequest(audio=sound(28, 28, 28), language="en", segments=True),
        lambda call: said(call, timed(f" W{call.tag.window}.", 0, 28)),
    )
    assert heard.transcript.text == "W0. W1. W2."
    assert heard.transcript.segments is not None
    starts = [segment.start for segment in heard.transcript.segments]
    assert starts == pytest.approx([0, 29.7, 59.7], abs=0.4)


def test_a_text_that_looks_wrong_is_tried_again_at_higher_temperatures(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        if call.tag.kind == "probe":
            return said(call, [], watched=(0.1, 0.5, 0.5))
        if call.decoding.temperature == 0:
            return said(call, timed(" la" * 40, 0, 4))
        if call.decoding.temperature == 0.2:
            return said(call, timed(" dim", 0, 4), each=-2.0)
        return said(call, timed(" clear", 0, 4))

    heard = Heard(folder, TranscribeRequest(audio=sound(4), language="en", segments=True), answer)
    assert [call.decoding.temperature for call in heard.texts] == [0.0, 0.2, 0.4]
    assert heard.transcript.text == "clear"
    assert heard.transcript.segments is not None
    (segment,) = heard.transcript.segments
    assert segment.temperature == 0.4
    assert segment.no_speech_prob == 0.1
    seeds = [call.decoding.seed for call in heard.texts]
    again = Heard(folder, TranscribeRequest(audio=sound(4), language="en"), answer)
    assert [call.decoding.seed for call in again.texts] == seeds


def test_a_temperature_that_was_asked_for_is_the_only_one(folder: Path) -> None:
    request = TranscribeRequest(audio=sound(4), language="en", temperature=0.7)
    heard = Heard(folder, request, lambda call: said(call, timed(" la" * 40, 0, 4)))
    assert [call.decoding.temperature for call in heard.texts] == [0.7]


def test_loops_at_all_temperatures_end_with_the_best(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        tries = 60 - round(call.decoding.temperature * 10)
        return said(call, timed(" la" * tries, 0, 4))

    heard = Heard(folder, TranscribeRequest(audio=sound(4), language="en"), answer)
    assert len(heard.texts) == 6
    assert heard.transcript.text == ("la " * 50).strip()
    assert all(call.decoding.max_tokens <= 3 + 224 for call in heard.texts)


def test_a_text_that_is_not_believed_where_nobody_speaks_is_none(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        if call.tag.kind == "probe":
            return said(call, [], watched=(0.95, 0.1, 0.1))
        return said(call, timed(" you", 0, 1), each=-1.5)

    heard = Heard(folder, TranscribeRequest(audio=sound(4), language="en"), answer)
    assert [call.tag.kind for call in heard.calls] == ["text", "probe"]
    assert heard.transcript.text == ""


def test_speech_after_what_was_written_is_heard_again(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        return said(call, timed(f" P{call.tag.window}.", 0, 10))

    heard = Heard(folder, TranscribeRequest(audio=sound(25, 20), language="en"), answer)
    # 25 s of speech in steps of 10 s: 3 calls, and 2 for the 20 s after the pause.
    assert len(heard.texts) == 5
    words = heard.transcript.text.split()
    assert sorted(words) == ["P0.", "P1.", "P2.", "P3.", "P4."]


def test_windows_follow_the_text_where_nothing_is_cut(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        tokens = timed(f" W{call.tag.window}.", 0, 20)
        rest = [TIMES + 1000, *spell(" cut")] if call.tag.window == 0 else []
        return said(call, [*tokens, *rest])

    request = TranscribeRequest(audio=sound(38), language="en", cut_at_silence=False, segments=True)
    heard = Heard(folder, request, answer)
    assert heard.transcript.text == "W0. W1."
    assert heard.transcript.segments is not None
    assert [segment.start for segment in heard.transcript.segments] == [0.0, 20.0]


def test_streamed_pieces_are_the_text_and_what_was_sent_stands(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        number, fast = call.tag.window, call.decoding.prompt[3:]
        if number == 0 and not fast:
            return said(call, [*timed(" Sure then", 0, 4), *spell(" la" * 60)])
        if number == 0:
            assert call.decoding.timestamps is None
            return said(call, [*spell("!"), TIMES + 200])
        return said(call, timed(f" W{number}.", 0, 28))

    request = TranscribeRequest(audio=sound(28, 28), language="en", stream=True)
    heard = Heard(folder, request, answer)
    assert "".join(heard.pieces) == heard.transcript.text
    assert len(heard.pieces) > 8
    assert heard.transcript.text.startswith("Sure then")
    assert heard.transcript.text.endswith("W1.")


def test_words_come_from_where_the_heads_looked(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        if call.tag.kind != "words":
            return said(call, timed(" ab cd.", 0, 4))
        looked = np.full((1, len(call.decoding.prompt) + 1, 1500), 1e-4, np.float32)
        for row in range(looked.shape[1]):
            looked[0, row, max(0, row - 3) * 20 : max(0, row - 3) * 20 + 20] = 1
        return said(call, [], attention=looked)

    heard = Heard(folder, TranscribeRequest(audio=sound(4), language="en", words=True), answer)
    last = heard.calls[-1]
    assert last.decoding.attention
    assert last.decoding.prompt[-1] == END
    assert heard.transcript.words is not None
    assert [word.word for word in heard.transcript.words] == ["ab", "cd."]
    first, second = heard.transcript.words
    assert first.start < first.end <= second.start < second.end <= 6
    assert first.probability == pytest.approx(np.exp(-0.1))


@pytest.mark.parametrize(
    ("more", "languages", "param"),
    [
        ({"language": "xx"}, True, "language"),
        ({"language": "de"}, False, "language"),
        ({"translate": True}, False, "task"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    folder: Path, more: dict[str, Any], languages: bool, param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        Heard(folder, TranscribeRequest(audio=sound(1), **more), said_nothing, languages=languages)
    assert refused.value.param == param
    if languages:
        assert "de, en" in refused.value.message


def said_nothing(call: SequenceCall) -> SequenceResult:
    raise AssertionError("nothing is asked")


def test_words_are_refused_without_alignment_heads(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    with pytest.raises(InvalidInput, match="alignment_heads"):
        Heard(folder, TranscribeRequest(audio=sound(1), words=True), said_nothing)


def test_an_error_of_a_sequence_ends_the_request(folder: Path) -> None:
    def answer(call: SequenceCall) -> SequenceResult:
        return SequenceResult(tag=call.tag, error=LMaaSError("broken"))

    with pytest.raises(LMaaSError, match="broken"):
        Heard(folder, TranscribeRequest(audio=sound(2), language="en"), answer)


def test_seconds_are_measured_without_hearing(folder: Path) -> None:
    body = msgspec.msgpack.encode(TranscribeRequest(audio=sound(4)))
    payload = Payload(media_type=TRANSCRIBE, body=body, count_only=True)
    talk = Whisper.bind(folder).converse(payload, signature(), Limits())
    with pytest.raises(StopIteration) as end:
        next(talk)
    assert end.value.value.audio_s == pytest.approx(6.0)
    assert end.value.value.new_tokens >= 40


def test_a_folder_without_whispers_tokenizer_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InvalidInput, match="none of Whisper's"):
        WhisperTokens(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match="no tokenizer"):
        WhisperTokens(folder)
