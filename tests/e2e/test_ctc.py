"""A CTC checkpoint on a real server, asked by stock clients; what is bad is refused by name."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

import sounds
from checkpoints import make_ctc
from conftest import Make, copied
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving


def push_ears(home: Path) -> None:
    service = Service(Settings(home=str(home)))
    source = make_ctc(home / "checkpoint", "wav2vec2", "layer")
    asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="ears")))
    service.close()


@pytest.fixture(scope="module")
def ears(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = copied(once("ctc", push_ears), tmp_path_factory)
    with serving(home, load_timeout_s=300.0, max_audio_s=120.0) as running:
        yield running


@pytest.fixture(scope="module")
def stock(ears: Running) -> InferenceClient:
    return InferenceClient(model=f"{ears.url}/models/ears", token=ears.call_key)


def noise(seconds: float, seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    return sounds.wav((0.1 * random.standard_normal(int(seconds * 16_000))).astype(np.float32))


def asked(ears: Running, body: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ears.call_key}"}
    return httpx.post(f"{ears.url}/models/ears", content=body, headers=headers, timeout=120)


def test_hugging_faces_client_sends_bytes_and_json(stock: InferenceClient) -> None:
    plain = stock.automatic_speech_recognition(noise(2.0))
    assert plain.text
    assert plain.chunks is None
    timed = stock.automatic_speech_recognition(noise(2.0), extra_body={"return_timestamps": "word"})
    assert timed.text == plain.text
    assert timed.chunks is not None
    assert " ".join(each.text for each in timed.chunks) == plain.text
    ends = [each.timestamp[1] for each in timed.chunks]
    assert ends == sorted(ends)
    assert 0 < ends[-1] <= 2.0


@pytest.mark.parametrize("name", ["aiff", "flac", "opus", "mp3", "m4a", "webm", "aac"])
def test_workers_read_every_format(ears: Running, name: str) -> None:
    answer = asked(ears, sounds.files(1.0)[name])
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"text"}


def test_openais_client_is_given_what_is_measured(ears: Running) -> None:
    client = openai.OpenAI(base_url=f"{ears.url}/v1", api_key=ears.call_key, max_retries=0)
    told = client.audio.transcriptions.create(
        model="ears",
        file=("a.wav", noise(2.0)),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert told.duration == pytest.approx(2.0)
    assert told.words
    assert told.segments
    assert all(each.avg_logprob < 0 for each in told.segments)
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.audio.transcriptions.create(model="ears", file=("a.wav", noise(1)), prompt="Hello")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.audio.transcriptions.create(model="ears", file=("a.wav", noise(1)), temperature=0.5)


def test_callers_together_hear_what_each_hears_alone(stock: InferenceClient) -> None:
    given = [noise(0.5 + 0.11 * number, number) for number in range(12)]
    alone = [stock.automatic_speech_recognition(each).text for each in given]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda each: stock.automatic_speech_recognition(each).text, given))
    assert found == alone


def test_a_long_sound_is_heard_in_windows(stock: InferenceClient) -> None:
    told = stock.automatic_speech_recognition(noise(70.0), extra_body={"return_timestamps": "word"})
    assert told.chunks is not None
    assert told.chunks[-1].timestamp[1] > 65


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"#EXTM3U\nhttp://127.0.0.1:1/a.mp3\n", 400, "application/x-mpegurl"),
        (sounds.wav(sounds.tone(0)), 400, "no samples"),
        (sounds.wav(sounds.tone(130, rate=8000), 8000), 413, "at most 120 s"),
        (b"RIFF0000WAVEfmt ", 400, "damaged"),
        (json.dumps({"inputs": "!"}).encode(), 400, "base64"),
    ],
)
def test_bad_sounds_are_refused_by_name(
    ears: Running, stock: InferenceClient, body: bytes, status: int, told: str
) -> None:
    stock.automatic_speech_recognition(noise(0.5))
    answer = asked(ears, body)
    assert answer.status_code == status, answer.text
    assert told in answer.text


def test_silence_has_no_text(stock: InferenceClient) -> None:
    silent = sounds.wav(np.zeros(32_000, np.float32))
    assert stock.automatic_speech_recognition(silent).text == ""
