"""Real speech through a real Whisper, asked by stock clients; what is bad is refused by name."""

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import pytest
import soundfile
from huggingface_hub import InferenceClient

from conftest import Make, copied
from lmaas.accounts.records import Limits, Price
from lmaas.client import Client
from lmaas.errors import InvalidInput
from servers import Running, push_whisper, serving

pytestmark = pytest.mark.timeout(900)

BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of Light, it was the season of Darkness, it was the spring of hope, it was the winter "
    "of despair, we had everything before us, we had nothing before us, we were all going direct "
    "to Heaven, we were all going direct the other way -- in short, the period was so far like the "
    "present period, that some of its noisiest authorities insisted on its being received, for "
    "good or for evil, in the superlative degree of comparison only."
)
RATE = 16_000


def folder_of(package: str) -> Path:
    found = find_spec(package)
    assert found is not None, package
    assert found.origin is not None, package
    return Path(found.origin).parent


def spoken(name: str) -> bytes:
    return (folder_of("moonshine_voice") / "assets" / f"{name}.wav").read_bytes()


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def hearing(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = copied(once("whisper", push_whisper), tmp_path_factory)
    with serving(home, load_timeout_s=300.0, cached_models="whisper") as running:
        yield running


@pytest.fixture(scope="module")
def asking(hearing: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{hearing.url}/v1", api_key=hearing.call_key, max_retries=0)


def errors(heard: str, said: str) -> float:
    plain = [re.sub(r"[^a-z ]", "", text.lower()).strip() for text in (said, heard)]
    return float(jiwer.wer(re.sub(" +", " ", plain[0]), re.sub(" +", " ", plain[1])))


def test_known_words_are_recognised_in_every_format(asking: openai.OpenAI) -> None:
    sound = ("beckett.wav", spoken("beckett"))
    heard = asking.audio.transcriptions.create(model="whisper", file=sound)
    assert errors(heard.text, BECKETT) <= 0.1
    assert heard.usage is not None
    assert heard.usage.type == "duration"
    assert heard.usage.seconds == pytest.approx(9.96, abs=0.1)
    plain = asking.audio.transcriptions.create(
        model="whisper", file=sound, response_format="text", language="en"
    )
    assert plain == f"{heard.text}\n"
    verbose = asking.audio.transcriptions.create(
        model="whisper",
        file=sound,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert verbose.language == "english"
    assert verbose.duration == pytest.approx(9.96, abs=0.1)
    assert verbose.segments is not None
    for before, after in zip(verbose.segments, verbose.segments[1:], strict=False):
        assert before.start <= before.end <= after.start + 0.01
    for segment in verbose.segments:
        assert -1 < segment.avg_logprob < 0
        assert 0 < segment.no_speech_prob < 0.6
        assert 0 < segment.compression_ratio < 2.4
        assert segment.temperature == 0
        assert segment.tokens
    assert verbose.words is not None
    assert errors(" ".join(word.word for word in verbose.words), BECKETT) <= 0.1
    assert all(word.start <= word.end <= verbose.duration for word in verbose.words)
    starts = [word.start for word in verbose.words]
    assert starts == sorted(starts)
    # "Fail" of "Fail better" is spoken after eight of the ten seconds.
    assert 7.5 < starts[-2] < 9.0
    only = asking.audio.transcriptions.create(
        model="whisper", file=sound, response_format="verbose_json",
        timestamp_granularities=["word"],
    )  # fmt: skip
    assert only.words
    assert only.segments is None


def test_subtitles_are_well_formed(asking: openai.OpenAI) -> None:
    sound = ("beckett.wav", spoken("beckett"))
    srt = asking.audio.transcriptions.create(model="whisper", file=sound, response_format="srt")
    blocks = str(srt).strip().split("\n\n")
    time_ = r"\d\d:\d\d:\d\d[,.]\d\d\d"
    for number, block in enumerate(blocks, 1):
        first, times, text = block.split("\n")
        assert first == str(number)
        assert re.fullmatch(f"{time_} --> {time_}", times)
        assert text.strip()
    vtt = asking.audio.transcriptions.create(model="whisper", file=sound, response_format="vtt")
    head, *cues = str(vtt).strip().split("\n\n")
    assert head == "WEBVTT"
    assert len(cues) == len(blocks)
    for cue in cues:
        assert re.match(f"{time_} --> {time_}\n.", cue)


def test_a_stream_is_the_text_piece_by_piece(asking: openai.OpenAI) -> None:
    sound = ("beckett.wav", spoken("beckett"))
    events = list(
        asking.audio.transcriptions.create(
            model="whisper", file=sound, stream=True, prompt="Samuel Beckett reads."
        )
    )
    *deltas, done = events
    assert done.type == "transcript.text.done"
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 3
    assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
    assert errors(done.text, BECKETT) <= 0.1


def test_token_probabilities_are_told(asking: openai.OpenAI) -> None:
    heard = asking.audio.transcriptions.create(
        model="whisper", file=("a.wav", spoken("beckett")), include=["logprobs"]
    )
    assert heard.logprobs is not None
    told = b"".join(bytes(map(int, each.bytes or ())) for each in heard.logprobs)
    assert told.decode().strip() == heard.text
    assert all(each.logprob is not None and each.logprob <= 0 for each in heard.logprobs)


def test_long_sound_is_heard_in_windows_and_in_order(asking: openai.OpenAI) -> None:
    samples, rate = soundfile.read(io.BytesIO(spoken("two_cities")), dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([samples, samples]), rate, format="FLAC")
    heard = asking.audio.transcriptions.create(
        model="whisper", file=("long.flac", file.getvalue()), response_format="verbose_json"
    )
    assert heard.duration == pytest.approx(2 * len(samples) / rate, abs=0.1)
    assert errors(heard.text, f"{TWO_CITIES} {TWO_CITIES}") <= 0.05
    assert heard.segments is not None
    starts = [segment.start for segment in heard.segments]
    assert starts == sorted(starts)
    assert starts[-1] > 80


def test_silence_has_no_text(asking: openai.OpenAI) -> None:
    silence = ("silence.wav", wav(np.zeros(RATE * 5, np.float32)))
    for kind, expected in (("text", "\n"), ("srt", ""), ("vtt", "WEBVTT\n")):
        told = asking.audio.transcriptions.create(
            model="whisper",
            file=silence,
            response_format=kind,  # type: ignore[call-overload]
        )
        assert told == expected
    verbose = asking.audio.transcriptions.create(
        model="whisper", file=silence, response_format="verbose_json"
    )
    assert (verbose.text, verbose.segments) == ("", [])
    noise = np.random.default_rng(0).normal(0, 0.02, RATE * 5).astype(np.float32)
    heard = asking.audio.transcriptions.create(model="whisper", file=("noise.wav", wav(noise)))
    assert heard.text == ""


def test_hugging_faces_client_sends_bytes_or_json(hearing: Running) -> None:
    client = InferenceClient(model=f"{hearing.url}/models/whisper", token=hearing.call_key)
    heard = client.automatic_speech_recognition(spoken("beckett"))
    assert errors(heard.text, BECKETT) <= 0.1
    timed = client.automatic_speech_recognition(
        spoken("beckett"), extra_body={"return_timestamps": True}
    )
    assert timed.chunks
    assert "".join(chunk.text for chunk in timed.chunks).strip() == heard.text
    words = client.automatic_speech_recognition(
        spoken("beckett"), extra_body={"return_timestamps": "word"}
    )
    assert words.chunks is not None
    assert len(words.chunks) == 12


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"return_timestamps": "letter"}, "return_timestamps"),
        ({"generate_kwargs": {"language": "de"}}, "English only"),
        ({"generate_kwargs": {"task": "translate"}}, "does not translate"),
        ({"generate_kwargs": {"num_beams": 99}}, "num_beams"),
        ({"generate_kwargs": {"top_k": 3}}, "top_k"),
        ({"best_of": 3}, "best_of"),
    ],
)
def test_hugging_face_parameters_that_cannot_be_honoured(
    hearing: Running, parameters: dict[str, Any], told: str
) -> None:
    body = {"inputs": "aGVsbG8=", "parameters": parameters}
    answer = httpx.post(
        f"{hearing.url}/models/whisper", json=body, headers=hearing.caller, timeout=120
    )
    assert answer.status_code == 400
    assert told in answer.json()["error"]


def form(hearing: Running, data: dict[str, Any], file: bytes, door: str = "transcriptions") -> Any:
    return httpx.post(
        f"{hearing.url}/v1/audio/{door}",
        data={"model": "whisper"} | data,
        files={"file": ("a.wav", file)},
        headers=hearing.caller,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("file", "data", "param"),
    [
        (b"no sound", {}, None),
        (b"", {}, "file"),
        (b"#EXTM3U\nhttp://127.0.0.1/secret.mp3\n", {}, None),
        (wav(np.full(RATE, np.nan, np.float32))[:44], {}, None),
        (wav(np.zeros(RATE, np.float32)), {"language": "de"}, "language"),
        (wav(np.zeros(RATE, np.float32)), {"language": "klingon"}, "language"),
        (wav(np.zeros(RATE, np.float32)), {"response_format": "diarized_json"}, "response_format"),
        (wav(np.zeros(RATE, np.float32)), {"best_of": "2"}, "best_of"),
        (wav(np.zeros(RATE, np.float32)), {"model": "nothing"}, "model"),
    ],
)
def test_bad_input_is_refused_with_what_is_wrong(
    hearing: Running, file: bytes, data: dict[str, Any], param: str | None
) -> None:
    answer = form(hearing, data, file)
    assert answer.status_code in (400, 404)
    told = answer.json()["error"]
    assert told["message"]
    if param is not None:
        assert told["param"] == param


def test_a_model_of_another_task_does_not_hear(hearing: Running) -> None:
    answer = form(hearing, {"model": "whisper", "chunking_strategy[type]": "client_vad"}, b"x")
    assert answer.status_code == 400


def test_too_large_a_file_is_refused(hearing: Running) -> None:
    answer = form(hearing, {}, bytes((25 << 20) + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "file"


def test_an_english_model_does_not_translate(hearing: Running, asking: openai.OpenAI) -> None:
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.BadRequestError, match="does not translate"),
    ):
        asking.audio.translations.create(model="whisper", file=("a.wav", spoken("beckett")))


def usage(hearing: Running, key: str) -> dict[str, Any]:
    query = {"group_by": "model", "key": key}
    answer = httpx.get(f"{hearing.url}/v1/usage", params=query, headers=hearing.admin)
    found: list[dict[str, Any]] = answer.json()["data"]
    return found[0] if found else {}


def test_seconds_of_sound_are_metered_priced_and_bounded(hearing: Running) -> None:
    with Client(hearing.url, hearing.key) as admin:
        admin.set_price("whisper", Price(audio_minute_micro=60_000))
        record, text = admin.create_key("bounded", ["call"], Limits(budget_micro=15_000))
        try:
            with Client(hearing.url, text) as caller:
                heard = caller.transcribe("whisper", spoken("beckett"), prompt="Not kept.")
                assert errors(heard.text, BECKETT) <= 0.1
                row = usage(hearing, record.id)
                assert row["audio_s"] == pytest.approx(9.963, abs=0.01)
                assert row["cost_micro"] == pytest.approx(9_964, abs=10)
                assert row["completion_tokens"] > 10
                refused = httpx.post(
                    f"{hearing.url}/models/whisper",
                    content=spoken("beckett"),
                    headers={"authorization": f"Bearer {text}"},
                    timeout=120,
                )
                assert refused.status_code == 429
                assert usage(hearing, record.id)["audio_s"] == row["audio_s"]
        finally:
            admin.set_price("whisper", Price())


def test_who_has_used_up_a_limit_is_not_heard(hearing: Running) -> None:
    with Client(hearing.url, hearing.key) as admin:
        _, text = admin.create_key("once", ["call"], Limits(requests_per_minute=1))
    with Client(hearing.url, text) as caller:
        caller.transcribe("whisper", spoken("clone-test"))
    for door in ("transcriptions", "translations"):
        answer = httpx.post(
            f"{hearing.url}/v1/audio/{door}",
            data={"model": "whisper"},
            files={"file": ("a.wav", spoken("clone-test"))},
            headers={"authorization": f"Bearer {text}"},
            timeout=120,
        )
        assert answer.status_code == 429, answer.text
        assert int(answer.headers["retry-after"]) > 0


def test_the_same_sound_is_answered_from_memory(hearing: Running) -> None:
    sound = spoken("clone-test")
    first, second = (form(hearing, {"language": "en"}, sound) for _ in range(2))
    assert (first.headers["x-lmaas-cache"], second.headers["x-lmaas-cache"]) == ("miss", "hit")
    assert first.json() == second.json()
    other = form(hearing, {"language": "en", "prompt": "x"}, sound)
    assert other.headers["x-lmaas-cache"] == "miss"


def test_who_hangs_up_is_not_worked_for(hearing: Running) -> None:
    with Client(hearing.url, hearing.key) as admin:
        record, text = admin.create_key("gone", ["call"], Limits(concurrent=1))
    samples, rate = soundfile.read(io.BytesIO(spoken("two_cities")), dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.tile(samples, 6), rate, format="FLAC")
    with httpx.stream(
        "POST",
        f"{hearing.url}/v1/audio/transcriptions",
        data={"model": "whisper", "stream": "true"},
        files={"file": ("a.flac", file.getvalue())},
        headers={"authorization": f"Bearer {text}"},
        timeout=120,
    ) as response:
        next(line for line in response.iter_lines() if line.startswith("data:"))
    end = time.monotonic() + 10
    while not (row := usage(hearing, record.id)).get("cancelled"):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert row["failed"] == 0


def command(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "lmaas", "predict", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_files_are_written_down_one_after_the_other(hearing: Running, tmp_path: Path) -> None:
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    one.write_bytes(spoken("beckett"))
    two.write_bytes(wav(np.zeros(RATE, np.float32)))
    server = ("--url", hearing.url, "--key", hearing.call_key)
    assert errors(command("whisper", str(one), *server), BECKETT) <= 0.1
    out = tmp_path / "told"
    command("whisper", str(one), str(two), "--format", "srt", "--out", str(out), *server)
    assert (out / "one.srt").read_text().startswith("1\n00:00:0")
    assert (out / "two.srt").read_text() == ""
    told = json.loads(command("whisper", str(one), "--words", "--language", "en", *server))
    assert len(told["words"]) == 12
    with (
        Client(hearing.url, hearing.call_key) as client,
        pytest.raises(InvalidInput, match="English only"),
    ):
        client.transcribe("whisper", one, language="fr")
