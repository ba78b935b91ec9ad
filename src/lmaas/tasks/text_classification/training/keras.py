"""Text classifiers in Keras: token ids and mask (N, T) in, logits (N, classes) out."""

import itertools
from typing import Any

import keras
from keras import layers, ops

from lmaas.tasks.text_classification.options import Bag, Transformer
from lmaas.training.keras.blocks import dense, encoder_block, he, places
from lmaas.types import LanguageSpec


def build(
    name: str, options: Bag | Transformer, language: LanguageSpec, classes: int, seed: int
) -> Any:
    """The network called `name`, weights drawn from `seed`."""
    seeds = itertools.count(seed * 4096)
    length = language.context_length
    ids = keras.Input((length,), dtype="int64", name="input_ids")
    mask = keras.Input((length,), dtype="int64", name="attention_mask")
    drawn = keras.initializers.RandomNormal(0.0, 0.05, seed=next(seeds))
    x = layers.Embedding(
        language.vocabulary_size, options.width, embeddings_initializer=drawn, name="tokens"
    )(ids)
    if isinstance(options, Transformer):
        x = layers.Add()([x, places(ids, length, options.width, seeds)])
        seen = ops.expand_dims(ops.greater(mask, 0), 1)
        for feed in options.feed:
            x = encoder_block(x, options.width, options.heads, feed, seeds, seen)
        features = _mean(layers.LayerNormalization(epsilon=1e-5)(x), mask)
    else:
        features = dense(_mean(x, mask), options.hidden, seeds)
    logits = layers.Dense(classes, kernel_initializer=he(seeds), name="logits")(features)
    return keras.Model([ids, mask], logits, name=name)


def _mean(x: Any, mask: Any) -> Any:
    """The mean over the tokens (N, T, W) that the mask shows."""
    shown = ops.expand_dims(ops.cast(mask, "float32"), -1)
    return ops.sum(x * shown, axis=1) / ops.maximum(ops.sum(shown, axis=1), 1.0)
