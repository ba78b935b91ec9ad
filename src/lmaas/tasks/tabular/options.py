"""What a recipe for tables may say of its data and its model."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.tasks.architectures import Architecture
from lmaas.tasks.spec import DataOptions

TREES: Final = "boosted-trees"
STACK: Final = "stack"


class TableDataOptions(DataOptions, frozen=True, kw_only=True):
    """What the target is, what columns are, and which are left out.

    "auto": a target of few whole numbers or of names is one of classes, another one a number.
    `kinds` says what a column is, where it is another thing than it looks like, `decimals` which
    mark its numbers have before the fraction.
    """

    kind: Literal["auto", "classification", "regression"] = "auto"
    kinds: dict[str, Literal["number", "category", "date"]] = msgspec.field(default_factory=dict)
    decimals: dict[str, Literal[".", ","]] = msgspec.field(default_factory=dict)
    ignore: tuple[str, ...] = ()


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
