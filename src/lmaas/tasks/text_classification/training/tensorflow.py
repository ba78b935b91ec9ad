"""Text classifiers in plain TensorFlow: token ids and mask (N, T) in, logits (N, classes) out."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lmaas.tasks.text_classification.options import Bag, Transformer
from lmaas.training.tensorflow.blocks import Dense, Draw, EncoderBlock, LayerNorm, Stack
from lmaas.types import LanguageSpec

HIDDEN = -1e9
"""Added to the score of a token that is not to be looked at."""


def build(name: str, options: Any, language: LanguageSpec, classes: int, seed: int) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    return MAKERS[name](options, language, classes, Draw(seed))


class BagNetwork(tf.Module):  # type: ignore[misc]
    """The mean of the tokens' embeddings, then dense layers."""

    def __init__(self, options: Bag, language: LanguageSpec, classes: int, draw: Draw) -> None:
        super().__init__()
        self.tokens = draw.normal((language.vocabulary_size, options.width), 0.05, "tokens")
        sizes = [options.width, *options.hidden]
        self.stack = Stack(draw, sizes, "stack")
        self.head = Dense(draw, sizes[-1], classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """Logits of (N, T) token ids, where the mask is 1."""
        return self.head(self.stack(mean(tf.gather(self.tokens, input_ids), attention_mask)))


class TransformerNetwork(tf.Module):  # type: ignore[misc]
    """Tokens with learned places, encoder blocks, the mean of the tokens, one dense layer."""

    def __init__(
        self, options: Transformer, language: LanguageSpec, classes: int, draw: Draw
    ) -> None:
        super().__init__()
        length = language.context_length
        self.tokens = draw.normal((language.vocabulary_size, options.width), 0.05, "tokens")
        self.places = draw.normal((1, length, options.width), 0.02, "places")
        self.blocks = [
            EncoderBlock(draw, length, options.width, options.heads, feed, f"block_{index}")
            for index, feed in enumerate(options.feed)
        ]
        self.norm = LayerNorm(options.width, "norm")
        self.head = Dense(draw, options.width, classes, "head")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """Logits of (N, T) token ids, where the mask is 1."""
        x = tf.gather(self.tokens, input_ids) + self.places
        hidden = (1 - tf.cast(attention_mask, tf.float32))[:, None, None, :] * HIDDEN
        for block in self.blocks:
            x = block(x, hidden)
        return self.head(mean(self.norm(x), attention_mask))


def mean(x: Any, mask: Any) -> Any:
    """The mean over the tokens (N, T, W) that the mask shows."""
    shown = tf.cast(mask, tf.float32)[:, :, None]
    return tf.reduce_sum(x * shown, 1) / tf.maximum(tf.reduce_sum(shown, 1), 1.0)


MAKERS: dict[str, Callable[..., Any]] = {"bag": BagNetwork, "transformer": TransformerNetwork}
