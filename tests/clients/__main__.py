"""`make clients`: make each client's environment, start one server, run every script."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkpoints import make_encoder
from clients.table import CLIENTS, ENVIRONMENTS, JAVASCRIPT, NPM_PACKAGES, PACKAGES, run
from face_models import publish_faces
from lmaas.config import Settings
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import publish_digits, publish_language, serving


def make_environments() -> None:
    """Each environment that is not there, with its packages."""
    for name, packages in PACKAGES.items():
        folder = ENVIRONMENTS / name
        if (folder / "made").exists():
            continue
        print(f"installing {name} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *packages]
        subprocess.run(pip, check=True)
        (folder / "made").touch()
    folder = ENVIRONMENTS / JAVASCRIPT
    if has_node() and not (folder / "made").exists():
        print(f"installing {JAVASCRIPT} ...", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", *NPM_PACKAGES], cwd=folder, check=True)
        (folder / "made").touch()


def has_node() -> bool:
    """Whether scripts for Node.js can run here."""
    return bool(shutil.which("node") and shutil.which("npm"))


def make_home(home: Path) -> None:
    """A home with a language model, a classifier of images, an embedding model, and faces."""
    publish_language(home)
    publish_digits(home)
    publish_faces(home)
    service = Service(Settings(home=str(home)))
    options = PushOptions(name="vectors", task="embedding")
    encoder = make_encoder(home.parent / "encoder")
    asyncio.run(service.catalog.push(TENANT, encoder, options))
    service.close()


def address_of(home: Path) -> str:
    """Where the server of `home` speaks gRPC: told a moment after it is up."""
    for _ in range(500):
        live = HomeLock.read(home) or {}
        if "grpc" in live:
            return str(live["grpc"])
        time.sleep(0.02)
    raise TimeoutError("no gRPC")


def main() -> int:
    """The number of clients that failed."""
    make_environments()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        make_home(home)
        with serving(home, grpc_port=0, log_level="warning") as server:
            grpc = address_of(home)
            for client in CLIENTS:
                if client.environment == JAVASCRIPT and not has_node():
                    print(f"no Node {client.script}", flush=True)
                    continue
                start = time.monotonic()
                done = run(client, server.url, server.call_key, grpc)
                told = "ok" if done.returncode == 0 else "FAILED"
                print(f"{told:7}{client.script:22}{time.monotonic() - start:6.1f} s", flush=True)
                if done.returncode:
                    failed += 1
                    print(done.stdout[-3000:] + done.stderr[-3000:])
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main()))
