"""The fuzzers for as long as FUZZ_MINUTES says (`make fuzz`): each harness gets an equal part.

A harness that finds something is told at the end, with the lines that say how to see it again; the
others go on.
"""

import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from fuzz.effort import EXAMPLES
from fuzz.targets import TARGETS

HERE = Path(__file__).parent
HARNESSES = (
    HERE / "test_http.py",
    HERE / "test_decoders.py",
    HERE / "test_ledger.py",
    HERE / "test_pool.py",
    HERE.parent / "data" / "test_reader_properties.py",
)
CASES = 500
"""So many cases a property has in one round; rounds have seeds of their own."""
GRACE_S = 120.0
CORPUS = Path(".fuzz")


def round_of(harness: Path, left_s: float) -> int:
    """One round of a harness; a round that the end of its time cuts off has found nothing."""
    seed = random.randrange(1 << 32)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--timeout",
        "0",
        f"--hypothesis-seed={seed}",
    ]
    process = subprocess.Popen([*argv, str(harness)], env={**os.environ, EXAMPLES: str(CASES)})
    try:
        return process.wait(left_s + GRACE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return 0


def main() -> int:
    """All harnesses, one after the other."""
    covered = list(TARGETS) if importlib.util.find_spec("atheris") else []
    # Atheris has one part for all its targets together.
    parts = len(HARNESSES) + bool(covered)
    part_s = float(os.environ.get("FUZZ_MINUTES") or 120) * 60 / parts
    found = []
    for harness in HARNESSES:
        end, rounds = time.monotonic() + part_s, 0
        while (left := end - time.monotonic()) > 0:
            rounds += 1
            if round_of(harness, left):
                found.append(harness.name)
                break
        print(f"{harness.name}: {rounds} rounds", flush=True)
    for name in covered:
        seconds = max(1, int(part_s / len(covered)))
        argv = [sys.executable, "-m", "fuzz.coverage", name, str(seconds), str(CORPUS)]
        try:
            if subprocess.run(argv, timeout=seconds + GRACE_S).returncode:
                found.append(name)
        except subprocess.TimeoutExpired:
            # libFuzzer tells of inputs that hang; this machine is only slow.
            print(f"{name}: cut off", flush=True)
    print(f"Found something: {', '.join(found)}" if found else "Nothing found.")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
