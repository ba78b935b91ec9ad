"""Which clients there are, what each needs, and how one is run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

FOLDER: Final = Path(__file__).parent
ENVIRONMENTS: Final = Path(sys.prefix) / "clients"
"""Where `make clients` puts environments."""
TIMEOUT_S: Final = 170.0

Model = Literal["tiny", "digits", "vectors"]


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
    "tritonclient": ("tritonclient[grpc,http]>=2.73",),
}  # fmt: skip
"""What is installed in each environment."""
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
)


def python_of(client: Client) -> str:
    """The Python that a client's script runs in."""
    if not client.environment:
        return sys.executable
    return str(ENVIRONMENTS / client.environment / "bin" / "python")


def run(
    client: Client, url: str, key: str, grpc: str = "", *, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. What it prints tells what went wrong.

    `path` is a folder of packages that come before those of the environment.
    """
    script = FOLDER / f"{client.script}.py"
    argv = [python_of(client), "-W", "ignore", str(script), url, key, grpc]
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
