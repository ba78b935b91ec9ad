"""PyTorch: any `torch.nn.Module`. Weights are kept as safetensors beside the exported graph.

A module of a user's own class has no portable source, so `load` needs an instance to fill.
"""

import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.base import (
    Framework,
    by_name,
    check_loss,
    check_training,
    first_outputs,
    outputs_are,
    takes_keywords,
    unnamed,
)
from lmaas.runtime import ov
from lmaas.tasks import Row
from lmaas.types import FrameworkName, TensorSpec

log = logging.getLogger(__name__)


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
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(model.forward).parameters.values()
        names = [p.name for p in parameters if p.kind in kinds]
        return names[: len(sample)] if len(names) >= len(sample) else unnamed(len(sample))

    def fit(
        self,
        model: Any,
        x: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> list[float]:
        """Train in place; see `base.Framework.fit`."""
        import torch

        x = check_training(x, y, epochs, batch_size)
        named = dict(zip(self.name_inputs(model, [x]), [x[:8]], strict=True))
        kind = outputs_are(first_outputs(self.run, model, named, y))
        inputs = torch.as_tensor(x, device=_device(model))
        targets = torch.as_tensor(y, dtype=torch.long, device=_device(model))
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        order = np.random.default_rng(seed)
        losses = []
        with _mode(model, training=True), torch.enable_grad():
            for epoch in range(epochs):
                total = 0.0
                for rows in np.array_split(order.permutation(len(x)), -(-len(x) // batch_size)):
                    (outputs,) = by_name(model(inputs[rows])).values()
                    logits = outputs if kind == "logits" else torch.log(outputs + 1e-9)
                    loss = torch.nn.functional.cross_entropy(logits, targets[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total += float(loss.detach()) * len(rows)
                losses.append(check_loss(total / len(x), epoch, learning_rate))
        return losses

    def save(self, model: Any, folder: Path, arrays: Row) -> None:
        """`weights.safetensors` (shared weights once) and `module.json`."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "weights.safetensors"))
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        (folder / "module.json").write_text(json.dumps({"class": kind, "repr": repr(model)}))

    def load(self, folder: Path, like: Any = None) -> Any:
        """Fill the module `like` with the weights in `folder`."""
        from safetensors.torch import load_model

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

    def run(self, model: Any, arrays: Row) -> Row:
        """Outputs without gradients, in eval mode; the module's own mode is restored."""
        import torch

        device = _device(model)
        tensors = {name: torch.tensor(a, device=device) for name, a in arrays.items()}
        with _mode(model, training=False), torch.no_grad():
            outputs = by_name(_call(model, tensors))
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    def convert(self, model: Any, arrays: Row) -> Any:
        """Traced with the sample as example."""
        return trace(model, _call, arrays)

    def num_parameters(self, model: Any) -> int:
        """Elements of all parameters, shared ones once."""
        return sum(parameter.numel() for parameter in model.parameters())


def trace(model: Any, call: Callable[[Any, dict[str, Any]], Any], arrays: Row) -> Any:
    """An `openvino.Model` of `call(model, tensors by name)`, in inference mode."""
    import torch

    names = list(arrays)

    class Traced(torch.nn.Module):  # type: ignore[misc]
        """Tensors in the order of `arrays` in, a tuple of tensors out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            """The outputs in the order of `by_name`."""
            outputs = tuple(by_name(call(model, dict(zip(names, tensors, strict=True)))).values())
            return outputs[0] if len(outputs) == 1 else outputs

    example = tuple(torch.tensor(a, device=_device(model)) for a in arrays.values())
    traced = Traced()
    with _mode(traced, training=False), torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of its own deprecation and of every Python branch; what a branch
        # changed would show in the parity check.
        warnings.simplefilter("ignore")
        try:
            return ov.load().convert_model(traced, example_input=example)
        except Exception as error:  # noqa: BLE001 - OpenVINO wraps whatever tracing raised
            log.info("Tracing failed, so the model is exported instead: %s", error)
            return _export(traced, arrays, _device(model))


def _export(module: Any, arrays: Row, device: Any) -> Any:
    """Converted through `torch.export`: slower, but takes operations that tracing leaves whole."""
    import torch

    # A batch of one would be taken for a constant.
    rows = [np.resize(a, (max(2, len(a)), *a.shape[1:])) for a in arrays.values()]
    example = tuple(torch.tensor(a, device=device) for a in rows)
    free = {"tensors": tuple({0: torch.export.Dim.AUTO} for _ in example)}
    program = torch.export.export(module, example, dynamic_shapes=free, strict=False)
    return ov.load().convert_model(program.run_decompositions())


def _call(model: Any, tensors: dict[str, Any]) -> Any:
    if takes_keywords(model.forward, list(tensors)):
        return model(**tensors)
    return model(*tensors.values())


def _device(model: Any) -> Any:
    import torch

    found = next(model.parameters(), None)
    found = next(model.buffers(), None) if found is None else found
    return torch.device("cpu") if found is None else found.device


@contextmanager
def _mode(model: Any, *, training: bool) -> Iterator[None]:
    """All submodules in training or eval mode, and back in their own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


FRAMEWORK: Framework = PyTorch()
