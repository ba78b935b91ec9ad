"""The environment that vLLM is installed in: whether it is one, and what it holds.

vLLM's requirements conflict with ours, so nothing of it is ever imported here.
"""

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from lmaas.errors import ConfigError, TimedOut
from lmaas.types import Record

SETTING: Final = "vllm_python"
LOOK_TIMEOUT_S: Final = 60.0
PROVE_TIMEOUT_S: Final = 300.0
TOLD_CHARS: Final = 600
LOOK: Final = """
import importlib.util, json, os, runpy
told = {}
for name, file in (("vllm", "_version.py"), ("torch", "version.py")):
    found = importlib.util.find_spec(name)
    told[name] = None
    if found is not None and found.submodule_search_locations:
        path = os.path.join(list(found.submodule_search_locations)[0], file)
        values = runpy.run_path(path) if os.path.exists(path) else {}
        told[name] = str(values.get("__version__", "of unknown version"))
        told["gpu"] = bool(values.get("cuda") or values.get("hip") or values.get("xpu"))
print(json.dumps(told))
"""
"""Tells versions without importing anything: an import of vLLM takes ten seconds."""
PROVE: Final = "import vllm.entrypoints.openai.api_server"
SERVER: Final = "vllm.entrypoints.openai.api_server"
ISOLATED: Final = "-I"
"""Neither the working directory nor the user's own packages are looked into."""


class Install(Record, frozen=True, kw_only=True):
    """Versions of vLLM and of its torch; `gpu`: whether that is built for one."""

    vllm: str | None
    torch: str | None
    gpu: bool = False


def check_python(path: str | None) -> Path:
    """The setting as a path. Raises ConfigError unless it is a program that may be run."""
    if not path:
        raise ConfigError(
            f"engine=vllm needs {SETTING}, which is not set.",
            hint="Install vLLM into an environment of its own and set "
            f"{SETTING} to that environment's python.",
            param=SETTING,
        )
    python = Path(path).expanduser().absolute()
    if not python.is_file():
        raise ConfigError(
            f"{SETTING}={path}: there is no such file.",
            hint="Set it to the python of the environment that vLLM is installed in.",
            param=SETTING,
        )
    if not os.access(python, os.X_OK):
        raise ConfigError(
            f"{SETTING}={path} is not executable.",
            hint="Set it to the python of the environment that vLLM is installed in.",
            param=SETTING,
        )
    return python


def read_install(python: Path) -> Install:
    """What `python` has. Raises ConfigError when it is no Python or lacks vLLM; blocks briefly."""
    status = python.stat()
    install = _look(python, status.st_mtime_ns, status.st_ino)
    if install.vllm is None or install.torch is None:
        lacks = "vllm" if install.vllm is None else "torch"
        raise ConfigError(
            f"The environment of {SETTING}={python} has no package {lacks}.",
            hint=f"{python} -m pip install vllm",
            param=SETTING,
        )
    return install


def prove_install(python: Path) -> str:
    """Import vLLM's server once; empty, or the last line of what went wrong. Takes seconds."""
    code, told = _run(python, PROVE, PROVE_TIMEOUT_S)
    return "" if code == 0 else _last_line(told) or f"it ended with code {code}"


@lru_cache(maxsize=8)
def _look(python: Path, mtime_ns: int, inode: int) -> Install:
    code, told = _run(python, LOOK, LOOK_TIMEOUT_S)
    try:
        return msgspec.json.decode(told.splitlines()[-1] if told else "", type=Install)
    except msgspec.DecodeError:
        raise ConfigError(
            f"{SETTING}={python} is not a working Python: "
            f"{_last_line(told) or f'it ended with code {code}'}.",
            param=SETTING,
        ) from None


def _run(python: Path, code: str, timeout_s: float) -> tuple[int, str]:
    environ = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            [str(python), ISOLATED, "-W", "ignore", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{python} did not tell what it has within {timeout_s:g} s.") from None
    except OSError as error:
        raise ConfigError(
            f"{SETTING}={python} cannot be run: {error.strerror}.", param=SETTING
        ) from None
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def _last_line(told: str) -> str:
    return told.splitlines()[-1].strip()[:TOLD_CHARS].rstrip(".") if told else ""
