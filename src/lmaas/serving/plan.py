"""The memory plan: whether a model fits the budget, and who makes room. Pure."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from lmaas.errors import DoesNotFit
from lmaas.runtime.engine import ENGINES
from lmaas.runtime.messages import ServeRecord
from lmaas.types import FileRole, ModelVersion

MIB: Final = 1 << 20
OVERHEAD_BYTES: Final = ENGINES["openvino"].memory.overhead_bytes
"""What a worker takes beside its model, unless its engine's spec says another number."""
WEIGHTS_FACTOR: Final = 2.2
"""Resident bytes for each byte of weights: the mapped file and the engine's repacked copy
(measured 1.9 for a transformer of 413 MiB, 2.3 for a convolution network of 44 MiB)."""

VARIANT_BYTES: Final = {"bf16": 2.0, "int8": 1.0, "int4": 0.6}
"""Bytes a parameter of each compressed variant; int4 with its scales and an int8 embedding."""
SMALLEST_CONTEXT: Final = 256
"""Tokens of cache below which no language model is worth serving."""

K = TypeVar("K", bound=Hashable)


class Need(NamedTuple):
    """`files` are unpacked, each version's role into a folder of this name below the worker's."""

    memory_bytes: int
    files: tuple[tuple[ModelVersion, FileRole, str], ...]
    record: Callable[[Path], ServeRecord]


class LoadedModel(msgspec.Struct, Generic[K], frozen=True, kw_only=True):
    """Memory that one worker holds or has been promised."""

    key: K
    memory_bytes: int
    last_used: float
    busy: bool = False
    pinned: bool = False


class Plan(msgspec.Struct, Generic[K], frozen=True, kw_only=True):
    """Who to end, least recently used first; `enough` False means: wait for the busy ones."""

    evict: tuple[K, ...]
    enough: bool


def needed_bytes(compiled_bytes: int, overhead_bytes: int = OVERHEAD_BYTES) -> int:
    """Memory that a worker for so many bytes of compiled model will take."""
    return overhead_bytes + int(compiled_bytes * WEIGHTS_FACTOR)


def make_plan(model: str, needed: int, held: Sequence[LoadedModel[K]], budget: int) -> Plan[K]:
    """How to fit `needed` bytes into `budget` beside `held`.

    Raises DoesNotFit, with the numbers, when even ending every unpinned worker is not enough.
    """
    pinned = sum(h.memory_bytes for h in held if h.pinned)
    if needed > budget - pinned:
        beside = f", of which pinned models hold {pinned // MIB} MiB" if pinned else ""
        raise DoesNotFit(
            f"{model} needs about {needed // MIB} MiB; the memory budget is "
            f"{budget // MIB} MiB{beside}.",
            hint="Raise memory_budget_bytes, unpin a model, or serve on a larger machine.",
        )
    free = budget - sum(h.memory_bytes for h in held)
    evict: list[K] = []
    for candidate in sorted(held, key=lambda h: h.last_used):
        if free >= needed:
            break
        if not candidate.busy and not candidate.pinned:
            evict.append(candidate.key)
            free += candidate.memory_bytes
    if free < needed:
        return Plan(evict=(), enough=False)
    return Plan(evict=tuple(evict), enough=True)


def language_plan(
    model: str,
    *,
    weights_bytes: int,
    cache_bytes: int,
    kv_bytes_per_token: int,
    context_length: int,
    budget: int,
    variants: Mapping[str, int] | None,
    num_parameters: int,
    overhead_bytes: int = OVERHEAD_BYTES,
) -> str:
    """What a language model's weights and cache take of the budget, for people.

    `variants` are the bytes of its compressed variants; None: the engine takes none. Raises
    DoesNotFit, with the numbers and what would fit: a variant that exists or could be made, or a
    smaller cache.
    """
    loaded = needed_bytes(weights_bytes, overhead_bytes)
    told = (
        f"weights {_gb(weights_bytes)} ({_gb(loaded)} loaded) + KV cache {_gb(cache_bytes)} "
        f"of {_gb(budget)}"
    )
    if loaded + cache_bytes <= budget:
        return f"{told}: fits"
    ways = [
        f"{name} ({_gb(size)}, made already; set variant={name})"
        for name, size in (variants or {}).items()
        if size < weights_bytes and needed_bytes(size, overhead_bytes) + cache_bytes <= budget
    ]
    if variants is not None and not ways:
        ways += [
            f"{name} (about {_gb(size)}; `lmaas compress {model} --to {name}`)"
            for name, share in VARIANT_BYTES.items()
            if name not in variants and (size := int(num_parameters * share)) < weights_bytes
            if needed_bytes(size, overhead_bytes) + cache_bytes <= budget
        ][:1]
    tokens = (budget - loaded) // max(1, kv_bytes_per_token)
    if tokens >= SMALLEST_CONTEXT:
        ways.append(
            f"a cache of {min(tokens, context_length)} tokens "
            f"(kv_cache_bytes={tokens * kv_bytes_per_token})"
        )
    raise DoesNotFit(
        f"{model}: {told}: does not fit.",
        hint=f"What would fit: {'; '.join(ways)}."
        if ways
        else "Nothing smaller would fit either: raise memory_budget_bytes, or serve on a larger "
        "machine.",
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"
