"""The networks that a recipe can name, by task, and their sizes: data for every framework.

Networks have no state but their weights and act alike in training and inference: normalisation is
by group or layer, never by batch, so that a batch, its parts and its shards give one gradient.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.recipe import ModelChoice

Size = Annotated[int, Meta(ge=1, le=65_536)]
Depth = Annotated[int, Meta(ge=1, le=64)]


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all architectures' options."""


class Mlp(Architecture, frozen=True, kw_only=True):
    """Dense layers with ReLU between them; `hidden` are their widths."""

    hidden: Annotated[tuple[Size, ...], Meta(max_length=64)] = (128,)


class Cnn(Architecture, frozen=True, kw_only=True):
    """3 x 3 convolutions with ReLU and halving after each, mean over the image, one dense layer."""

    channels: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=8)] = (32, 64, 128)


class ResNet18(Architecture, frozen=True, kw_only=True):
    """He et al., 2015, for small images: a 3 x 3 stem, no pooling before the first stage.

    Normalised by group (Wu and He, 2018). `width` is the first stage's, 64 in the paper.
    """

    width: Annotated[int, Meta(ge=8, le=1024, multiple_of=8)] = 64


class Vit(Architecture, frozen=True, kw_only=True):
    """Dosovitskiy et al., 2020, with the mean of the patches instead of a class token."""

    patch: Annotated[int, Meta(ge=1, le=64)] = 4
    width: Size = 64
    depth: Depth = 4
    heads: Depth = 4


class Bag(Architecture, frozen=True, kw_only=True):
    """The mean of the tokens' embeddings, then dense layers."""

    width: Size = 64
    hidden: Annotated[tuple[Size, ...], Meta(max_length=64)] = (64,)


class Transformer(Architecture, frozen=True, kw_only=True):
    """A small encoder (Vaswani et al., 2017, normalised before each part), mean of the tokens."""

    width: Size = 64
    depth: Depth = 2
    heads: Depth = 4


KNOWN: dict[str, dict[str, type[Architecture]]] = {
    "image-classification": {"cnn": Cnn, "mlp": Mlp, "resnet18": ResNet18, "vit": Vit},
    "tabular": {"mlp": Mlp},
    "text-classification": {"bag": Bag, "transformer": Transformer},
}
"""Each task's architectures; the first is the one that "auto" takes."""

A = TypeVar("A", bound=Architecture)


def resolve(task: str, choice: ModelChoice) -> tuple[str, Any]:
    """The architecture's name and its options, defaults filled in. Raises InvalidInput."""
    known = KNOWN[task]
    name = choice.architecture
    if name is None or name == "auto":
        name = next(iter(known))
    if name not in known:
        raise InvalidInput(
            f"{task} knows no architecture {name!r}; known: {', '.join(known)}.",
            param="model.architecture",
        )
    try:
        options = msgspec.convert(choice.options, known[name])
    except msgspec.ValidationError as error:
        told = ", ".join(known[name].__struct_fields__)
        raise InvalidInput(
            f"model.options of {name}: {error}.", hint=f"Known are {told}.", param="model.options"
        ) from None
    if isinstance(options, Vit | Transformer) and options.width % options.heads:
        raise InvalidInput(
            f"model.options: width {options.width} is not a multiple of heads {options.heads}.",
            param="model.options",
        )
    return name, options


def noted(name: str, options: Architecture) -> ModelChoice:
    """The choice with everything said, as it goes into the resolved recipe."""
    return ModelChoice(architecture=name, options=msgspec.to_builtins(options))


def count_patches(options: Vit, height: int, width: int) -> int:
    """How many patches an image has. Raises InvalidInput where they do not fit."""
    if height % options.patch or width % options.patch:
        raise InvalidInput(
            f"Images of {height} x {width} do not divide into patches of {options.patch}.",
            hint="Set data.options height and width, or model.options patch.",
            param="model.options",
        )
    return (height // options.patch) * (width // options.patch)
