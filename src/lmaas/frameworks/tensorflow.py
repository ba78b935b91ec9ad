"""TensorFlow: a `tf.Module` that can be called, or a SavedModel."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs import strings
from lmaas.errors import InvalidInput
from lmaas.frameworks import frozen, tf_forms
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import (
    Facts,
    Form,
    Framework,
    by_name,
    takes_keywords,
    unnamed,
)
from lmaas.frameworks.source import SEED
from lmaas.runtime.cases import NumberFormat
from lmaas.runtime.native import saved_model
from lmaas.runtime.native.saved_model import SERVING
from lmaas.tasks import Tensors
from lmaas.types import FrameworkName, TensorSpec

FROZEN = "model.pb"
FEW_NUMBERS = 1 << 16
"""Variables of at most so many numbers are set back after a model was asked."""


class TensorFlow:
    """Verbs for `tf.Module` and loaded SavedModels."""

    name: FrameworkName = "tensorflow"

    def owns(self, model: Any) -> bool:
        """Whether `model` is a module, a `tf.function` or a loaded SavedModel."""
        import tensorflow as tf

        return isinstance(model, tf.Module | tf.types.experimental.PolymorphicFunction) or hasattr(
            model, "signatures"
        )

    def version(self) -> str:
        """TensorFlow's version."""
        import tensorflow as tf

        return str(tf.__version__)

    def inputs(self, model: Any) -> list[TensorSpec]:
        """Those of the serving signature, or of the call's `input_signature`."""
        served = _served(model)
        if served is not None:
            declared = served.structured_input_signature[1].items()
        else:
            specs = getattr(_polymorphic(model), "input_signature", None) or ()
            names = self.name_inputs(model, specs) if specs else []
            declared = list(zip(names, specs, strict=True))
        return [
            TensorSpec(
                name=name,
                dtype=spec.dtype.name,
                shape=tuple(-1 if size is None else size for size in spec.shape.as_list()),
            )
            for name, spec in declared
            if spec.shape.rank is not None
        ]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """The signature's names, or those of __call__'s parameters."""
        served = _served(model)
        if served is not None:
            return list(served.structured_input_signature[1])
        names = list(inspect.signature(_function(model)).parameters)
        if len(names) < len(sample) or names == ["args", "kwargs"]:
            return unnamed(len(sample))
        return names[: len(sample)]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """A SavedModel that keeps its serving signature, or has the call as one."""
        import tensorflow as tf

        served = _served(model)
        graph = served if served is not None else tf_forms.concrete(model, call, arrays, named=True)
        if not isinstance(model, tf.Module) and served is None:
            tf_forms.write(model, graph, folder)
            return
        try:
            tf.saved_model.save(model, str(folder), signatures={SERVING: graph})
        except (AssertionError, ValueError, TypeError) as error:
            raise InvalidInput(f"TensorFlow cannot save the module: {str(error)[:500]}") from error

    def load(self, folder: Path, like: Any = None) -> Any:
        """The SavedModel in `folder`, or the frozen graph that it is the file of; both checked."""
        import tensorflow as tf

        if folder.is_file() or (folder / FROZEN).is_file():
            return frozen.load(folder if folder.is_file() else folder / FROZEN)

        saved_model.check(folder)
        try:
            return tf.saved_model.load(str(folder))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as e:
            raise InvalidInput(
                f"{folder.name} is not a SavedModel that can be loaded: {str(e)[:500]}",
                hint="Save it again with tf.saved_model.save or model.export.",
            ) from None

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Outputs of the call or of the serving signature."""
        import tensorflow as tf

        outputs = call(model, {name: tf.constant(a) for name, a in arrays.items()})
        return {name: to_array(value) for name, value in by_name(outputs).items()}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """The graph of the call, or a SavedModel of it, for OpenVINO; as it is for TensorFlow."""
        return tf_forms.forms(model, call, arrays, outputs, axes)

    def seed(self, model: Any) -> None:
        """TensorFlow's own random numbers."""
        import tensorflow as tf

        tf.random.set_seed(SEED)

    @contextmanager
    def kept(self, model: Any) -> Iterator[None]:
        """Variables that are few numbers, such as counters and states."""
        before = [
            (variable, variable.numpy())
            for variable in getattr(model, "variables", ())
            if variable.shape.num_elements() and variable.shape.num_elements() <= FEW_NUMBERS
        ]
        try:
            yield
        finally:
            for variable, value in before:
                variable.assign(value)

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """By the types of its variables."""
        return Facts(format_of(getattr(model, "variables", ())))

    def num_parameters(self, model: Any) -> int:
        """Elements of all variables."""
        variables = getattr(model, "variables", ())
        return sum(int(np.prod(variable.shape)) for variable in variables)


def to_array(value: Any) -> np.ndarray:
    """A tensor as numpy has it: bfloat16 becomes float32, texts become objects of bytes."""
    import tensorflow as tf

    if value.dtype == tf.bfloat16:
        value = tf.cast(value, tf.float32)
    array = value.numpy()
    if value.dtype == tf.string:
        return strings.from_objects(array, name="The output")
    return np.asarray(array)


def format_of(variables: Iterable[Any]) -> NumberFormat:
    """The least exact floating-point type among variables."""
    kinds = {str(getattr(v.dtype, "name", v.dtype)) for v in variables}
    return "f16" if "float16" in kinds else "bf16" if "bfloat16" in kinds else "f32"


def select(model: Any, name: str | None) -> Any:
    """The loaded SavedModel with its signature `name` as the one that is served.

    None: its default, or its only one. Raises InvalidInput where it has none like it.
    """
    import tensorflow as tf

    known = sorted(getattr(model, "signatures", None) or ())
    if name is None and (SERVING in known or len(known) < 2):
        return model
    if name not in known:
        what = "several" if name is None else f"no {name!r} among its"
        raise InvalidInput(
            f"The SavedModel has {what} signatures: {', '.join(known) or 'none'}.",
            hint="Each is a model of its own name: lmaas push … --name NAME --signature "
            f"{known[0] if known else 'NAME'}.",
            param="signature",
        )

    class Selected(tf.Module):  # type: ignore[misc]
        """A SavedModel as one of its signatures."""

        def __init__(self) -> None:
            super().__init__()
            self.loaded = model

        @property
        def signatures(self) -> dict[str, Any]:
            """The one that was selected."""
            return {SERVING: self.loaded.signatures[name]}

    return Selected()


def _served(model: Any) -> Any:
    signatures = getattr(model, "signatures", None)
    if not signatures:
        return None
    if SERVING in signatures or len(signatures) == 1:
        return signatures[SERVING if SERVING in signatures else next(iter(signatures))]
    # A live SavedModel has no command line to say which: the error says how.
    return _served(select(model, None))


def call(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The outputs of the serving signature, of the module's call, or of a function."""
    served = _served(model)
    if served is not None:
        return served(**tensors)
    _check_callable(model)
    if takes_keywords(_function(model), list(tensors)):
        return model(**tensors)
    return model(*tensors.values())


def _check_callable(model: Any) -> None:
    """Raise InvalidInput for a module without `__call__` or serving signature."""
    if callable(model):
        return
    found = [n for n in dir(type(model)) if hasattr(getattr(model, n, None), "python_function")]
    shown = ", ".join(f"model.{name}" for name in found[:5])
    raise InvalidInput(
        f"The {type(model).__name__} has no serving signature and cannot be called.",
        hint=f"Publish one of its functions, as lmaas.publish(model.{found[0]}, …): {shown}."
        if found
        else "Give it a __call__, or save it with signatures=….",
    )


def _polymorphic(model: Any) -> Any:
    """The `tf.function` that is called, where it is one."""
    import tensorflow as tf

    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        return model
    return getattr(model, "__call__", None)  # noqa: B004 - the function itself is needed


def _function(model: Any) -> Any:
    """What is called, as Python sees its parameters: a bound method has no self."""
    import tensorflow as tf

    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        return model.python_function
    _check_callable(model)
    call = model.__call__
    return getattr(call, "python_function", call)


FRAMEWORK: Framework = TensorFlow()
