"""What the CPU can do."""

import os
from functools import cache
from pathlib import Path


def flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    return frozenset(_told("flags").split())


def has_bf16() -> bool:
    """Whether bf16 products are native (AVX-512 BF16 or AMX)."""
    return bool(flags() & {"avx512_bf16", "amx_bf16"})


def gains_from_bf16() -> bool:
    """Whether products are faster in bf16 than in f32.

    By AMX, or AVX-512 BF16 as AMD has it. On an Intel CPU whose AMX the hypervisor hides, a
    ResNet-18 takes 1.7 times as long in bf16 as in f32 (docs/log.md).
    """
    return "amx_bf16" in flags() or (has_bf16() and _told("vendor_id") != "GenuineIntel")


@cache
def _told(name: str) -> str:
    """What Linux tells of the first core under this name; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return line.partition(":")[2].strip()


def threads(sharers: int = 1) -> int:
    """How many threads each of so many processes takes: its share of the cores.

    `OMP_NUM_THREADS`, where it is set, is already that. What a library has been told before in this
    process makes no difference, so that the same work has the same sums.
    """
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if told.isdecimal() and int(told):
        return int(told)
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable is not None else os.cpu_count() or 1
    return max(1, cores // sharers)
