"""CTC models: letters with times, windows that show nowhere, and what cannot be honoured."""

import base64
import json
from typing import Any

import jiwer
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sounds
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import Task, Tensors
from lmaas.tasks.automatic_speech_recognition import ctc, lattice, overlapping, score
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet, Convolution
from lmaas.tasks.automatic_speech_recognition.serving import SpeechRecognition
from lmaas.transcription_types import TranscribeRequest, Transcript
from lmaas.types import JSON, TRANSCRIBE, AudioSpec, Payload, Signature, TensorSpec

LETTERS = ("<blank>", "|", "a", "b", "c", "<unk>")
ALPHABET = Alphabet(
    tokens=LETTERS,
    delimiter=1,
    silent=(5,),
    convolutions=(Convolution(kernel=320, stride=320),),
)
STEP_S = 320 / 16_000
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, -1)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, -1, len(LETTERS))),),
    audio=AudioSpec(),
    outputs_are="logits",
)
TASK = SpeechRecognition(ALPHABET)
BEEPS = {200: 2, 400: 3, 800: 4}
"""Which letter a tone of so many Hz is to the model below."""


def beeps(text: str, pause_s: float = 0.1) -> np.ndarray:
    """Each letter a tone of 0.1 s, between words and letters silence."""
    hertz = {LETTERS[token]: tone for tone, token in BEEPS.items()}
    parts = []
    for letter in text:
        if letter == " ":
            parts.append(np.zeros(int(0.2 * 16_000), np.float32))
        else:
            tone = sounds.tone(0.1, hertz[letter])
            parts += [tone, np.zeros(int(pause_s * 16_000), np.float32)]
    return np.concatenate(parts)


def model(arrays: Tensors) -> Tensors:
    """Hears tones: the letter of the strongest one, a gap after a longer silence, else blank."""
    samples = arrays["x"]
    steps = samples[:, : samples.shape[1] // 320 * 320].reshape(len(samples), -1, 320)
    spectra = np.abs(np.fft.rfft(steps, axis=2))
    logits = np.zeros((*steps.shape[:2], len(LETTERS)), np.float32)
    logits[..., 0] = 6
    for hertz, token in BEEPS.items():
        logits[..., token] = 12 * (spectra[..., hertz // 50] > 20)
    quiet = np.abs(steps).max(axis=2) < 1e-3
    for row in range(len(samples)):
        for step in range(8, steps.shape[1]):
            if quiet[row, step - 8 : step + 1].all():
                logits[row, step, 1] = 12
    return {"y": logits}


def answer(task: Task, payload: Payload, limits: Limits | None = None) -> Any:
    batch = task.read(payload, SIGNATURE, limits or Limits())
    parts = batch.parts or ([batch] if batch.arrays else [])
    ran = [model(part.arrays) for part in parts]
    outputs = {"y": np.concatenate([each["y"] for each in ran])} if ran else {}
    return json.loads(task.write(outputs, batch, SIGNATURE, "m:1").body)


def called(sound: np.ndarray, **parameters: Any) -> Payload:
    text = base64.b64encode(sounds.wav(sound)).decode()
    body = json.dumps({"inputs": text, "parameters": parameters}).encode()
    return Payload(body=body, media_type=JSON)


def asked(sound: np.ndarray, **more: Any) -> Payload:
    request = TranscribeRequest(audio=sounds.wav(sound), **more)
    return Payload(body=msgspec.msgpack.encode(request), media_type=TRANSCRIBE)


def test_a_file_and_its_base64_give_one_text() -> None:
    sound = beeps("abc cab bb")
    assert answer(TASK, Payload(body=sounds.wav(sound))) == {"text": "abc cab bb"}
    assert answer(TASK, called(sound)) == {"text": "abc cab bb"}


def test_times_are_those_of_the_sound() -> None:
    sound = np.concatenate([np.zeros(16_000, np.float32), beeps("ab c")])
    words = answer(TASK, called(sound, return_timestamps="word"))["chunks"]
    assert words == [
        {"text": "ab", "timestamp": [1.0, 1.3]},
        {"text": "c", "timestamp": [1.6, 1.7]},
    ]
    letters = answer(TASK, called(sound, return_timestamps="char"))["chunks"]
    assert [each["text"] for each in letters] == ["a", "b", "c"]
    assert letters[1]["timestamp"] == [1.2, 1.3]
    (whole,) = answer(TASK, called(sound, return_timestamps=True))["chunks"]
    assert whole == {"text": "ab c", "timestamp": [1.0, 1.7]}


def test_a_pause_parts_segments_and_their_probabilities_are_measured() -> None:
    sound = np.concatenate([beeps("ab"), np.zeros(32_000, np.float32), beeps("ba")])
    made = msgspec.convert(
        answer(TASK, asked(sound, words=True, segments=True, logprobs=True)), Transcript
    )
    assert made.text == "ab ba"
    assert made.duration == pytest.approx(2.8)
    assert made.segments is not None
    assert [each.text for each in made.segments] == ["ab", "ba"]
    for each in made.segments:
        assert each.avg_logprob is not None
        assert -0.1 < each.avg_logprob < 0
        assert each.no_speech_prob is not None
        assert 0 < each.no_speech_prob < 1e-6
        assert each.compression_ratio == pytest.approx(2 / 10)
    assert made.words is not None
    sure = float(np.exp(12) / (np.exp(12) + np.exp(6) + 4))
    assert made.words[0].probability == pytest.approx(sure, rel=1e-4)
    assert made.logprobs is not None
    assert "".join(each.token for each in made.logprobs).strip() == "ab ba"
    assert made.logprobs[0].logprob == pytest.approx(np.log(sure), rel=1e-2)


def test_windows_show_nowhere() -> None:
    random = np.random.default_rng(0)
    text = " ".join("".join(random.choice(list("abc"), 4)) for _ in range(90))
    sound = beeps(text)
    assert len(sound) / 16_000 > 3 * overlapping.WINDOW_S
    batch = TASK.read(Payload(body=sounds.wav(sound)), SIGNATURE, Limits())
    assert len({part.arrays["x"].shape[1] for part in batch.parts}) == 1
    assert answer(TASK, Payload(body=sounds.wav(sound))) == {"text": text}
    words = answer(TASK, called(sound, return_timestamps="word"))["chunks"]
    at = 0.0
    for word in words:
        assert word["timestamp"][0] == pytest.approx(at, abs=0.021)
        at += 4 * 0.2 + 0.2


@pytest.mark.parametrize("seconds", [0.001, 1, 100])
def test_silence_has_no_text(seconds: float) -> None:
    sound = np.zeros(max(1, int(seconds * 16_000)), np.float32)
    assert answer(TASK, Payload(body=sounds.wav(sound))) == {"text": ""}
    assert answer(TASK, called(sound, return_timestamps="word")) == {"text": "", "chunks": []}
    made = answer(TASK, asked(sound, words=True, segments=True))
    assert (made["text"], made["words"], made["segments"]) == ("", [], [])
    assert made["duration"] == pytest.approx(seconds, abs=1e-4)


def test_what_a_model_makes_up_of_silence_is_left_out() -> None:
    sound = np.concatenate([beeps("ab"), np.zeros(64_000, np.float32)])
    batch = TASK.read(Payload(body=sounds.wav(sound)), SIGNATURE, Limits())
    outputs = model(batch.arrays)
    outputs["y"][:, -50:, 4] = 20
    assert json.loads(TASK.write(outputs, batch, SIGNATURE, "m:1").body) == {"text": "ab"}


def test_who_has_limits_is_measured_and_nothing_runs() -> None:
    sound = beeps("ab")
    for payload in (Payload(body=sounds.wav(sound)), called(sound), asked(sound)):
        counting = msgspec.structs.replace(payload, count_only=True)
        batch = TASK.read(counting, SIGNATURE, Limits())
        assert not batch.arrays
        assert not batch.parts
        told = TASK.write({}, batch, SIGNATURE, "m:1")
        assert told.body == b""
        assert told.audio_s == pytest.approx(len(sound) / 16_000)


@pytest.mark.parametrize("pause_s", [0.0, 0.4, 1.0, 1.8])
def test_a_letter_that_is_written_in_the_pause_before_it_is_kept(pause_s: float) -> None:
    """Networks write the first letter where a file begins, or where a sentence before it ends."""
    pause = np.zeros(int(pause_s * 16_000), np.float32)
    sound = np.concatenate([pause, beeps("ab")])
    batch = TASK.read(Payload(body=sounds.wav(sound), parameters={}), SIGNATURE, Limits())
    batch.parameters["chunks"] = "word"
    outputs = model(batch.arrays)
    outputs["y"][:, :, 1] = 0
    first = int(pause_s / STEP_S)
    outputs["y"][:, first : first + 5] = [6, 0, 0, 0, 0, 0]
    outputs["y"][:, 0, 2] = 20
    told = json.loads(TASK.write(outputs, batch, SIGNATURE, "m:1").body)
    assert told["text"] == "ab"
    ((start, end),) = [each["timestamp"] for each in told["chunks"]]
    assert start == pytest.approx(pause_s, abs=2 * STEP_S)
    assert end > start


def test_usage_is_the_length_of_the_sound() -> None:
    batch = TASK.read(Payload(body=sounds.wav(beeps("abc"))), SIGNATURE, Limits())
    told = TASK.write(model(batch.arrays), batch, SIGNATURE, "m:1")
    assert told.audio_s == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"language": "en"}, "language"),
        ({"translate": True}, "translate"),
        ({"prompt": "Hello"}, "prompt"),
        ({"temperature": 0.4}, "temperature"),
        ({"beams": 4}, "beams"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_ctc_cannot_do_is_refused_by_name(more: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        TASK.read(asked(beeps("a"), **more), SIGNATURE, Limits())
    assert caught.value.param == told


def test_greedy_can_be_asked_for() -> None:
    assert answer(TASK, asked(beeps("ab"), temperature=0.0, beams=1))["text"] == "ab"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"inputs": "no base64!"}', "not base64"),
        (b'{"inputs": [1]}', "base64"),
        (b'{"inputs": "AAAA", "parameters": {"language": "en"}}', "language"),
        (b'{"inputs": "AAAA", "parameters": {"return_timestamps": "letter"}}', "letter"),
        (b'{"inputs": "AAAA"}', "not a sound"),
    ],
)
def test_bad_calls(body: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        TASK.read(Payload(body=body, media_type=JSON), SIGNATURE, Limits())


def test_a_sound_over_the_limit() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 2 s"):
        answer(TASK, Payload(body=sounds.wav(beeps("abc" * 5))), Limits(max_audio_s=2))


def test_outputs_that_are_no_numbers() -> None:
    batch = TASK.read(Payload(body=sounds.wav(beeps("a"))), SIGNATURE, Limits())
    outputs = model(batch.arrays)
    outputs["y"][0, 0, 0] = np.nan
    with pytest.raises(LMaaSError, match="NaN"):
        TASK.write(outputs, batch, SIGNATURE, "m:1")


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=9).map(" ".join)


@settings(deadline=None)
@given(WORDS.filter(bool), WORDS)
def test_error_rates_are_those_of_jiwer(said: str, heard: str) -> None:
    tally = score.Tally()
    tally.add(heard, said)
    found = tally.result()
    assert found["wer"] == pytest.approx(jiwer.wer(said, heard))
    assert found["cer"] == pytest.approx(jiwer.cer(said, heard))


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_a_texts_probability_is_that_of_all_its_alignments(tokens: list[int], seed: int) -> None:
    import torch

    values = np.random.default_rng(seed).standard_normal((9, 5)).astype(np.float32)
    scores = lattice.log_probabilities(values)
    wanted = torch.nn.functional.ctc_loss(
        torch.from_numpy(scores)[:, None], torch.tensor([tokens]), (9,), (len(tokens),),
        reduction="sum",
    )  # fmt: skip
    found = -lattice.log_probability(scores, tokens, 0)
    assert found == pytest.approx(float(wanted), rel=1e-4)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 90))
def test_windows_have_all_samples(total: int, block: int) -> None:
    sound = np.arange(total, dtype=np.float32)
    parts = [sound[at : at + block] for at in range(0, total, block)]
    found = list(overlapping.windows(parts, 100, 40, 10))
    assert [each.last for each in found] == [False] * (len(found) - 1) + [True]
    seen = np.zeros(total, bool)
    for each in found:
        assert each.start % 10 == 0
        assert np.array_equal(each.samples, sound[each.start : each.start + len(each.samples)])
        assert len(each.samples) == 100 or each.last
        seen[each.start : each.start + len(each.samples)] = True
    assert seen.all()
    # Outputs that say where they are come together as they are.
    outputs = [(each.start // 10 + np.arange(10, dtype=np.float32))[:, None] for each in found]
    steps = found[-1].start // 10 + 10
    whole = overlapping.stitched(outputs, [each.start // 10 for each in found], steps)
    assert np.array_equal(whole[:, 0], np.arange(steps))


@pytest.mark.parametrize("size", [1, 13, 32, 33, 100, 1000, 2999, 3001])
def test_lengths_are_filled_up_by_little(size: int) -> None:
    assert size <= ctc.even(size) <= max(size + ctc.EVEN_FRAMES, 1.13 * size)
    assert ctc.even(ctc.even(size)) == ctc.even(size)
