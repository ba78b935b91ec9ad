"""Text classifiers in PyTorch: token ids and mask (N, T) in, logits (N, classes) out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lmaas.tasks.text_classification.options import Bag, Transformer
from lmaas.training.pytorch.blocks import EncoderBlock, dense, seeded
from lmaas.types import LanguageSpec


def build(name: str, options: Any, language: LanguageSpec, classes: int, seed: int) -> nn.Module:
    """The network called `name`, weights drawn from `seed`."""
    return seeded(seed, lambda: MAKERS[name](options, language, classes))


class BagNetwork(nn.Module):  # type: ignore[misc]
    """The mean of the tokens' embeddings, then dense layers."""

    def __init__(self, options: Bag, language: LanguageSpec, classes: int) -> None:
        super().__init__()
        self.tokens = embedding(language.vocabulary_size, options.width)
        self.layers = nn.Sequential(*dense([options.width, *options.hidden, classes]))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of (N, T) token ids, where the mask is 1."""
        return self.layers(mean(self.tokens(input_ids), attention_mask))


class TransformerNetwork(nn.Module):  # type: ignore[misc]
    """Tokens with learned places, encoder blocks, the mean of the tokens, one dense layer."""

    def __init__(self, options: Transformer, language: LanguageSpec, classes: int) -> None:
        super().__init__()
        self.tokens = embedding(language.vocabulary_size, options.width)
        self.places = nn.Parameter(0.02 * torch.randn(1, language.context_length, options.width))
        self.blocks = nn.ModuleList(
            EncoderBlock(options.width, options.heads, feed) for feed in options.feed
        )
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of (N, T) token ids, where the mask is 1."""
        x = self.tokens(input_ids) + self.places
        seen = (attention_mask > 0)[:, None, None, :]
        for block in self.blocks:
            x = block(x, seen)
        return self.head(mean(self.norm(x), attention_mask))


def embedding(count: int, width: int) -> nn.Embedding:
    """Small random vectors for `count` tokens."""
    made = nn.Embedding(count, width)
    nn.init.normal_(made.weight, std=0.05)
    return made


def mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens (N, T, W) that the mask shows."""
    shown = mask.to(x.dtype)[:, :, None]
    return (x * shown).sum(1) / shown.sum(1).clamp(min=1)


MAKERS: dict[str, Callable[..., nn.Module]] = {"bag": BagNetwork, "transformer": TransformerNetwork}
