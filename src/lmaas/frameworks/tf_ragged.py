"""Ragged tensors at a door that has none: padded rows, and how long each is.

A ragged input `x` becomes `x`, padded at the end, and `x_lengths`; a ragged output likewise.
"""

from collections.abc import Mapping
from typing import Any

from lmaas.errors import InvalidInput
from lmaas.frameworks.base import by_name

LENGTHS = "_lengths"


def is_ragged(value: Any) -> bool:
    """Whether a sample is a ragged tensor of TensorFlow."""
    return hasattr(value, "row_lengths") and hasattr(value, "to_tensor")


def dense(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Samples by name, each ragged one as two dense ones. Raises InvalidInput."""
    parts: dict[str, Any] = {}
    for name, value in sample.items():
        if not is_ragged(value):
            parts[name] = value
            continue
        if value.ragged_rank != 1:
            raise InvalidInput(
                f"Input {name!r} is ragged in {value.ragged_rank} axes; served is one.",
                hint="Make it dense: to_tensor().",
                param="sample",
            )
        parts |= {name: value.to_tensor(), f"{name}{LENGTHS}": value.row_lengths()}
    return parts


def wrap(model: Any, names: list[str]) -> Any:
    """The model as one that takes `names` as padded rows with lengths."""
    import tensorflow as tf

    from lmaas.frameworks.tensorflow import call

    class Dense(tf.Module):  # type: ignore[misc]
        """Puts ragged tensors together, and takes them apart."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def __call__(self, **tensors: Any) -> Any:
            """Outputs by name, each ragged one as two."""
            given = {}
            for name, value in tensors.items():
                if name in names:
                    lengths = tensors[f"{name}{LENGTHS}"]
                    given[name] = tf.RaggedTensor.from_tensor(value, lengths)
                elif name.removesuffix(LENGTHS) not in names:
                    given[name] = value
            return dense(by_name(call(model, given)))

    return Dense()
