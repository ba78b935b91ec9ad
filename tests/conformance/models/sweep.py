"""Every model of the sweep through a real server: right, or refused with its reason.

`python -m conformance.models.sweep` (`make sweep`) publishes each, calls it on inputs that are not
its sample, over HTTP, and compares with the model itself. It ends with 1 if any answer is wrong.
`--write FILE` keeps the table.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lmaas
from conformance.models import asking
from conformance.models.case import Case
from lmaas.errors import LMaaSError

KINDS = ("in_pytorch", "in_tensorflow", "in_keras", "in_others")
HEAD = """\
# Models

Written by `make sweep` (`tests/conformance/models`): models as people write them, published, then
called over HTTP on inputs that are not their sample, and compared with the model itself. "right":
every answer is the model's own. "refused": nothing is registered, and the error says why.
"""
ON_TORCH = "keras on torch"


class Outcome(NamedTuple):
    """What became of a model: `verdict` is "right", "refused" or "WRONG"."""

    name: str
    verdict: str
    engine: str
    told: str
    took_s: float


def run(case: Case, home: Path, client: Any) -> Outcome:
    """Publish one model and call it."""
    start = time.perf_counter()

    def outcome(verdict: str, engine: str, told: str) -> Outcome:
        return Outcome(case.name, verdict, engine, told, time.perf_counter() - start)

    model = case.make()
    sample = case.sample if len(case.sample) > 1 else case.sample[0]
    name = re.sub(r"[^a-z0-9]+", "-", case.name.lower()).strip("-")
    try:
        version = lmaas.publish(
            model, name=name, task="tensor", sample=sample, home=home, **case.options
        )
    except LMaaSError as error:
        expected = case.refused is not None and re.search(case.refused, str(error)) is not None
        return outcome("refused" if expected else "WRONG", "", " ".join(str(error).split()))
    if case.refused is not None:
        return outcome("WRONG", version.manifest.engine, "published, though it must be refused")
    names = [spec.name for spec in version.manifest.signature.inputs]
    for number, given in enumerate((case.sample, *case.fresh)):
        want = asking.answers(model, given)
        try:
            served = client.predict(name, dict(zip(names, asking.arrays(given), strict=True)))
        except LMaaSError as error:
            if want is None:
                continue
            told = f"refused inputs {number}: {error}"
            return outcome("WRONG", version.manifest.engine, told)
        if want is None:
            return outcome("WRONG", version.manifest.engine, f"answered inputs {number}")
        told_wrong = asking.difference(case.name, want, list(served.values()))
        if told_wrong:
            told = f"inputs {number}: {told_wrong}"
            return outcome("WRONG", version.manifest.engine, told)
    client.stop(name)
    return outcome("right", version.manifest.engine, version.manifest.engine_reason)


def cases_of(kind: str) -> list[Case]:
    """The models of one module."""
    found: list[Case] = importlib.import_module(f"conformance.models.{kind}").CASES
    return found


def sweep(kinds: list[str], only: str | None) -> list[Outcome]:
    """Run them one after another, all on one server."""
    found = []
    with tempfile.TemporaryDirectory(prefix="lmaas-sweep-") as scratch:
        home = Path(scratch) / "home"
        with lmaas.local(home=home) as client:
            for case in [case for kind in kinds for case in cases_of(kind)]:
                if only and not re.search(only, case.name):
                    continue
                outcome = run(case, home, client)
                found.append(outcome)
                sys.stdout.write(
                    f"{outcome.verdict:8} {outcome.name:40} {outcome.engine:12} "
                    f"{outcome.took_s:5.1f} s  {outcome.told[:160]}\n"
                )
                sys.stdout.flush()
    return found


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = [
        HEAD,
        "| model | outcome | engine | why not faster, or why refused |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        told = outcome.told.replace("|", "\\|").replace("\n", " ")[:240]
        lines.append(f"| {outcome.name} | {outcome.verdict} | {outcome.engine} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the sweep; Keras on torch in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="models whose name this pattern finds")
    parser.add_argument("--write", type=Path, help="where the table goes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="modules of models")
    arguments = parser.parse_args()
    outcomes = sweep(arguments.kinds.split(","), arguments.only)
    code = int(any(outcome.verdict == "WRONG" for outcome in outcomes))
    if "in_keras" in arguments.kinds and os.environ.get("KERAS_BACKEND") != "torch":
        sys.stdout.write(f"{ON_TORCH}:\n")
        sys.stdout.flush()
        argv = [sys.executable, "-m", "conformance.models.sweep", "--kinds", "in_keras"]
        argv += ["--only", arguments.only] if arguments.only else []
        code |= subprocess.run(
            argv, env={**os.environ, "KERAS_BACKEND": "torch"}, check=False
        ).returncode
    if arguments.write:
        arguments.write.write_text(table(outcomes), "utf-8")
    counts = {v: sum(o.verdict == v for o in outcomes) for v in ("right", "refused", "WRONG")}
    sys.stdout.write(f"{len(outcomes)} models: {counts}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
