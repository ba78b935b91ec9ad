"""How many operations a forward pass takes, by torch's own formulas.

torch's FlopCounterMode counts the same, but imports torch's compiler first: 1.7 s.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count(run: Callable[[], Any]) -> int:
    """The operations of what `run` does, of those that torch has a formula for."""
    mode = _Counting()
    with torch.no_grad(), mode:
        run()
    return mode.total


class _Counting(TorchDispatchMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # There is nothing to hide from the compiler, so that it need not be there.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result
