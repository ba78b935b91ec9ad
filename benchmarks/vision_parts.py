"""What `benchmarks.vision` measures: parts, each with its servers and how one of them is asked."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from benchmarks.load import Plan, Window, measure
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT

PORT: Final = 8471
START_S: Final = 180
WARMUP_S: Final = 1.0

Ask = Callable[[int, float], Window]
"""A window of so many callers and seconds."""


class Ready(NamedTuple):
    """What a part has prepared: its folder, the key of our server, anything of its own."""

    folder: Path
    key: str
    own: Any


class Part(NamedTuple):
    """One claim. `running` yields a server that was seen to answer rightly.

    Ours begin with "lmaas"; `goal` is the ratio that the first of them is to have of the best peer.
    """

    does: str
    servers: tuple[str, ...]
    callers: tuple[int, ...]
    goal: float
    prepare: Callable[[Path], Ready]
    running: Callable[[Ready, str], AbstractContextManager[Ask]]


def key_of(home: Path) -> str:
    """A key that calls models of `home`."""
    with contextlib.closing(Service(Settings(home=str(home)))) as service:
        return service.create_key(TENANT, "benchmark", ("call",))[1]


def lmaas(home: Path) -> list[str]:
    """The arguments of our server."""
    return ["lmaas", "--home", str(home), "serve", "--port", str(PORT)]


@contextlib.contextmanager
def serving(argv: list[str], log: Path, **environment: str) -> Iterator[None]:
    """`python -m` these arguments, in a session of its own that is ended."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *argv],
            env=os.environ | environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answered(url: str, body: bytes, headers: dict[str, str]) -> Any:
    """The JSON answer of a server, which may still be starting."""
    end = time.perf_counter() + START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            told = httpx.post(url, content=body, headers=headers, timeout=120)
            if told.is_success:
                return told.json()
            if told.status_code < 500:
                raise SystemExit(f"{url}: {told.status_code} {told.text[:500]}")
        if time.perf_counter() > end:
            raise SystemExit(f"{url} does not answer.")
        time.sleep(0.05)


def asking(url: str, bodies: list[bytes], headers: dict[str, str]) -> Ask:
    """What sends `bodies` in turn."""

    def ask(callers: int, seconds: float) -> Window:
        return measure(
            Plan(
                url=url,
                headers=headers,
                bodies=bodies,
                concurrency=callers,
                seconds=seconds,
                warmup_s=WARMUP_S,
            )
        )

    return ask
