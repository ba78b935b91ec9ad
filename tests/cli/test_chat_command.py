"""`lmaas chat`, as typed and as piped; and `Client.chat`."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lmaas
from lmaas.client import ChatPiece
from lmaas.errors import ModelNotFound
from servers import Running

HELLO = [{"role": "user", "content": "hello"}]


def chat(
    language: Running, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lmaas", "--url", language.url, "chat", *arguments]
    return subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LMAAS_KEY": language.call_key},
    )


def test_one_question(language: Running) -> None:
    given = ("tiny", "-m", "hello", "--seed", "3", "--max-tokens", "8")
    first, second = chat(language, *given), chat(language, *given, "--no-stream")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert first.stdout.strip()


def test_a_question_on_standard_input_as_json(language: Running) -> None:
    done = chat(language, "tiny", "--json", "--max-tokens", "5", stdin="hello\n")
    told = json.loads(done.stdout)
    assert told["usage"]["completion_tokens"] <= 5
    assert told["finish_reason"] in ("stop", "length")
    assert chat(language, "tiny", stdin=" ").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("none", "-m", "x"), 3, "none"),
        (("tiny", "-m", "x", "--temperature", "3"), 2, "temperature"),
    ],
)
def test_what_is_wrong_is_told(
    language: Running, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = chat(language, *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stdout == ""


def test_a_conversation_on_a_terminal(language: Running, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "lmaas", "--url", language.url, "chat", "tiny"]
    argv += ["--max-tokens", "4", "--system", "brief"]
    saved = tmp_path / "saved.json"
    keyboard, terminal = os.openpty()
    environment = {**os.environ, "LMAAS_KEY": language.call_key}
    with subprocess.Popen(
        argv, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        lines = ["hello", "how are you?", f"/save {saved}", "/reset", "/nope", "/exit"]
        os.write(keyboard, ("\n".join(lines) + "\n").encode())
        out, error = process.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == 0
    roles = [turn["role"] for turn in json.loads(saved.read_text("utf-8"))]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert b"no command" in error
    assert len(out.splitlines()) >= 2


def test_the_client_streams(language: Running) -> None:
    with lmaas.connect(language.url, language.call_key) as client:
        pieces = list(client.chat("tiny", HELLO, max_tokens=6, seed=1))
        (whole,) = client.chat("tiny", HELLO, stream=False, max_tokens=6, seed=1)
        assert "".join(piece.text for piece in pieces) == whole.text
        assert pieces[-1].usage == whole.usage
        with pytest.raises(ModelNotFound):
            next(client.chat("none", HELLO))


def test_the_async_client_streams(language: Running) -> None:
    async def run() -> list[ChatPiece]:
        async with lmaas.connect_async(language.url, language.call_key) as client:
            return [piece async for piece in client.chat("tiny", HELLO, max_tokens=6, seed=1)]

    assert asyncio.run(run())[-1].usage is not None
