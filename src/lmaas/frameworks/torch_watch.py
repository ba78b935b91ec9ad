"""What Python sees of a PyTorch model's values while it runs: the arbiter of control flow.

Tracing records operations. It is exact unless Python reads a value that depends on the inputs (in a
branch, a loop, an index), because what Python did with it is then frozen. Whoever branches must
read first, so one run without such a read proves that there is none on any input.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from lmaas.runtime.cases import NumberFormat

READERS: Final = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__complex__",
     "__array__", "__contains__", "data_ptr", "is_nonzero", "equal", "allclose", "__format__",
     "__repr__", "__reversed__"}
)  # fmt: skip
OPS: Final = frozenset({"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"})
ORDER: Final[tuple[NumberFormat, ...]] = ("f64", "f32", "bf16", "f16")


class Watched(msgspec.Struct, kw_only=True):
    """Where values of the inputs are read, the least exact numbers that are computed with, and
    where each operation is used first.
    """

    reads: list[str]
    computes_in: NumberFormat
    places: dict[str, str]


def watch(call: Callable[[Mapping[str, Any]], Any], tensors: Mapping[str, Any]) -> Watched:
    """Run `call(tensors)` once and tell what was seen. Raises what the model raises."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    formats: dict[Any, NumberFormat] = {
        torch.float64: "f64",
        torch.float32: "f32",
        torch.bfloat16: "bf16",
        torch.float16: "f16",
    }
    seen: set[NumberFormat] = set()
    reads: list[str] = []
    places: dict[str, str] = {}
    # Storages that hold something of the inputs; kept, so that no address is used twice.
    derived: dict[int, Any] = {}

    def mark(tensor: Any) -> None:
        if (
            isinstance(tensor, torch.Tensor)
            and not tensor.is_sparse
            and tensor.layout is (torch.strided)
        ):
            storage = tensor.untyped_storage()
            derived[storage._cdata] = storage

    def depends(value: Any) -> bool:
        if not isinstance(value, torch.Tensor):
            return False
        try:
            return value.untyped_storage()._cdata in derived
        except (RuntimeError, NotImplementedError):
            return True

    def read(name: str) -> None:
        told = f"{name} at {_place()}"
        if told not in reads:
            reads.append(told)

    class Calls(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = getattr(func, "__name__", "")
            if name in READERS and any(map(depends, args)):
                read(name.strip("_"))
            return func(*args, **(kwargs or {}))

    class Ops(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = [*_tensors(args), *_tensors(kwargs or {})]
            if func._schema.name in OPS and any(map(depends, given)):
                read(func._schema.name.removeprefix("aten::").strip("_"))
            places.setdefault(func._schema.name, _place())
            result = func(*args, **(kwargs or {}))
            touched = any(map(depends, given))
            for tensor in _tensors(result):
                if touched:
                    mark(tensor)
                if tensor.numel() and tensor.dtype in formats:
                    seen.add(formats[tensor.dtype])
            return result

    for tensor in tensors.values():
        mark(tensor)
    with torch.no_grad(), Calls(), Ops():
        call(tensors)
    lowest: NumberFormat = max(seen, key=ORDER.index, default="f32")
    return Watched(reads=reads, computes_in="f32" if lowest == "f64" else lowest, places=places)


def _tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _place() -> str:
    """The innermost line that is neither PyTorch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(("torch.", "lmaas.frameworks")) and module != "torch":
            code = frame.f_code
            return f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} ({code.co_name})"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "an unknown place"
