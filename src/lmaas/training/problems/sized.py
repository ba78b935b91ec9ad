"""What problems whose network is one of `architectures` share: its sizes, and smaller ones."""

from collections.abc import Mapping

import msgspec

from lmaas.recipe import ModelChoice
from lmaas.tasks.architectures import Architecture, Shape
from lmaas.training.base import Width
from lmaas.training.problems import architectures


class SizedNetwork:
    """A problem with a network of these `_sizes`; `model` says them in the resolved recipe."""

    _sizes: Architecture
    model: ModelChoice
    resized = False
    """Whether the network is another than the recipe or the base has."""

    def _shape(self) -> Shape:
        """What the network reads and tells."""
        raise NotImplementedError

    def num_parameters(self) -> int:
        """See `base.Counted.num_parameters`."""
        return self._sizes.parameters(self._shape())

    def widths(self) -> dict[str, Width]:
        """See `base.Resizable.widths`."""
        return architectures.widths(self._sizes)

    def resize(self, sizes: Mapping[str, int]) -> None:
        """See `base.Resizable.resize`."""
        self._sizes = architectures.resized(self._sizes, sizes)
        options = msgspec.to_builtins(self._sizes)
        self.model = msgspec.structs.replace(self.model, options=options)
        self.resized = True
