"""The comparison of `runtime.language.parity` in a process of its own.

An engine may end its process, or keep memory that the caller needs; and what it prints is not for
the caller's terminal.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from lmaas import lean_imports
from lmaas.errors import LMaaSError
from lmaas.runtime.language import parity
from lmaas.types import LanguageSpec, ParityReport, Record

TOLD: Final = 300
"""Characters of what a process says at its end."""


class ProofRequest(Record, frozen=True, kw_only=True):
    """As `parity.measure` takes it; the report is written to `reply`."""

    folder: str
    sample: str
    reply: str
    spec: LanguageSpec
    engine: str


class Reply(Record, frozen=True, kw_only=True):
    """The report, or why there is none."""

    report: ParityReport | None = None
    problem: str = ""


def prove(
    folder: Path, sample: Path, spec: LanguageSpec, engine: str, scratch: Path
) -> ParityReport:
    """Compare in a child process. Raises LMaaSError where the engine cannot run the model."""
    reply = scratch / "proof.json"
    request = ProofRequest(
        folder=str(folder), sample=str(sample), reply=str(reply), spec=spec, engine=engine
    )
    done = subprocess.run(
        [sys.executable, "-m", "lmaas.runtime.language.proof"],
        input=msgspec.json.encode(request),
        capture_output=True,
        check=False,
    )
    if not reply.exists():
        tail = done.stderr.decode("utf-8", "replace").strip()[-TOLD:]
        raise LMaaSError(f"The engine {engine} ended with code {done.returncode}. {tail}")
    told = msgspec.json.decode(reply.read_bytes(), type=Reply)
    reply.unlink()
    if told.report is None:
        raise LMaaSError(told.problem)
    return told.report


def main() -> None:
    """The child."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ProofRequest)
    try:
        report = parity.measure(
            Path(request.folder), Path(request.sample), request.spec, request.engine
        )
        reply = Reply(report=report)
    except Exception as error:  # noqa: BLE001 - libraries tell in many ways what they cannot run
        told = (
            error.message if isinstance(error, LMaaSError) else f"{type(error).__name__}: {error}"
        )
        reply = Reply(problem=" ".join(told.split())[:TOLD])
    Path(request.reply).write_bytes(msgspec.json.encode(reply))


if __name__ == "__main__":
    lean_imports.install()
    main()
