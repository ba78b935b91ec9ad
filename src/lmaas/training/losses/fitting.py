"""What is told where outputs and targets do not fit each other."""

from typing import Any

from lmaas.errors import InvalidInput


def misfit(outputs: Any, targets: Any) -> InvalidInput:
    """The error for tensors of these shapes."""
    return InvalidInput(
        f"The model's outputs {_shape(outputs)} do not fit the targets {_shape(targets)}.",
        hint="Train a model whose outputs are logits (or values) for this task.",
        param="model",
    )


def _shape(tensor: Any) -> list[int | None]:
    """The sizes; None where an axis is free."""
    return [size if size is None else int(size) for size in tensor.shape]
