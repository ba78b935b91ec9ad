"""How much memory this machine has for models and jobs."""

from pathlib import Path
from typing import Final

SHARE: Final = 0.7
"""The rest is the server's own, the system's, and the file cache's."""


def machine_budget_bytes(share: float = SHARE) -> int:
    """`share` of the machine's memory, or of this control group's bound where that is lower."""
    import psutil

    total = int(psutil.virtual_memory().total)
    bound = Path("/sys/fs/cgroup/memory.max")
    text = bound.read_text().strip() if bound.exists() else "max"
    return int(min(total, int(text)) * share) if text.isdigit() else int(total * share)
