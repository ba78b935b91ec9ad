"""What Keras networks are made of: layers and operations of Keras's own, so a file of them loads
anywhere.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers, ops


def he(seeds: Iterator[int]) -> Any:
    """He et al.'s initial weights, drawn from the next seed."""
    return keras.initializers.HeNormal(seed=next(seeds))


def small(seeds: Iterator[int]) -> Any:
    """Initial embeddings, drawn from the next seed."""
    return keras.initializers.RandomNormal(0.0, 0.02, seed=next(seeds))


def dense(x: Any, hidden: Sequence[int], seeds: Iterator[int]) -> Any:
    """Dense layers of these widths with ReLU after each."""
    for width in hidden:
        x = layers.Dense(width, activation="relu", kernel_initializer=he(seeds))(x)
    return x


def places(like: Any, count: int, width: int, seeds: Iterator[int]) -> Any:
    """Learned embeddings (N, T, W) of the places 0 to T - 1, for `like` of shape (N, T)."""
    numbers = ops.cumsum(ops.ones_like(like, dtype="int32"), axis=1) - 1
    return layers.Embedding(count, width, embeddings_initializer=small(seeds))(numbers)


def encoder_block(
    x: Any, width: int, heads: int, feed: int, seeds: Iterator[int], seen: Any | None = None
) -> Any:
    """Attention and a part of two dense layers, each normalised before and added after.

    `seen` (N, 1, T), where given, is False where nothing is to be looked at.
    """

    def glorot() -> Any:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    y = layers.LayerNormalization(epsilon=1e-5)(x)
    attention = layers.MultiHeadAttention(heads, width // heads, kernel_initializer=glorot())
    x = layers.Add()([x, attention(y, y, attention_mask=seen)])
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(feed, activation="gelu", kernel_initializer=glorot())(y)
    return layers.Add()([x, layers.Dense(width, kernel_initializer=glorot())(y)])
