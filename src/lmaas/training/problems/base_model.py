"""The model that training starts from: a package's, built again and filled with its weights."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from lmaas.errors import InvalidInput
from lmaas.recipe import ModelChoice, Recipe, TrainingFramework
from lmaas.types import Manifest


class BaseModel:
    """A package that a run of ours made. Raises InvalidInput for any other."""

    def __init__(self, folder: Path, recipe: Recipe, framework: TrainingFramework) -> None:
        self.manifest = read_manifest(folder)
        if (self.manifest.task, self.manifest.framework) != (recipe.task, framework):
            raise _refused(
                f"is a model of {self.manifest.task} in {self.manifest.framework}; the run trains "
                f"{recipe.task} in {framework}"
            )
        try:
            told = self.manifest.lineage.recipe["recipe"]
            self.model = msgspec.convert(told["model"], ModelChoice)
            self._read = dict(told["data"]["options"])
        except (KeyError, TypeError, msgspec.ValidationError):
            raise _refused("was not trained here, so its network is not known") from None
        self.folder = folder
        asked = recipe.model
        if asked.architecture not in (None, "auto", self.model.architecture):
            raise InvalidInput(
                f"The base model is a {self.model.architecture}, not a {asked.architecture}.",
                hint="Leave model.architecture out.",
                param="model.architecture",
            )
        require(asked.options, self.model.options, "model.options")
        self._asked = recipe.data.options

    def read_as(self, **own: Any) -> None:
        """Raise InvalidInput for a `data.options` of the recipe that differs from the base's.

        `own` is what the base's options were found to be.
        """
        require(self._asked, self._read | own, "data.options", also=self._read)

    def own_options(self) -> dict[str, Any]:
        """What the base's recipe said in `data.options`."""
        return dict(self._read)

    def fill(self, model: Any, *, head: bool) -> None:
        """Put the base's weights into `model`, a new network like it.

        Without `head`, the last layer keeps its own: the base's classes are other ones.
        """
        FILLERS[self.manifest.framework](model, self.folder / "source", head)


def _torch(model: Any, source: Path, head: bool) -> None:
    import torch
    from safetensors.torch import load_file

    given = load_file(source / "weights.safetensors")
    own = model.state_dict()
    last = list(model.named_parameters())[-1][0].rpartition(".")[0]
    skipped = () if head else (f"{last}.weight", f"{last}.bias")
    _check(
        {n: tuple(t.shape) for n, t in own.items()},
        {n: tuple(t.shape) for n, t in given.items()},
        skipped,
    )
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in skipped:
                tensor.copy_(given[name])


def _keras(model: Any, source: Path, head: bool) -> None:
    from lmaas import frameworks

    given = frameworks.get("keras").load(source)
    skipped = () if head else tuple(f"{len(model.weights) - n}" for n in (1, 2))
    own = {str(i): tuple(w.shape) for i, w in enumerate(model.weights)}
    _check(own, {str(i): tuple(w.shape) for i, w in enumerate(given.weights)}, skipped)
    for index, (to, weight) in enumerate(zip(model.weights, given.weights, strict=True)):
        if str(index) not in skipped:
            to.assign(weight)


def _tensorflow(model: Any, source: Path, head: bool) -> None:
    import tensorflow as tf

    from lmaas.training.tensorflow.network import paths

    reader = tf.train.load_checkpoint(str(source / "variables" / "variables"))
    key = "/.ATTRIBUTES/VARIABLE_VALUE"
    given = {n.removesuffix(key): tuple(s) for n, s in reader.get_variable_to_shape_map().items()}
    own = {name: tuple(variable.shape) for name, variable in paths(model).items()}
    skipped = () if head else tuple(n for n in own if n.startswith("head/"))
    _check(own, given, skipped)
    for name, variable in paths(model).items():
        if name not in skipped:
            variable.assign(reader.get_tensor(name + key))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a base's package. Raises InvalidInput."""
    try:
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise _refused(f"has no package that can be read ({error})") from None


FILLERS = {"pytorch": _torch, "keras": _keras, "tensorflow": _tensorflow}


def require(
    asked: Mapping[str, Any],
    own: Mapping[str, Any],
    param: str,
    also: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise InvalidInput for the first option asked for that is not the base's own."""
    for name, value in asked.items():
        if value != "auto" and all(value != of.get(name, "auto") for of in (own, also)):
            told = f"; the base's is {own[name]!r}" if name in own else ""
            raise InvalidInput(
                f"{param}.{name} is the base model's matter; received {value!r}{told}.",
                hint="Leave it out.",
                param=f"{param}.{name}",
            )


def _check(own: dict[str, Any], given: dict[str, Any], skipped: tuple[str, ...]) -> None:
    for name, shape in own.items():
        if name not in skipped and given.get(name) != shape:
            raise _refused(
                f"has weights of another network: {name} is {given.get(name)}; expected {shape}"
            )


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        f"The base model {why}.",
        hint="Train on a version that a run of the same task, framework and sizes made.",
        param="model.base",
    )
