"""What a recipe for language models may say of its data and its network."""

from typing import Annotated

from msgspec import Meta

from lmaas.tasks.architectures import Architecture, Shape
from lmaas.tasks.spec import DataOptions


class ConversationDataOptions(DataOptions, frozen=True, kw_only=True):
    """The longest sample in tokens; 0 takes the model's context. What is longer is refused."""

    max_length: Annotated[int, Meta(ge=0)] = 0


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

    def parameters(self, shape: Shape) -> int:
        """The matrices of a Llama-shaped model whose embeddings are tied, for `shape.tokens`."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden * self.heads * head + 2 * self.hidden * self.kv_heads * head
        layer = attention + 3 * self.hidden * self.mlp
        return shape.tokens * self.hidden + self.layers * layer
