"""Which clients there are, what each needs, and how one is run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

FOLDER: Final = Path(__file__).parent
ENVIRONMENTS: Final = Path(sys.prefix) / "clients"
"""Where `make clients` puts environments."""
TIMEOUT_S: Final = 170.0

Model = Literal["tiny", "digits", "vectors", "faces"]


class Client(NamedTuple):
    """A script. Without `packages` it runs in the main environment; `models` are what it calls."""

    script: str
    models: tuple[Model, ...] = ("tiny",)
    environment: str = ""


PACKAGES: Final = {
    "langchain": (
        "langchain>=1.5", "langchain-openai>=1.7", "langchain-anthropic>=1.7",
        "langchain-ollama>=1.1",
    ),
    "litellm": ("litellm>=1.110",),
    "instructor": ("instructor>=1.17",),
    "pydantic-ai": ("pydantic-ai-slim[openai,anthropic]>=2.68",),
    "openai-agents": ("openai-agents>=0.24",),
    "compreface": ("compreface-sdk>=0.6", "requests", "urllib3<2"),
    "tritonclient": ("tritonclient[grpc,http]>=2.73",),
}  # fmt: skip
"""What is installed in each environment of Python."""
JAVASCRIPT: Final = "javascript"
"""The environment of scripts for Node.js, and what is installed in it."""
NPM_PACKAGES: Final = (
    "openai@^6.49", "@anthropic-ai/sdk@^1.14", "ollama@^0.6.4", "@huggingface/inference@^4.13",
)  # fmt: skip
CLIENTS: Final = (
    Client("openai_client"),
    Client("anthropic_client"),
    Client("ollama_client"),
    Client("huggingface_client", ("tiny", "digits")),
    Client("triton_http", ("digits",)),
    Client("openai_embeddings", ("vectors",)),
    Client("triton_grpc", ("digits",), "tritonclient"),
    Client("langchain_chat", ("tiny",), "langchain"),
    Client("langchain_vectors", ("vectors",), "langchain"),
    Client("litellm_client", ("tiny",), "litellm"),
    Client("instructor_client", ("tiny",), "instructor"),
    Client("pydantic_ai_client", ("tiny",), "pydantic-ai"),
    Client("agents_client", ("tiny",), "openai-agents"),
    Client("compreface_client", ("faces",), "compreface"),
    Client("openai_js", ("tiny",), JAVASCRIPT),
    Client("anthropic_js", ("tiny",), JAVASCRIPT),
    Client("ollama_js", ("tiny",), JAVASCRIPT),
    Client("huggingface_js", ("tiny", "digits"), JAVASCRIPT),
)


def command_of(client: Client) -> list[str]:
    """What runs a client's script, the script included."""
    if client.environment == JAVASCRIPT:
        # Node.js looks for packages beside the script.
        script = ENVIRONMENTS / JAVASCRIPT / f"{client.script}.mjs"
        shutil.copyfile(FOLDER / script.name, script)
        return ["node", str(script)]
    python = sys.executable
    if client.environment:
        python = str(ENVIRONMENTS / client.environment / "bin" / "python")
    return [python, "-W", "ignore", str(FOLDER / f"{client.script}.py")]


def run(
    client: Client, url: str, key: str, grpc: str = "", *, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. What it prints tells what went wrong.

    `path` is a folder of packages that come before those of the environment.
    """
    argv = [*command_of(client), url, key, grpc]
    quiet = {
        "LITELLM_LOG": "ERROR",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "PYTHONPATH": str(path or ""),
    }
    return subprocess.run(
        argv,
        env={**os.environ, **quiet, "PYTHONPATH": str(path or "")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
