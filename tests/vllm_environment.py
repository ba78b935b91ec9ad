"""An environment that looks as if it had vLLM: its server is the stand-in of `upstream_server`.

`make_environment` makes it; the program in it is this module, run as
`python -I -m vllm.entrypoints.openai.api_server`. What it does is read from `behaviour.json` in the
environment's folder when it starts, and it notes there what it was told and asked. How a request is
answered, its last message says: see `FAULTS` of `upstream_server`, and "die" and "die once".
"""

import argparse
import asyncio
import os
import site
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import msgspec

from upstream_server import Connection, Seen

MODULE = "vllm/entrypoints/openai/api_server.py"
METRICS = b'# TYPE x gauge\nvllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'


class Behaviour(msgspec.Struct, kw_only=True):
    """What the program does: how long it takes to start, what it writes, whether it then ends."""

    start_s: float = 0.0
    writes: str = ""
    ends: int | None = None


class Environment:
    """The folder of an environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        (packages,) = (folder / "lib").glob("python*/site-packages")
        self.packages = packages
        self.module = packages / MODULE

    def behave(self, **behaviour: Any) -> None:
        """From the next start on."""
        data = msgspec.json.encode(Behaviour(**behaviour))
        (self.folder / "behaviour.json").write_bytes(data)

    def started(self) -> list[dict[str, Any]]:
        """Arguments, environment and processes of each start."""
        return _lines(self.folder / "started.jsonl")

    def asked(self) -> list[dict[str, Any]]:
        """Each request: path, key, body and whether it was hung up on."""
        return _lines(self.folder / "asked.jsonl")


def make_environment(folder: Path, *, vllm: bool = True) -> Environment:
    """A virtual environment with stand-ins for vLLM and torch."""
    venv.create(folder, symlinks=True)
    environment = Environment(folder)
    packages, module = environment.packages, environment.module
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "version.py").write_text('__version__ = "2.0+cpu"\ncuda = None\n')
    if vllm:
        module.parent.mkdir(parents=True)
        for package in (module.parent, module.parent.parent, packages / "vllm"):
            (package / "__init__.py").touch()
        (packages / "vllm" / "_version.py").write_text('__version__ = "0.0"\n')
        module.write_text(
            "from vllm_environment import main\nif __name__ == '__main__':\n    main()\n"
        )
    # What the stand-in itself is made of. It comes after the environment's own packages.
    paths = [*site.getsitepackages(), str(Path(__file__).parent)]
    (packages / "ours.pth").write_text("\n".join(paths))
    environment.behave()
    return environment


def _lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    return [msgspec.json.decode(line) for line in data.splitlines()]


def _note(name: str, value: object) -> None:
    with (Path(sys.prefix) / name).open("ab") as file:
        file.write(msgspec.json.encode(value) + b"\n")


class VllmConnection(Connection):
    """As vLLM: health and metrics are open, a key is needed, streams tell the usage."""

    def on_message_complete(self) -> None:
        if self.url == b"/metrics":
            self.transport.write(self.head(200, METRICS))
            return
        if self.url == b"/health":
            super().on_message_complete()
            return
        asked = msgspec.json.decode(b"".join(self.parts))
        _note("asked.jsonl", {"path": self.url.decode(), "key": self.key, "body": asked})
        if self.url.startswith(b"/v1") and self.key != os.environ["VLLM_API_KEY"]:
            self.send({"error": {"message": "Unauthorized"}}, 401)
            return
        messages = asked.get("messages") or [{"content": ""}]
        content = messages[-1]["content"]
        died = Path(sys.prefix) / "died"
        if content == "die" or (content == "die once" and not died.exists()):
            died.touch()
            os._exit(3)
        asked["model"] = content
        self.parts = [msgspec.json.encode(asked)]
        super().on_message_complete()

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            _note("asked.jsonl", {"hung_up": True})
        super().connection_lost(error)


async def serve(socket_path: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: VllmConnection(Seen(), {}), socket_path)
    await asyncio.Event().wait()


def main() -> None:
    """What vLLM's server does, as far as the tests care."""
    options = argparse.ArgumentParser()
    options.add_argument("--uds")
    given, _ = options.parse_known_args()
    path = Path(sys.prefix) / "behaviour.json"
    behaviour = msgspec.json.decode(path.read_bytes(), type=Behaviour)
    # A process in a session of its own, as an engine's may be.
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                             start_new_session=True)  # fmt: skip
    _note(
        "started.jsonl",
        {"argv": sys.argv[1:], "environ": dict(os.environ), "pids": [os.getpid(), other.pid]},
    )
    os.write(1, behaviour.writes.replace("KEY", os.environ["VLLM_API_KEY"]).encode() + b"\n")
    time.sleep(behaviour.start_s)
    if behaviour.ends is not None:
        sys.exit(behaviour.ends)
    asyncio.run(serve(given.uds))
