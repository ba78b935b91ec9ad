"""What of its isolation this machine lacks, found out by a process that shuts itself in.

`python -m lmaas.placement.probe` prints the names of `isolation.GUARDS` that are missing, as JSON.
"""

import subprocess
import sys
import tempfile
from typing import Final

import msgspec

from lmaas.placement.isolation import GUARDS, Confinement, confine

TIMEOUT_S: Final = 60.0


def missing() -> dict[str, str]:
    """What is missing, by its name, and what that means."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, folder],
            stdout=subprocess.PIPE,
            check=False,
            timeout=TIMEOUT_S,
        )
    if done.returncode:
        return {"all": f"a process that shuts itself in ends with code {done.returncode}"}
    return {name: GUARDS[name] for name in msgspec.json.decode(done.stdout, type=list[str])}


if __name__ == "__main__":
    found = confine(Confinement(writes=(sys.argv[1],)))
    sys.stdout.write(msgspec.json.encode(found).decode())
