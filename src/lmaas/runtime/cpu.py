"""What the CPU can do."""

from functools import cache
from pathlib import Path


@cache
def flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def has_bf16() -> bool:
    """Whether bf16 products are native (AVX-512 BF16 or AMX), so that bf16 is a gain."""
    return bool(flags() & {"avx512_bf16", "amx_bf16"})
