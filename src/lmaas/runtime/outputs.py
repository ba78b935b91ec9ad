"""What a model returned, as tensors by name, however it was packed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmaas.errors import InvalidInput


def by_name(outputs: Any) -> dict[str, Any]:
    """A model's outputs by name: its own names where it has some, output_0, … otherwise.

    Takes mappings, named tuples, data classes, tuples and lists of tensors, nested too
    (`hidden_0`, `state.key`); what is None is left out. Raises InvalidInput for anything else.
    """
    fields = _fields(outputs)
    if fields is None:
        return {"output_0": _tensor("output_0", outputs)}
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields"):
        fields = {f"output_{name}": value for name, value in fields.items()}
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        _flatten(name, value, flat)
    if not flat:
        raise InvalidInput("The model has no outputs.")
    return flat


def _flatten(name: str, value: Any, flat: dict[str, Any]) -> None:
    fields = _fields(value)
    if fields is None:
        if value is not None:
            flat[name] = _tensor(name, value)
        return
    link = "_" if isinstance(value, tuple | list) else "."
    for key, inner in fields.items():
        _flatten(f"{name}{link}{key}", inner, flat)


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    names = getattr(value, "_fields", None)
    if names is not None and isinstance(value, tuple):
        return dict(zip(names, value, strict=True))
    if isinstance(value, tuple | list):
        return {str(i): inner for i, inner in enumerate(value)}
    layers = getattr(value, "layers", None)
    if isinstance(layers, list) and layers and all(map(_is_cache_layer, layers)):
        # transformers' caches of keys and values, layer by layer.
        return {str(i): {"key": e.keys, "value": e.values} for i, e in enumerate(layers)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def _tensor(name: str, value: Any) -> Any:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise InvalidInput(
            f"The model's output {name!r} is a {type(value).__qualname__}; expected tensors, or "
            "mappings, tuples and data classes of tensors.",
            hint="Make the model return tensors only (transformers: config.use_cache = False).",
        )
    return value


def _is_cache_layer(value: Any) -> bool:
    keys, values = getattr(value, "keys", None), getattr(value, "values", None)
    return hasattr(keys, "shape") and hasattr(values, "shape")
