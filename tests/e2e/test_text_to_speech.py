"""A model that speaks: pushed, compared, served, and called with the stock clients."""

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from conftest import Make
from lmaas.accounts.records import Limits
from lmaas.codecs import audio
from lmaas.codecs.limits import Limits as AudioLimits
from lmaas.config import Settings
from lmaas.errors import ModelRefused
from lmaas.service import Service
from lmaas.speech_types import SpeechFormat
from lmaas.types import TENANT, PushOptions
from servers import Running, serving, usage_rows
from speech_checkpoint import make_speecht5

NEVER_QUIET = -20.0
"""So that each text is spoken as long as it may be, 0.32 s for each token, and tests know it."""
TEXT = "hello there. it is a fine day. is it not?"


def seconds(text: str) -> float:
    """How long a sentence is spoken: its characters, a blank before and `</s>` after it."""
    return 0.32 * (len(text) + 2)


SECONDS = sum(map(seconds, ("hello there.", "it is a fine day.", "is it not?")))


def push(home: Path, checkpoint: Path, name: str = "voice") -> None:
    service = Service(Settings(home=str(home)))
    try:
        asyncio.run(service.catalog.push(TENANT, checkpoint, PushOptions(name=name)))
    finally:
        service.close()


def publish(home: Path) -> None:
    checkpoint = make_speecht5(home.parent / f"{home.name}-speecht5", steps_bias=NEVER_QUIET)
    push(home, checkpoint)


@pytest.fixture(scope="module")
def voice(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("voice") / "home"
    shutil.copytree(once("voice", publish), home)
    with serving(home, heartbeat_s=0.5) as running:
        yield running


def client_of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.call_key, max_retries=0)


def test_its_checks_are_kept(voice: Running) -> None:
    (version,) = httpx.get(f"{voice.url}/api/models", headers=voice.admin, timeout=60).json()
    assert version["manifest"]["task"] == "text-to-speech"
    assert version["manifest"]["signature"]["speech"]["voices"] == ["adam", "bella"]
    checks = version["parity"]["checks"]
    assert len(checks) == 3
    assert all(check["passed"] and check["max_scaled_error"] < 1e-3 for check in checks)
    assert "chance" in version["parity"]["notes"][0]


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_each_format_for_the_stock_client(voice: Running, kind: SpeechFormat) -> None:
    answer = client_of(voice).audio.speech.create(
        model="voice", voice="bella", input=TEXT, response_format=kind
    )
    data = answer.content
    if kind == "pcm":
        assert abs(len(data) / 2 / 24_000 - SECONDS) < 0.01
        return
    sound = audio.decode(data, 16_000, AudioLimits())
    assert abs(sound.size / 16_000 - SECONDS) < 0.15
    assert np.abs(sound).max() > 0.01
    assert answer.response.headers["x-lmaas-model"] == "voice:1"


def test_it_comes_sentence_by_sentence(voice: Running) -> None:
    speech = client_of(voice).audio.speech
    with speech.with_streaming_response.create(
        model="voice", voice="adam", input=TEXT, response_format="pcm"
    ) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        parts = list(answer.iter_bytes())
    assert abs(sum(map(len, parts)) / 2 / 24_000 - SECONDS) < 0.01
    body = {"model": "voice", "input": TEXT, "response_format": "mp3", "stream_format": "sse"}
    url = f"{voice.url}/v1/audio/speech"
    with httpx.stream("POST", url, json=body, headers=voice.caller, timeout=60) as stream:
        lines = [line for line in stream.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "speech.audio.done"
    assert set(kinds[:-1]) == {"speech.audio.delta"}
    assert len(kinds) > 3
    assert events[-1]["usage"]["input_tokens"] == len(TEXT)
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    sound = audio.decode(data, 16_000, AudioLimits())
    assert abs(sound.size / 16_000 - SECONDS) < 0.15


def test_speed_is_honoured(voice: Running) -> None:
    for speed in (0.5, 2.0):
        data = (
            client_of(voice)
            .audio.speech.create(
                model="voice", voice="adam", input="hello there", response_format="wav", speed=speed
            )
            .content
        )
        with wave.open(io.BytesIO(data)) as file:
            length = file.getnframes() / file.getframerate()
        assert abs(length * speed / seconds("hello there") - 1) < 0.03


def test_the_stock_hugging_face_client(voice: Running) -> None:
    client = InferenceClient(model=f"{voice.url}/models/voice", token=voice.call_key)
    with wave.open(io.BytesIO(client.text_to_speech("hello"))) as file:
        assert abs(file.getnframes() / file.getframerate() - seconds("hello")) < 0.01
    data = client.text_to_speech(
        "hello", extra_body={"voice": "bella", "response_format": "mp3", "speed": 2.0}
    )
    assert audio.decode(data, 16_000, AudioLimits()).size > 0


def test_voices_differ(voice: Running) -> None:
    sounds = []
    for name in ("adam", "bella", {"id": "bella"}):
        body = {"model": "voice", "input": "hello", "voice": name, "response_format": "wav"}
        answer = httpx.post(
            f"{voice.url}/v1/audio/speech", json=body, headers=voice.caller, timeout=60
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "audio/wav"
        sounds.append(audio.decode(answer.content, 16_000, AudioLimits()))
    apart = np.abs(sounds[0] - sounds[1]).mean()
    assert apart > 3 * np.abs(sounds[1] - sounds[2]).mean()


REFUSED = {
    "no text": ({"input": ""}, "input"),
    "blanks": ({"input": " \n "}, "input"),
    "nothing to say": ({"input": "... !"}, "input"),
    "a long text": ({"input": "a" * 4097}, "input"),
    "a digit": ({"input": "room 9"}, "input"),
    "a voice": ({"voice": "alloy"}, "voice"),
    "instructions": ({"instructions": "Whisper."}, "instructions"),
    "a format": ({"response_format": "ogg"}, "response_format"),
    "a speed": ({"speed": 5}, "speed"),
    "a stream": ({"stream_format": "json"}, "stream_format"),
    "a field": ({"pitch": 2}, "pitch"),
}


@pytest.mark.parametrize(("change", "param"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    voice: Running, change: dict[str, object], param: str
) -> None:
    body = {"model": "voice", "input": "hello"} | change
    answer = httpx.post(f"{voice.url}/v1/audio/speech", json=body, headers=voice.caller, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    if param == "voice":
        assert "adam, bella" in error["message"]
    if body["input"] == "room 9":
        assert "'9'" in error["message"]


def test_it_is_called_no_other_way(voice: Running) -> None:
    answer = httpx.post(
        f"{voice.url}/models/voice", content=b"\x00\x01", headers=voice.caller, timeout=60
    )
    assert answer.status_code == 400
    body = {"inputs": "hello", "parameters": {"temperature": 1}}
    answer = httpx.post(f"{voice.url}/models/voice", json=body, headers=voice.caller, timeout=60)
    assert "temperature" in answer.json()["error"]
    infer = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    answer = httpx.post(
        f"{voice.url}/v2/models/voice/infer", json=infer, headers=voice.caller, timeout=60
    )
    assert "speech" in answer.json()["error"]
    chat = {"model": "voice", "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(
        f"{voice.url}/v1/chat/completions", json=chat, headers=voice.caller, timeout=60
    )
    assert "text-to-speech" in answer.json()["error"]["message"]


def test_characters_are_accounted_for_and_bounded(voice: Running) -> None:
    service = Service(Settings(home=str(voice.home)))
    record, key = service.create_key(TENANT, "few", ("call",), Limits(tokens_per_minute=20))
    service.close()
    headers = {"authorization": f"Bearer {key}"}
    url, body = f"{voice.url}/v1/audio/speech", {"model": "voice", "input": "hello there"}
    assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    answer = httpx.post(url, json=body, headers=headers, timeout=60)
    assert answer.status_code == 429
    deadline = time.monotonic() + 20
    while not (rows := usage_rows(voice.home, record.id)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [(status, prompt) for status, prompt, *_ in rows] == [("ok", len("hello there"))]
    report = httpx.get(f"{voice.url}/v1/usage", headers=headers, timeout=60).json()
    assert abs(report["data"][0]["audio_s"] - seconds("hello there")) < 0.01


def test_who_leaves_ends_it_and_pays_for_what_was_spoken(voice: Running) -> None:
    service = Service(Settings(home=str(voice.home)))
    record, key = service.create_key(TENANT, "leaver", ("call",))
    service.close()
    text = "it is a fine day, is it not. " * 100
    body = {"model": "voice", "input": text, "response_format": "pcm"}
    url, headers = f"{voice.url}/v1/audio/speech", {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as stream:
        next(stream.iter_raw())
    # The next caller does not wait for the rest.
    client_of(voice).audio.speech.create(model="voice", voice="adam", input="hello")
    deadline = time.monotonic() + 20
    while not (rows := usage_rows(voice.home, record.id)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ((status, prompt, _, _),) = rows
    assert status == "cancelled"
    assert 0 < prompt < len(text)


def test_a_worker_that_dies_breaks_what_was_begun_and_nothing_else(voice: Running) -> None:
    body = {"model": "voice", "input": TEXT * 50, "response_format": "pcm"}
    url = f"{voice.url}/v1/audio/speech"
    with httpx.stream("POST", url, json=body, headers=voice.caller, timeout=60) as stream:
        parts = stream.iter_raw()
        next(parts)
        workers = httpx.get(f"{voice.url}/api/workers", headers=voice.admin, timeout=60).json()
        os.kill(workers[0]["pid"], signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    answer = client_of(voice).audio.speech.create(
        model="voice", voice="adam", input="hello", response_format="wav"
    )
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getnframes() > 0


def test_a_long_text_does_not_hold_up_a_short_one(voice: Running) -> None:
    long = {"model": "voice", "input": TEXT * 60, "response_format": "pcm"}
    short = {"model": "voice", "input": "hello", "response_format": "wav"}
    url = f"{voice.url}/v1/audio/speech"
    with httpx.stream("POST", url, json=long, headers=voice.caller, timeout=60) as stream:
        parts = stream.iter_raw()  # Without a name it would be closed at once.
        next(parts)
        assert httpx.post(url, json=short, headers=voice.caller, timeout=60).status_code == 200
        workers = httpx.get(f"{voice.url}/api/workers", headers=voice.admin, timeout=60).json()
        assert workers[0]["queued"] == 1  # the long one, which is still being spoken
        del parts


def test_what_is_no_voice_is_refused(tmp_path: Path) -> None:
    checkpoint = make_speecht5(tmp_path / "checkpoint")
    vocoder = checkpoint / "vocoder"
    vocoder.rename(tmp_path / "vocoder")
    with pytest.raises(ModelRefused, match="vocoder"):
        push(tmp_path / "home", checkpoint)
    (tmp_path / "vocoder").rename(vocoder)
    pickled = checkpoint / "voices" / "eve.npy"
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ModelRefused, match="eve"):
        push(tmp_path / "home", checkpoint)
    kokoro = tmp_path / "kokoro"
    kokoro.mkdir()
    (kokoro / "config.json").write_text(json.dumps({"istftnet": {}, "plbert": {}, "vocab": {}}))
    (kokoro / "kokoro-v1_0.pth").write_bytes(b"PK")
    with pytest.raises(ModelRefused, match="Kokoro"):
        push(tmp_path / "home", kokoro)
    np.save(pickled, np.zeros(7, np.float32))
    with pytest.raises(ModelRefused, match="eve has 7 numbers"):
        push(tmp_path / "home", checkpoint)
