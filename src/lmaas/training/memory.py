"""Whether a run can fit into memory, told before anything large is loaded.

Counted is what a run cannot do without: weights, gradients and the optimizer's state, in each of
its processes. Activations come on top, so what passes may still turn out too large.
"""

import math
import sys
from collections.abc import Sequence
from typing import Final

from lmaas.errors import DoesNotFit
from lmaas.recipe import Recipe

FLOAT_BYTES: Final = 4
MIB: Final = 1 << 20


def stored(shapes: Sequence[Sequence[int]]) -> int:
    """The numbers in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def plan(recipe: Recipe, num_parameters: int) -> dict[str, int]:
    """The least bytes of each kind that training so many parameters takes, all workers together."""
    whole = FLOAT_BYTES * num_parameters * recipe.distribution.workers
    # An adapter's few weights are all that is trained.
    trained = 0 if recipe.adapter is not None else whole
    states = 2 if recipe.optimizer.name != "sgd" else int(recipe.optimizer.momentum > 0)
    needed = {"weights": whole, "gradients": trained, "optimizer": states * trained}
    return {name: size for name, size in needed.items() if size}


def check(recipe: Recipe, num_parameters: int, bound_bytes: int | None) -> str:
    """The plan in words. Raises DoesNotFit with it when it is more than the bound.

    On a machine with a GPU only the weights are held against the bound, which is of main memory.
    """
    needed = plan(recipe, num_parameters)
    total = sum(needed.values())
    parts = ", ".join(f"{name} {size // MIB} MiB" for name, size in needed.items())
    told = f"{num_parameters:,} parameters take at least {total // MIB} MiB: {parts}."
    if bound_bytes is None:
        return told
    held = needed.get("weights", 0) if total > bound_bytes and _has_gpu() else total
    if held > bound_bytes:
        workers = recipe.distribution.workers
        shared = f" in {workers} processes" if workers > 1 else ""
        raise DoesNotFit(
            f"The model is too large to be trained here: {told[:-1]}{shared}; the job may use "
            f"{bound_bytes // MIB} MiB.",
            hint="Use a smaller model, an adapter, the optimizer sgd or fewer workers, or raise "
            "job_memory_bytes.",
            param="model",
        )
    return told


def _has_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())
