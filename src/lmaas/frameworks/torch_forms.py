"""The forms of a PyTorch model: traced, exported, scripted.

A trace is exact unless Python reads values; then `torch.export`, which refuses to freeze what was
read, is the arbiter, and TorchScript keeps branches that the exporter cannot. What none of them can
keep is not served.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import torch_program
from lmaas.frameworks.axes import Axes, resize
from lmaas.frameworks.base import Form, by_name
from lmaas.frameworks.torch_watch import watch
from lmaas.runtime import ov
from lmaas.runtime.native.script import SCRIPT
from lmaas.tasks import Tensors

Call = Callable[[Any, Mapping[str, Any]], Any]


def forms(
    model: Any,
    call: Call,
    arrays: Tensors,
    outputs: Sequence[str],
    axes: Axes,
    *,
    kind: Any = None,
    scripts: bool = False,
) -> Iterator[Form]:
    """The ways to serve `model`, which `call` calls with tensors by name; see `base.Form`.

    `kind` is the torch dtype that float32 inputs are cast to; `scripts` says that the module takes
    the inputs by position and may be compiled by TorchScript. Raises InvalidInput where its answers
    depend on values in a way that nothing keeps.
    """
    names = list(arrays)
    called = _as_called(model, call, names, kind)
    with exporting(called):
        seen = watch(lambda given: called(*given.values()), dict(zip(names, _tensors(arrays),
                                                                     strict=True)))  # fmt: skip
    example = _tensors(arrays)
    program = _Once(lambda: _export(called, arrays, axes))
    script = _Once(lambda: _script(model))
    scripts = scripts and kind is None
    if not seen.reads:
        yield Form("openvino", "traced", lambda _: _convert(called, example), seen.places)
    yield Form("openvino", "exported", lambda _: _of_program(program()), seen.places)
    if scripts:
        yield Form("openvino", "as TorchScript", lambda _: _of_script(script(), arrays, axes))
    yield Form(
        "torch",
        "exported",
        lambda folder: torch_program.write(program(), folder, inputs=names, outputs=outputs),
    )
    if scripts:
        yield Form("torch", "as TorchScript", lambda folder: _save_script(script(), folder))
    if not seen.reads:
        yield Form("torch", "traced", lambda folder: _save_script(_trace(called, example), folder))
    if seen.reads:
        raise InvalidInput(
            f"The model's Python reads values of its inputs ({'; '.join(seen.reads[:3])}), and "
            "neither torch.export nor TorchScript can keep what it does with them.",
            hint="Say it with tensors (torch.where, torch.cond, masks), or write the branching "
            "part so that torch.jit.script compiles it.",
        )


def of_script(model: Any, arrays: Tensors, axes: Axes) -> Iterator[Form]:
    """A TorchScript module is its own graph, control flow and all."""
    yield Form("openvino", "as TorchScript", lambda _: _of_script(model, arrays, axes))
    yield Form("torch", "as TorchScript", lambda folder: _save_script(model, folder))


class _Once:
    """A result, or the error instead of it, made when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._error: Exception | None = None

    def __call__(self) -> Any:
        if self._error is not None:
            raise self._error
        if self._made is None:
            try:
                self._made = self._make()
            except Exception as error:
                self._error = error
                raise
        return self._made


def _script(model: Any) -> Any:
    import torch

    with exporting(model):
        return torch.jit.script(model)


def _as_called(model: Any, call: Call, names: Sequence[str], kind: Any) -> Any:
    import torch

    class Traced(torch.nn.Module):  # type: ignore[misc]
        """Tensors in the order of `names` in, a tuple of tensors that numpy has out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            """The outputs in the order of `by_name`."""
            given = dict(zip(names, tensors, strict=True))
            if kind is not None:
                given = {n: t.to(kind) if t.dtype == torch.float32 else t for n, t in given.items()}
            outputs = tuple(
                value.float() if value.dtype == torch.bfloat16 else value
                for value in by_name(call(self.model, given)).values()
            )
            return outputs[0] if len(outputs) == 1 else outputs

    return Traced()


def _tensors(arrays: Tensors) -> tuple[Any, ...]:
    import torch

    return tuple(torch.tensor(array) for array in arrays.values())


def _of_script(module: Any, arrays: Tensors, axes: Axes) -> Any:
    openvino = ov.load()
    shapes = [
        openvino.PartialShape(
            [-1 if name else size for size, name in zip(a.shape, axes.inputs[n], strict=True)]
        )
        for n, a in arrays.items()
    ]
    types = [openvino.Type(array.dtype) for array in arrays.values()]
    with exporting(module):
        return openvino.convert_model(module, input=list(zip(shapes, types, strict=True)))


def _convert(module: Any, example: tuple[Any, ...]) -> Any:
    with exporting(module):
        return ov.load().convert_model(module, example_input=example)


def _of_program(program: Any) -> Any:
    with quiet():
        return ov.load().convert_model(program.run_decompositions())


def _trace(module: Any, example: tuple[Any, ...]) -> Any:
    import torch

    with exporting(module):
        return torch.jit.trace(module, example, check_trace=False)


def _save_script(module: Any, folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with exporting(module):
        torch.jit.save(module, str(folder / SCRIPT))


def _export(module: Any, arrays: Tensors, axes: Axes) -> Any:
    """What `torch.export` finds, with the free axes free. It freezes no value that is read."""
    import torch

    places: dict[str, list[tuple[str, int]]] = {}
    for tensor, named in axes.inputs.items():
        for axis, name in enumerate(named):
            if name:
                places.setdefault(name, []).append((tensor, axis))
    rng = np.random.default_rng(3)
    for name, where in places.items():
        # A size of one would be taken for a constant.
        if arrays[where[0][0]].shape[where[0][1]] < 2:
            arrays = resize(arrays, tuple(where), max(2, axes.sizes[name][0]), rng)
    free = tuple(
        {axis: torch.export.Dim.AUTO for axis, name in enumerate(axes.inputs[n]) if name} or None
        for n in arrays
    )
    with exporting(module):
        return torch.export.export(
            module, _tensors(arrays), dynamic_shapes={"tensors": free}, strict=False
        )


@contextmanager
def exporting(model: Any) -> Iterator[None]:
    """The model on the CPU, in inference mode, silent, and as it was afterwards."""
    import torch

    with (
        mode(model, training=False),
        _on_cpu(model),
        untouched(model),
        quiet(),
        plain_attention(),
        torch.no_grad(),
    ):
        yield


@contextmanager
def mode(model: Any, *, training: bool) -> Iterator[None]:
    """All submodules in training or eval mode, and back in their own afterwards.

    What `torch.export` has made has one mode and knows no other.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
    except NotImplementedError:
        for module, _ in before:
            module.training = training
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fast path of `nn.TransformerEncoder`: it reads masks, and cannot be exported."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say on the way: what matters is measured."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.export", "torch._dynamo")]
    before = [(logger, logger.level) for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Attributes that a model sets while it is exported are set back: they hold no real tensors."""
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        yield
        return
    before = [
        (module, dict(module.__dict__), dict(module._buffers), dict(module._parameters))
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes, buffers, parameters in before:
            for name in set(module.__dict__) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
            for kept, now in ((buffers, module._buffers), (parameters, module._parameters)):
                now.clear()
                now.update(kept)


@contextmanager
def _on_cpu(model: Any) -> Iterator[None]:
    """A model on a GPU is exported from the CPU, where it is served, and goes back."""
    import torch

    found = next(model.parameters(), None)
    device = torch.device("cpu") if found is None else found.device
    if device.type == "cpu":
        yield
        return
    model.to("cpu")
    try:
        yield
    finally:
        model.to(device)
