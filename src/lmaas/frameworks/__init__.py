"""How a model was written: one module a framework, each with the verbs of `base.Framework`.

The only importers of torch, keras, tensorflow, onnx and lightgbm. Knows tasks, no registry or
server.
"""

import importlib
import sys
from typing import Any, cast

from lmaas.errors import InvalidInput
from lmaas.frameworks.base import Framework
from lmaas.types import FrameworkName

FRAMEWORKS: dict[FrameworkName, str] = {
    "keras": "lmaas.frameworks.keras",
    "pytorch": "lmaas.frameworks.pytorch",
    "tensorflow": "lmaas.frameworks.tensorflow",
    "onnx": "lmaas.frameworks.onnx",
    "openvino": "lmaas.frameworks.openvino_ir",
    "tflite": "lmaas.frameworks.tflite",
    "lightgbm": "lmaas.frameworks.lightgbm",
    "xgboost": "lmaas.frameworks.xgboost",
    "scikit-learn": "lmaas.frameworks.sklearn",
    "stack": "lmaas.frameworks.stack",
    "ngrams": "lmaas.frameworks.ngrams",
}
"""Each framework's module, imported on first use; the module's `FRAMEWORK` has the verbs.

In the order in which a live object is asked for: a Keras model is also a module of its backend.
"""


def get(name: FrameworkName) -> Framework:
    """The framework called `name`."""
    return cast(Framework, importlib.import_module(FRAMEWORKS[name]).FRAMEWORK)


def of_object(model: Any) -> FrameworkName:
    """Which framework a live model belongs to. Raises InvalidInput when to none."""
    modules = {
        "keras": "keras",
        "pytorch": "torch",
        "tensorflow": "tensorflow",
        "lightgbm": "lightgbm",
        "xgboost": "xgboost",
        "scikit-learn": "sklearn",
        "stack": "lmaas.frameworks.stack",
        "ngrams": "lmaas.frameworks.ngrams",
    }
    for name in FRAMEWORKS:
        if modules.get(name) in sys.modules and get(name).owns(model):
            return name
    raise InvalidInput(
        f"Cannot publish a {type(model).__module__}.{type(model).__qualname__}; expected a "
        "torch.nn.Module, a keras.Model, a tf.Module or tf.function, a lightgbm or xgboost "
        "Booster, or a scikit-learn estimator.",
        hint=_hint(model),
        param="model",
    )


def _hint(model: Any) -> str:
    if type(model).__module__.startswith(("jax", "jaxlib", "flax")):
        return (
            "Make it a tf.function (from jax.experimental import jax2tf):\n"
            'model = tf.function(jax2tf.convert(model, polymorphic_shapes=["b, ..."]), '
            "autograph=False)\n"
            'lmaas.publish(model, name="NAME", task="tensor", sample=x)'
        )
    if callable(model):
        return "Wrap a function in a torch.nn.Module or a tf.function."
    return "Files and folders are published with `lmaas push`."
