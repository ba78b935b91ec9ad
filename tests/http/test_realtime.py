"""Live transcription over a WebSocket, as OpenAI's client speaks it.

What writes down stands in for a model here; tests/e2e has a real one.
"""

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from wsproto.utilities import generate_accept_token

from lmaas.codecs import pcm
from lmaas.config import Settings
from lmaas.errors import InvalidInput, ModelNotFound
from lmaas.http.connections import Connections
from lmaas.http.exchange import Exchange
from lmaas.http.realtime_session import LONGEST_TURN_S, RealtimeSession
from lmaas.http.websocket import SocketClosed
from lmaas.serving.turns import TurnDetector
from lmaas.transcription_types import SpokenToken, TranscribeRequest, Transcript

RATE = 24_000


def tone(seconds: float, amplitude: float = 0.3, rate: int = RATE) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    return (np.sin(2 * np.pi * 220 * at) * amplitude * 32767).astype(np.int16)


def hiss(seconds: float, amplitude: float = 0.002, rate: int = RATE) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(int(seconds * rate))
    return (noise * amplitude * 32767).astype(np.int16)


def read_wav(data: bytes) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


class Listener:
    """Writes down how long each turn is, in words as they come."""

    def __init__(self) -> None:
        self.heard: list[TranscribeRequest] = []
        self.go = asyncio.Event()
        self.go.set()

    async def known(self, model: str) -> None:
        if model != "ears":
            raise ModelNotFound(f"No model {model!r}.", param="model")

    async def hear(
        self, model: str, request: TranscribeRequest
    ) -> AsyncGenerator[str | Transcript, None]:
        self.heard.append(request)
        await self.go.wait()
        if request.prompt == "fail":
            raise InvalidInput("This sound is none.", param="file")
        if request.prompt == "break":
            raise KeyError("a bug")
        rate, samples = read_wav(request.audio)
        told = f"{len(samples) / rate:.2f} s"
        for word in told.split():
            yield f"{word} "
        logprobs = (SpokenToken("a", b"a", -0.5),) if request.logprobs else None
        yield Transcript(text=told, duration=len(samples) / rate, logprobs=logprobs)


@asynccontextmanager
async def listening(listener: Listener, model: str | None = "ears") -> AsyncIterator[int]:
    async def app(exchange: Exchange) -> None:
        assert exchange.path == "/v1/realtime"
        key = exchange.headers[b"sec-websocket-key"]
        socket = exchange.switch(generate_accept_token(key), None)
        session = RealtimeSession(
            socket, listener.hear, listener.known, model=model, expires_at=2_000_000_000
        )
        try:
            await session.run()
        except SocketClosed:
            pass
        finally:
            exchange.hang_up()

    connections = Connections(app, Settings())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections.make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.drain(0)


class Talk:
    """A client that says and hears events."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.told: list[dict[str, Any]] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.client.send(json.dumps({"type": kind, **fields}))

    async def append(self, sound: np.ndarray | bytes) -> None:
        data = sound if isinstance(sound, bytes) else sound.tobytes()
        await self.say("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(await asyncio.wait_for(self.client.recv(), 20))
            self.told.append(event)
            if event["type"] == kind:
                return event

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.told]


@asynccontextmanager
async def talking(listener: Listener, model: str | None = "ears") -> AsyncIterator[Talk]:
    async with (
        listening(listener, model) as port,
        connect(f"ws://127.0.0.1:{port}/v1/realtime") as client,
    ):
        talk = Talk(client)
        await talk.until("session.created")
        yield talk


MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


def test_turns_are_found_and_written_down_for_the_stock_client() -> None:
    import openai

    async def run() -> tuple[list[Any], Listener]:
        listener = Listener()
        async with listening(listener) as port:
            client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k")
            told = []
            async with client.realtime.connect(extra_query={"intent": "transcription"}) as there:
                await there.session.update(
                    session={
                        "type": "transcription",
                        "audio": {
                            "input": {
                                "format": {"type": "audio/pcm", "rate": 24000},
                                "transcription": {"model": "ears", "language": "en"},
                                "turn_detection": {
                                    "type": "server_vad",
                                    "threshold": 0.5,
                                    "prefix_padding_ms": 200,
                                    "silence_duration_ms": 400,
                                },
                            }
                        },
                        "include": ["item.input_audio_transcription.logprobs"],
                    }
                )
                sound = np.concatenate([hiss(1), tone(1.5), hiss(1), tone(0.5), hiss(1)])
                for start in range(0, len(sound), 2400):
                    data = base64.b64encode(sound[start : start + 2400].tobytes()).decode()
                    await there.input_audio_buffer.append(audio=data)
                done = 0
                async for event in there:
                    told.append(event)
                    done += event.type.endswith("completed")
                    if done == 2:
                        break
            await client.close()
            return told, listener

    told, listener = asyncio.run(run())
    kinds = [event.type for event in told]
    transcription = "conversation.item.input_audio_transcription"
    turn = [
        "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
        f"{transcription}.delta", f"{transcription}.delta", f"{transcription}.completed",
    ]  # fmt: skip
    assert kinds[:2] == ["session.created", "session.updated"]
    assert sorted(kinds[2:]) == sorted(turn * 2)
    started = [event for event in told if event.type.endswith("speech_started")]
    stopped = [event for event in told if event.type.endswith("speech_stopped")]
    committed = [event for event in told if event.type.endswith("committed")]
    assert abs(started[0].audio_start_ms - 800) <= 40
    assert abs(stopped[0].audio_end_ms - 2900) <= 60
    assert abs(started[1].audio_start_ms - 3300) <= 40
    assert committed[0].item_id == started[0].item_id
    assert committed[1].previous_item_id == started[0].item_id
    first, second = (event for event in told if event.type.endswith("completed"))
    assert abs(first.usage.seconds - 2.1) < 0.1
    assert abs(second.usage.seconds - 1.1) < 0.1
    assert first.transcript == f"{first.usage.seconds:.2f} s"
    assert [each.logprob for each in first.logprobs] == [-0.5]
    assert [request.language for request in listener.heard] == ["en", "en"]
    rate, samples = read_wav(listener.heard[0].audio)
    assert rate == RATE
    assert np.abs(samples).max() > 9000


def test_a_client_that_commits_itself() -> None:
    async def run() -> None:
        listener = Listener()
        async with talking(listener) as talk:
            await talk.say("session.update", session=MANUAL)
            updated = await talk.until("session.updated")
            assert updated["session"]["audio"]["input"]["turn_detection"] is None
            assert updated["session"]["audio"]["input"]["transcription"] == {"model": "ears"}
            sound = tone(0.75).tobytes()
            for start in range(0, len(sound), 999):  # a sample may be cut in two
                await talk.append(sound[start : start + 999])
            await talk.say("input_audio_buffer.commit")
            completed = await talk.until("conversation.item.input_audio_transcription.completed")
            assert completed["transcript"] == "0.75 s"
            assert "logprobs" not in completed
            assert np.array_equal(read_wav(listener.heard[0].audio)[1], tone(0.75))
            await talk.append(tone(0.5))
            await talk.say("input_audio_buffer.clear")
            await talk.until("input_audio_buffer.cleared")
            await talk.say("input_audio_buffer.commit", event_id="mine")
            error = (await talk.until("error"))["error"]
            assert error["code"] == "input_audio_buffer_commit_empty"
            assert error["event_id"] == "mine"
            assert len(listener.heard) == 1

    asyncio.run(run())


@pytest.mark.parametrize(("kind", "subtype"), [("audio/pcmu", "ULAW"), ("audio/pcma", "ALAW")])
def test_the_laws_of_g711(kind: pcm.PcmKind, subtype: str) -> None:
    import soundfile

    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes), dtype="int16", format="RAW", subtype=subtype, channels=1, samplerate=8000
    )
    assert np.array_equal(pcm.samples(codes, kind), expected)

    async def run() -> None:
        listener = Listener()
        async with talking(listener) as talk:
            session = {"audio": {"input": {"format": {"type": kind}, "turn_detection": None}}}
            await talk.say("session.update", session=session)
            await talk.until("session.updated")
            await talk.append(codes * 16)
            await talk.say("input_audio_buffer.commit")
            await talk.until("conversation.item.input_audio_transcription.completed")
            rate, samples = read_wav(listener.heard[0].audio)
            assert rate == 8000
            assert np.array_equal(samples[:256], expected)

    asyncio.run(run())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({}, ""),
    "an unknown event": ({"type": "input_audio_buffer.shout"}, "type"),
    "a reply": ({"type": "response.create"}, "type"),
    "an item": ({"type": "conversation.item.create", "item": {}}, "type"),
    "an unknown field": ({"type": "input_audio_buffer.commit", "loud": True}, "loud"),
    "no sound": ({"type": "input_audio_buffer.append"}, "audio"),
    "no base64": ({"type": "input_audio_buffer.append", "audio": "a-b_"}, "audio"),
}
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "noise reduction": ({"noise_reduction": {"type": "near_field"}}, "noise_reduction"),
    "semantic turns": ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection.type"),
    "replies": ({"turn_detection": {"create_response": True}}, "turn_detection.create_response"),
    "a time-out": ({"turn_detection": {"idle_timeout_ms": 6000}}, "turn_detection.idle_timeout_ms"),
    "a threshold": ({"turn_detection": {"threshold": 2}}, "turn_detection.threshold"),
    "a rate": ({"format": {"type": "audio/pcm", "rate": 16000}}, "format.rate"),
    "a format": ({"format": {"type": "audio/opus"}}, "format.type"),
    "keywords": ({"transcription": {"keywords": ["a"]}}, "transcription.keywords"),
    "an unknown field": ({"transcription": {"diarize": True}}, "transcription.diarize"),
}


def test_what_is_not_served_is_refused_by_name_and_the_session_goes_on() -> None:
    async def run() -> None:
        async with talking(Listener()) as talk:
            for event, param in REFUSED.values():
                text = json.dumps(event | {"event_id": "e1"}) if event else "{nonsense"
                await talk.client.send(text)
                error = (await talk.until("error"))["error"]
                assert error["param"] == (param or None), event
                assert error["type"] == "invalid_request_error"
                assert error["event_id"] == ("e1" if event else None)
            for change, param in SETTINGS.values():
                await talk.say("session.update", session={"audio": {"input": change}})
                error = (await talk.until("error"))["error"]
                assert error["param"] == f"session.audio.input.{param}", error
            await talk.say("session.update", session={"type": "realtime"})
            assert (await talk.until("error"))["error"]["param"] == "session.type"
            unknown = {"audio": {"input": {"transcription": {"model": "nobody"}}}}
            await talk.say("session.update", session=unknown)
            assert (await talk.until("error"))["error"]["code"] == "model_not_found"
            deep: dict[str, Any] = {}
            for _ in range(400):
                deep = {"a": deep}
            await talk.say("session.update", session=deep)
            await talk.until("error")
            await talk.append(np.concatenate([tone(0.5), hiss(1)]))
            await talk.until("conversation.item.input_audio_transcription.completed")

    asyncio.run(run())


def test_nobody_writes_without_a_model() -> None:
    async def run() -> None:
        async with talking(Listener(), model=None) as talk:
            assert talk.told[0]["session"]["audio"]["input"]["transcription"] is None
            await talk.append(tone(0.2))
            error = (await talk.until("error"))["error"]
            assert error["param"] == "session.audio.input.transcription.model"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("prompt", "code"), [("fail", "invalid_input"), ("break", "internal_error")]
)
def test_a_turn_that_fails_is_told_and_the_session_goes_on(prompt: str, code: str) -> None:
    async def run() -> None:
        async with talking(Listener()) as talk:
            session = {"audio": {"input": {"transcription": {"prompt": prompt}}}}
            await talk.say("session.update", session=session)
            await talk.append(np.concatenate([tone(0.5), hiss(1)]))
            failed = await talk.until("conversation.item.input_audio_transcription.failed")
            assert failed["error"]["code"] == code
            session = {"audio": {"input": {"transcription": {"prompt": ""}}}}
            await talk.say("session.update", session=session)
            await talk.append(np.concatenate([tone(0.5), hiss(1)]))
            await talk.until("conversation.item.input_audio_transcription.completed")

    asyncio.run(run())


def test_what_waits_is_bounded() -> None:
    async def run() -> None:
        listener = Listener()
        async with talking(listener) as talk:
            await talk.say("session.update", session=MANUAL)
            for _ in range(LONGEST_TURN_S // 20):
                await talk.append(tone(20))
            await talk.append(tone(1))
            assert (await talk.until("error"))["error"]["param"] == "audio"
            await talk.say("input_audio_buffer.clear")
            listener.go.clear()
            for _ in range(8):
                await talk.append(tone(0.5))
                await talk.say("input_audio_buffer.commit")
            for _ in range(4):  # one is written, two wait, one cannot yet
                await talk.until("input_audio_buffer.committed")
            await talk.until("conversation.item.done")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(talk.client.recv(), 0.5)
            listener.go.set()
            for _ in range(8):
                await talk.until("conversation.item.input_audio_transcription.completed")

    asyncio.run(run())


def test_a_turn_without_end_is_ended() -> None:
    async def run() -> None:
        async with talking(Listener()) as talk:
            sound = tone(1) // 2
            sound[::4800] = 0
            for _ in range(LONGEST_TURN_S + 2):
                # Louder and quieter, as speech is: else it would count as noise.
                await talk.append(np.concatenate([sound[: RATE * 4 // 5], hiss(0.2)]))
            completed = await talk.until("conversation.item.input_audio_transcription.completed")
            assert completed["usage"]["seconds"] == LONGEST_TURN_S

    asyncio.run(run())


def test_a_client_that_leaves_ends_what_runs_for_it() -> None:
    async def run() -> None:
        listener = Listener()
        listener.go.clear()
        async with talking(listener) as talk:
            await talk.append(np.concatenate([tone(0.5), hiss(1)]))
            await talk.until("conversation.item.done")
            talk.client.transport.abort()
        deadline = asyncio.get_running_loop().time() + 10
        while any("_write" in repr(task) for task in asyncio.all_tasks()):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)

    asyncio.run(run())


def test_turns_are_the_same_however_the_sound_is_cut() -> None:
    sound = np.concatenate([hiss(0.7), tone(0.9), hiss(0.8), tone(0.4, 0.05), hiss(0.9)])
    found = []
    for step in (len(sound), 480, 77, 1):
        detector = TurnDetector(RATE, threshold=0.5, prefix_ms=300, silence_ms=500)
        size = step if step > 1 else 4801
        turns = []
        for start in range(0, len(sound), size):
            turns += detector.feed(sound[start : start + size])
        found.append(turns)
    assert [turn.what for turn in found[0]] == ["began", "ended"] * 2
    assert all(turns == found[0] for turns in found)


@pytest.mark.parametrize(
    ("sound", "turns"),
    [
        (np.zeros(RATE * 3, np.int16), 0),
        (hiss(5, 0.01), 0),
        (np.concatenate([hiss(1), tone(0.02), hiss(1)]), 0),
        (np.concatenate([hiss(2, 0.01), tone(0.3), hiss(2, 0.01)]), 1),
        (tone(60, 0.1), 1),
    ],
    ids=["nothing", "noise", "a click", "speech in noise", "a hum that stays"],
)
def test_what_is_speech(sound: np.ndarray, turns: int) -> None:
    detector = TurnDetector(RATE, threshold=0.5, prefix_ms=0, silence_ms=500)
    found = detector.feed(sound)
    assert [turn.what for turn in found].count("began") == turns
    assert not detector.speaking
