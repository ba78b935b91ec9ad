"""What learners minimise. One file a loss: what it reads, and what it is in each framework.

A loss's file has `OUTPUTS` and `TARGETS`, the names of what it reads with their shapes, and the
functions `pytorch` and `tensorflow`: `(loss, outputs, targets) -> scalar`, the float32 sum over a
feed. Keras learns by the one of its backend. "sum" adds up several, each with its share: for
networks with several heads.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, Literal

from lmaas.errors import InvalidInput
from lmaas.training.base import Loss

LOSSES: Final = (
    "cross-entropy",
    "mean-squared-error",
    "next-token",
    "preference",
    "ctc",
    "center-points",
    "own",
)
"""Every loss. Its file has its name, with underscores."""
SUM: Final = "sum"

Library = Literal["pytorch", "tensorflow"]
Named = Mapping[str, Any]


def summed(loss: Loss, library: Library, outputs: Named, targets: Named) -> Any:
    """The loss of all that a model gave for a feed, as a scalar of the library.

    Raises InvalidInput for a loss that is not known, and for outputs and targets that are not
    there or do not fit each other.
    """
    if loss.name == SUM:
        parts = [part.share * summed(part, library, outputs, targets) for part in loss.parts]
        if not parts:
            raise InvalidInput("The loss sum has no parts.", param="loss")
        return sum(parts[1:], parts[0])
    declared = _module(loss.name)
    given = loss.outputs or tuple(outputs)[: len(declared.OUTPUTS)]
    found = _found("outputs", dict(zip(declared.OUTPUTS, given, strict=False)), outputs, loss)
    names = {name: loss.targets.get(name, name) for name in declared.TARGETS}
    wanted = _found("targets", names, targets, loss)
    if len(found) != len(declared.OUTPUTS):
        raise InvalidInput(
            f"The loss {loss.name} reads the outputs {', '.join(declared.OUTPUTS)}; the model has "
            f"{', '.join(outputs)}.",
            param="model",
        )
    return getattr(declared, library)(loss, found, wanted)


def _module(name: str) -> ModuleType:
    if name not in LOSSES:
        known = ", ".join((*LOSSES, SUM))
        raise InvalidInput(f"Unknown loss {name!r}; known: {known}.", param="loss")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _found(what: str, names: Mapping[str, str], given: Named, loss: Loss) -> dict[str, Any]:
    missing = [name for name in names.values() if name not in given]
    if missing:
        raise InvalidInput(
            f"The loss {loss.name} reads the {what} {', '.join(names.values())}; there are "
            f"{', '.join(given)}.",
            param="model" if what == "outputs" else "data",
        )
    return {own: given[name] for own, name in names.items()}
