"""What a learner has to know of a network of TensorFlow's variables; and of a `tf.Module`."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import tensorflow as tf

from lmaas.frameworks.base import takes_keywords
from lmaas.training.tensorflow.precision import in_bf16, multiplying_in_bf16

KERNEL = "kernel"


class Network(msgspec.Struct, kw_only=True):
    """A live model, taken apart.

    `weights` are all that inference needs, by a stable name, and `trained` those of them that are.
    `kernels` are the trained ones that can be pruned, and which axis of each runs over its inputs.
    `random` are variables that hold the state of a random generator. `call` gives the outputs for
    tensors by name, `penalty` what the layers add to the mean loss of a batch, `in_bf16` is a
    context in which `call` computes in bfloat16.
    """

    model: Any
    weights: dict[str, Any]
    trained: dict[str, Any]
    kernels: dict[str, int]
    random: list[Any]
    call: Callable[[dict[str, Any], bool], Any]
    in_bf16: Callable[[], AbstractContextManager[None]]
    penalty: Callable[[], Any] = lambda: None


def paths(model: Any) -> dict[str, Any]:
    """A TensorFlow module's variables by the way to them: "blocks/0/kernel"."""
    return {"/".join(map(str, path)): found for path, found in _flat(model, tf.Variable)}


def of_module(model: Any) -> Network:
    """A `tf.Module`, or a loaded SavedModel.

    Its call may take `training`. Its kernels are the variables called `kernel`, as in
    `blocks`. Random numbers can be repeated if they are from a `tf.random.Generator` in it.
    """
    weights = paths(model) if isinstance(model, tf.Module) else _listed(model)
    trained = {name: variable for name, variable in weights.items() if variable.trainable}
    made = type(model).__call__
    plain = functools.partial(getattr(made, "python_function", made), model)
    graph = model if hasattr(made, "python_function") else tf.function(plain, reduce_retracing=True)
    modes = "training" in inspect.signature(plain).parameters

    def forward(tensors: dict[str, Any], training: bool) -> Any:
        # The module's own graph is traced once, whatever the precision.
        function = plain if in_bf16() else graph
        mode = {"training": training} if modes else {}
        if takes_keywords(plain, list(tensors)):
            return function(**tensors, **mode)
        return function(*tensors.values(), **mode)

    return Network(
        model=model,
        weights=weights,
        trained=trained,
        kernels={
            name: variable.shape.rank - 2
            for name, variable in trained.items()
            if name.rpartition("/")[2] == KERNEL and variable.shape.rank >= 2
        },
        random=[found.state for _, found in _flat(model, tf.random.Generator)],
        call=forward,
        in_bf16=multiplying_in_bf16,
    )


def _flat(model: Any, kind: type) -> list[tuple[tuple[Any, ...], Any]]:
    if not isinstance(model, tf.Module):
        return []
    return list(model._flatten(predicate=lambda value: isinstance(value, kind), with_path=True))


def _listed(model: Any) -> dict[str, Any]:
    """What a loaded SavedModel says it has."""
    return {str(index): found for index, found in enumerate(getattr(model, "variables", ()))}
