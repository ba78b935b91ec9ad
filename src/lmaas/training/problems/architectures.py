"""The networks that a recipe can name, by task, and their sizes: data for every framework.

Networks have no state but their weights and act alike in training and inference: normalisation is
by group or layer, never by batch, so that a batch, its parts and its shards give one gradient.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.recipe import ModelChoice
from lmaas.training.base import Width

Size = Annotated[int, Meta(ge=1, le=65_536)]
Depth = Annotated[int, Meta(ge=1, le=64)]
FeedSize = Annotated[int, Meta(ge=1, le=4 * 65_536)]
NORM_GROUPS = 8
"""A ResNet's channels are normalised in so many groups."""
STAGES, BLOCKS = 4, 2
"""A ResNet-18's stages, and the blocks of each."""


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

    Normalised by group (Wu and He, 2018). `width` is the first stage's, 64 in the paper. `inner`
    are the channels between the two convolutions of each block: left out, the stage's.
    """

    width: Annotated[int, Meta(ge=8, le=1024, multiple_of=NORM_GROUPS)] = 64
    inner: tuple[Annotated[int, Meta(ge=8, le=8192, multiple_of=NORM_GROUPS)], ...] = ()

    def __post_init__(self) -> None:
        widths = [self.width << stage for stage in range(STAGES) for _ in range(BLOCKS)]
        _fill(self, "inner", widths)


class Vit(Architecture, frozen=True, kw_only=True):
    """Dosovitskiy et al., 2020, with the mean of the patches instead of a class token.

    `feed` are the widths inside the blocks' feed-forward parts: left out, four times `width`.
    """

    patch: Annotated[int, Meta(ge=1, le=64)] = 4
    width: Size = 64
    depth: Depth = 4
    heads: Depth = 4
    feed: tuple[FeedSize, ...] = ()

    def __post_init__(self) -> None:
        _fill(self, "feed", [4 * self.width] * self.depth)


class Bag(Architecture, frozen=True, kw_only=True):
    """The mean of the tokens' embeddings, then dense layers."""

    width: Size = 64
    hidden: Annotated[tuple[Size, ...], Meta(max_length=64)] = (64,)


class Transformer(Architecture, frozen=True, kw_only=True):
    """A small encoder (Vaswani et al., 2017, normalised before each part), mean of the tokens.

    `feed` are the widths inside the blocks' feed-forward parts: left out, four times `width`.
    """

    width: Size = 64
    depth: Depth = 2
    heads: Depth = 4
    feed: tuple[FeedSize, ...] = ()

    def __post_init__(self) -> None:
        _fill(self, "feed", [4 * self.width] * self.depth)


class BoostedTrees(Architecture, frozen=True, kw_only=True):
    """Gradient-boosted trees, grown leaf by leaf (Ke et al., 2017). An epoch is a round.

    A tree has at most `leaves`, of at least `leaf_samples` samples each ("auto": 20, fewer where
    there are few samples), and at most `depth` splits on a way. `column_share` of the columns are
    drawn for each tree. `bins` are what numbers are sorted into, `l1` and `l2` penalise leaves.
    """

    leaves: Annotated[int, Meta(ge=2, le=4096)] = 31
    depth: Annotated[int, Meta(ge=1, le=64)] = 8
    leaf_samples: Annotated[int, Meta(ge=1)] | Literal["auto"] = "auto"
    column_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    bins: Annotated[int, Meta(ge=2, le=4096)] = 255
    l1: Annotated[float, Meta(ge=0)] = 0.0
    l2: Annotated[float, Meta(ge=0)] = 0.0


class Stack(Architecture, frozen=True, kw_only=True):
    """Boosted trees, a linear model and a net, and a mixture of them where that is better.

    Each of the `members` is fitted on all but one of `folds` parts of the samples in turn, and what
    it says of that part decides. "auto": all members ("random-trees" draw their thresholds), and
    the more folds the fewer samples there are; 1 holds a part out.
    """

    members: (
        Annotated[
            tuple[Literal["trees", "random-trees", "linear", "net"], ...],
            Meta(min_length=1, max_length=4),
        ]
        | Literal["auto"]
    ) = "auto"
    folds: Annotated[int, Meta(ge=1, le=20)] | Literal["auto"] = "auto"


class Compared(Architecture, frozen=True, kw_only=True):
    """A linear model over n-grams of characters and a bag; the better one on held-out samples."""


class Decoder(Architecture, frozen=True, kw_only=True):
    """A language model shaped as its family's, with a vocabulary learned from the data."""

    vocabulary: Annotated[int, Meta(ge=300, le=200_000)] = 2000
    hidden: Annotated[int, Meta(ge=8)] = 128
    layers: Annotated[int, Meta(ge=1)] = 2
    heads: Annotated[int, Meta(ge=1)] = 4
    kv_heads: Annotated[int, Meta(ge=1)] = 2
    mlp: Annotated[int, Meta(ge=8)] = 384
    context: Annotated[int, Meta(ge=16)] = 512

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")


def _fill(options: Architecture, field: str, widths: list[int]) -> None:
    """Let `field` be `widths` where it is left out. Raises ValueError for another length."""
    given = getattr(options, field)
    if not given:
        msgspec.structs.force_setattr(options, field, tuple(widths))
    elif len(given) != len(widths):
        raise ValueError(f"{field} has {len(given)} widths; expected {len(widths)}, one a block")


TREES: Final = "boosted-trees"
STACK: Final = "stack"
COMPARED: Final = "compared"

KNOWN: dict[str, dict[str, type[Architecture]]] = {
    "image-classification": {"cnn": Cnn, "mlp": Mlp, "resnet18": ResNet18, "vit": Vit},
    "tabular": {STACK: Stack, "mlp": Mlp, TREES: BoostedTrees},
    "text-classification": {COMPARED: Compared, "bag": Bag, "transformer": Transformer},
    "text-generation": {"qwen3": Decoder, "llama": Decoder},
}
"""Each task's architectures; the first is the one that "auto" takes.

Where the framework or an option of networks is named, "auto" is mlp of a table and bag of texts.
"""

FREE: dict[type[Architecture], tuple[str, int]] = {
    Mlp: ("hidden", 1),
    Cnn: ("channels", 1),
    ResNet18: ("inner", NORM_GROUPS),
    Vit: ("feed", 1),
    Transformer: ("feed", 1),
    Bag: ("hidden", 1),
}
"""The field with the widths that nothing else is tied to, and in how many parts each lies.

Of a ResNet and of encoder blocks the widths between blocks are those of all: every block adds to
what came before it.
"""

A = TypeVar("A", bound=Architecture)


def widths(options: Architecture) -> dict[str, Width]:
    """The widths that can be made smaller, each alone, by name: "hidden.0"."""
    if type(options) not in FREE:
        return {}
    field, parts = FREE[type(options)]
    return {
        f"{field}.{index}": Width(size=size, parts=parts)
        for index, size in enumerate(getattr(options, field))
    }


def resized(options: A, sizes: Mapping[str, int]) -> A:
    """The options with all the widths that `widths` names."""
    field, _ = FREE[type(options)]
    given = tuple(sizes[name] for name in widths(options))
    return msgspec.structs.replace(options, **{field: given})


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
