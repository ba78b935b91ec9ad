"""PyTorch: any `torch.nn.Module`. Weights are kept as safetensors beside the exported graph.

A module of a user's own class has no portable source, so `load` needs an instance to fill.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import torch_forms
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import (
    Facts,
    Form,
    Framework,
    by_name,
    takes_keywords,
    unnamed,
)
from lmaas.frameworks.source import SEED, same
from lmaas.frameworks.torch_forms import mode, plain_attention
from lmaas.frameworks.torch_watch import watch
from lmaas.runtime.native import script
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec


class PyTorch:
    """Verbs for `torch.nn.Module`."""

    name: FrameworkName = "pytorch"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a module."""
        import torch

        return isinstance(model, torch.nn.Module)

    def version(self) -> str:
        """torch's version."""
        import torch

        return str(torch.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """A module does not say what it takes."""
        return []

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The names of forward's parameters."""
        import torch

        if isinstance(model, torch.jit.ScriptModule):
            names = [argument.name for argument in model.forward.schema.arguments[1:]]
        else:
            names = positional(model)
        return names[: len(sample)] if len(names) >= len(sample) else unnamed(len(sample))

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """`weights.safetensors` (shared weights once) and `module.json`.

        Quantised modules keep no tensors, so that only what is served holds their weights.
        """
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        if all(hasattr(value, "untyped_storage") for value in model.state_dict().values()):
            save_model(model, str(folder / "weights.safetensors"))
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        (folder / "module.json").write_text(json.dumps({"class": kind, "repr": repr(model)}))

    def load(self, folder: Path, like: Any = None) -> Any:
        """Fill the module `like` with the weights in `folder`; a TorchScript file needs none."""
        from safetensors.torch import load_model

        if folder.is_file():
            return script.load(folder)

        if like is None:
            raise InvalidInput(
                "PyTorch weights need the module they belong to.",
                hint="Build the module and pass it as like=….",
            )
        try:
            load_model(like, str(folder / "weights.safetensors"))
        except RuntimeError as error:
            raise InvalidInput(f"The weights are not those of this module: {error}.") from None
        return like

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs without gradients, in eval mode; the module's own mode is restored."""
        import torch

        with mode(model, training=False), torch.no_grad(), plain_attention():
            outputs = by_name(call(model, tensors_of(model, arrays)))
        return {name: to_array(value) for name, value in outputs.items()}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """Traced or exported for OpenVINO; exported or scripted for the engine torch."""
        import torch

        if isinstance(model, torch.jit.ScriptModule):
            return torch_forms.of_script(model, arrays, axes)
        names = list(arrays)
        return torch_forms.forms(
            model,
            call,
            arrays,
            outputs,
            axes,
            kind=input_type(model, arrays),
            scripts=names == positional(model)[: len(names)],
        )

    def seed(self, model: Any) -> None:
        """PyTorch's own random numbers."""
        import torch

        torch.manual_seed(SEED)

    @contextmanager
    def kept(self, model: Any) -> Iterator[None]:
        """Buffers, and PyTorch's random numbers."""
        import torch

        before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        random = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(random)
            with torch.no_grad():
                for buffer, value in before:
                    if buffer.shape == value.shape and not torch.equal(buffer, value):
                        buffer.copy_(value)

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """As one run shows."""
        import torch

        if isinstance(model, torch.jit.ScriptModule):
            kinds = {str(t.dtype) for t in (*model.parameters(), *model.buffers())}
            if "torch.float16" in kinds:
                return Facts("f16")
            return Facts("bf16" if "torch.bfloat16" in kinds else "f32")
        with mode(model, training=False), torch.no_grad():
            tensors = tensors_of(model, arrays)
            seen = watch(lambda given: by_name(call(model, given)), tensors)
            notes: tuple[str, ...] = ()
            if torch.backends.mha.get_fastpath_enabled():
                self.seed(model)
                fast = by_name(call(model, tensors))
                self.seed(model)
                plain = self.run(model, arrays)
                if any(not same(plain[name], to_array(value)) for name, value in fast.items()):
                    notes = (
                        "Answers are those of PyTorch's plain attention; its fast path for "
                        "inference gives zeros where a mask hides a position.",
                    )
        return Facts(seen.computes_in, notes)

    def num_parameters(self, model: Any) -> int:
        """Elements of all parameters, shared ones once."""
        return sum(parameter.numel() for parameter in model.parameters())


def call(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The model's outputs for tensors by input name, in inference mode or not, as it is.

    By position where that is the same: hooks see what is given by position alone.
    """
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        known = [argument.name for argument in model.forward.schema.arguments[1:]]
        if all(name in known for name in tensors):
            return model(**tensors)
        return model(*tensors.values())
    if list(tensors) == positional(model)[: len(tensors)]:
        return model(*tensors.values())
    if takes_keywords(model.forward, list(tensors)):
        return model(**tensors)
    return model(*tensors.values())


def positional(model: Any) -> list[str]:
    """The names of what forward takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in kinds]


def tensors_of(model: Any, arrays: Tensors) -> dict[str, Any]:
    """The inputs as tensors; floats in the model's own type where numpy has none like it."""
    import torch

    device, kind = device_of(model), input_type(model, arrays)
    tensors = {}
    for name, array in arrays.items():
        tensor = torch.tensor(array, device=device)
        if kind is not None and tensor.dtype == torch.float32:
            tensor = tensor.to(kind)
        tensors[name] = tensor
    return tensors


_types: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()


def input_type(model: Any, arrays: Tensors) -> Any:
    """The torch dtype that float32 inputs are cast to, None for none.

    A model in half precision is called with tensors of its own type; numpy and callers have
    float32. One that takes float32 as well is left alone.
    """
    import torch

    if model in _types:
        return _types[model]
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    other = next((k for k in sorted(kinds, key=str) if k != torch.float32), None)
    found = None
    if other is not None and any(a.dtype == np.float32 for a in arrays.values()):
        plain = {n: torch.tensor(a, device=device_of(model)) for n, a in arrays.items()}
        try:
            with mode(model, training=False), torch.no_grad():
                call(model, plain)
        except (RuntimeError, ValueError, TypeError):
            found = other
    _types[model] = found
    return found


def to_array(value: Any) -> np.ndarray:
    """A tensor as numpy has it: bfloat16 becomes float32."""
    import torch

    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        value = value.float()
    array: np.ndarray = value.numpy()
    return array


def device_of(model: Any) -> Any:
    """Where the model's weights are."""
    import torch

    for found in (*model.parameters(), *model.buffers()):
        if isinstance(found, torch.Tensor):
            return found.device
    return torch.device("cpu")


FRAMEWORK: Framework = PyTorch()
