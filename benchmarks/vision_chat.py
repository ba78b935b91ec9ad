"""Chat about images: LMaaS's server, and its engine in one process without it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

import lmaas
from benchmarks import vision_parts as parts
from benchmarks.load import Window
from benchmarks.vision_models import make_chat, questions
from benchmarks.vision_parts import Ask, Part, Ready

REQUESTS: Final = 400
TOKENS: Final = 32
PRECISION: Final = "auto"


def prepare(folder: Path) -> Ready:
    """Write the checkpoint and publish it."""
    home = folder / "home"
    lmaas.publish(make_chat(folder / "checkpoint"), name="eyes", task="image-text-to-text",
                  home=home)  # fmt: skip
    return Ready(folder, parts.key_of(home), questions(REQUESTS, "eyes", TOKENS))


@contextlib.contextmanager
def running(ready: Ready, server: str) -> Iterator[Ask]:
    """The server, or the process that has the engine alone."""
    home, log = ready.folder / "home", ready.folder / f"{server}.log"
    if server == "lmaas":
        url = f"http://127.0.0.1:{parts.PORT}/v1/chat/completions"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ready.key}"}
        with parts.serving(parts.lmaas(home), log, LMAAS_PRECISION=PRECISION):
            told = parts.answered(url, ready.own[0], headers)
            if told["usage"]["completion_tokens"] != TOKENS:
                raise SystemExit(f"lmaas: an answer has {told['usage']}")
            yield parts.asking(url, ready.own, headers)
        return
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.image_chat", str(home)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(["eyes", PRECISION, TOKENS, REQUESTS]) + b"\n")

    def ask(callers: int, seconds: float) -> Window:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode([callers, seconds, parts.WARMUP_S]) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{server} has ended; see {log}")
        return msgspec.json.decode(line, type=Window)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(60)


PARTS: Final = {
    "image-chat": Part(
        does=f"Chat about an image of 196 tokens, {TOKENS} tokens written, no image twice",
        servers=("lmaas", "in-process"),
        callers=(8,),
        goal=0.95,
        prepare=prepare,
        running=running,
    )
}
