"""The encoder-decoder in plain TensorFlow: (N, S) and (N, T) token ids in, logits (N, T, V) out.

The way to a variable is its name in `training.encoder_decoder`, with slashes; dense kernels are
(in, out) here.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from lmaas.training import encoder_decoder as layout
from lmaas.training.tensorflow.blocks import Dense, Draw, LayerNorm
from lmaas.training.tensorflow.precision import matmul

HIDDEN = -1e9
"""Added to the score of a token that is not to be looked at."""


class Dropout(tf.Module):  # type: ignore[misc]
    """Srivastava et al., 2014, with a generator whose state can be put back."""

    def __init__(self, rate: float) -> None:
        super().__init__(name="dropout")
        self.rate = rate
        if rate:
            self.generator = tf.random.Generator.from_seed(0)

    def __call__(self, x: Any, training: bool) -> Any:
        """The same shape."""
        if not training or not self.rate:
            return x
        kept = self.generator.uniform(tf.shape(x)) >= self.rate
        return tf.where(kept, x / (1 - self.rate), tf.zeros_like(x))


class Attention(tf.Module):  # type: ignore[misc]
    """Each place of `x` (N, T, W) looks at places of `memory` (N, S, W)."""

    def __init__(self, draw: Draw, width: int, heads: int, name: str) -> None:
        super().__init__(name=name)
        self.width, self.heads = width, heads
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, part, Dense(draw, width, width, part))

    def __call__(self, x: Any, memory: Any, hidden: Any) -> Any:
        """(N, T, W); `hidden`, added to scores, is very low where nothing is to be looked at."""
        size = self.width // self.heads

        def split(each: Any) -> Any:
            parts = tf.reshape(each, [tf.shape(each)[0], tf.shape(each)[1], self.heads, size])
            return tf.transpose(parts, [0, 2, 1, 3])

        q, k, v = split(self.q_proj(x)), split(self.k_proj(memory)), split(self.v_proj(memory))
        scores = matmul(q, k, transpose_b=True) * size**-0.5 + hidden
        mixed = tf.transpose(matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        return self.out_proj(tf.reshape(mixed, [tf.shape(x)[0], tf.shape(x)[1], self.width]))


class Layer(tf.Module):  # type: ignore[misc]
    """A layer of one of the stacks; the decoder's looks at the source as well."""

    def __init__(
        self, draw: Draw, sizes: layout.Sizes, feed: int, drop: Dropout, *, decoder: bool
    ) -> None:
        super().__init__(name="layer")
        width = sizes.width
        self.self_attn = Attention(draw, width, sizes.heads, "self_attn")
        self.self_attn_layer_norm = LayerNorm(width, "self_attn_layer_norm")
        if decoder:
            self.encoder_attn = Attention(draw, width, sizes.heads, "encoder_attn")
            self.encoder_attn_layer_norm = LayerNorm(width, "encoder_attn_layer_norm")
        self.fc1 = Dense(draw, width, feed, "fc1")
        self.fc2 = Dense(draw, feed, width, "fc2")
        self.final_layer_norm = LayerNorm(width, "final_layer_norm")
        self.drop = drop

    def __call__(self, x: Any, hidden: Any, training: bool, memory: Any = None, of: Any = 0) -> Any:
        """(N, T, W) to the same; `hidden` is for its own places, `of` for the memory's."""
        y = self.self_attn_layer_norm(x)
        x = x + self.drop(self.self_attn(y, y, hidden), training)
        if memory is not None:
            y = self.encoder_attn_layer_norm(x)
            x = x + self.drop(self.encoder_attn(y, memory, of), training)
        y = self.final_layer_norm(x)
        return x + self.drop(self.fc2(tf.nn.relu(self.fc1(y))), training)


class Stack(tf.Module):  # type: ignore[misc]
    """Layers and a last normalisation."""

    def __init__(self, draw: Draw, sizes: layout.Sizes, drop: Dropout, *, decoder: bool) -> None:
        super().__init__(name="decoder" if decoder else "encoder")
        first = sizes.layers if decoder else 0
        self.layers = [
            Layer(draw, sizes, sizes.feed[first + index], drop, decoder=decoder)
            for index in range(sizes.layers)
        ]
        self.layer_norm = LayerNorm(sizes.width, "layer_norm")


class EncoderDecoder(tf.Module):  # type: ignore[misc]
    """See `training.encoder_decoder`."""

    def __init__(self, sizes: layout.Sizes, vocabulary: int, most: int) -> None:
        super().__init__(name="encoder_decoder")
        draw, drop = Draw(0), Dropout(sizes.dropout)
        self.shared = draw.normal((vocabulary, sizes.width), 1.0, "shared")
        self.encoder = Stack(draw, sizes, drop, decoder=False)
        self.decoder = Stack(draw, sizes, drop, decoder=True)
        self.drop, self.scale = drop, sizes.width**0.5
        self.table = tf.constant(layout.places(most, sizes.width))

    def encode(self, input_ids: Any, attention_mask: Any, training: bool = False) -> Any:
        """What the decoder looks at, (N, S, W)."""
        hidden, x = _hidden(attention_mask), self._read(input_ids, training)
        for layer in self.encoder.layers:
            x = layer(x, hidden, training)
        return self.encoder.layer_norm(x)

    def decode(
        self, memory: Any, attention_mask: Any, decoder_input_ids: Any, training: bool = False
    ) -> Any:
        """The logits (N, T, V) of what follows each of the decoder's tokens."""
        count = tf.shape(decoder_input_ids)[1]
        later = HIDDEN * (1 - tf.linalg.band_part(tf.ones([count, count]), -1, 0))
        x = self._read(decoder_input_ids, training)
        for layer in self.decoder.layers:
            x = layer(x, later, training, memory, _hidden(attention_mask))
        return matmul(self.decoder.layer_norm(x), self.shared, transpose_b=True)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def __call__(
        self, input_ids: Any, attention_mask: Any, decoder_input_ids: Any, training: bool = False
    ) -> Any:
        """Logits (N, T, V)."""
        memory = self.encode(input_ids, attention_mask, training)
        return self.decode(memory, attention_mask, decoder_input_ids, training)

    def _read(self, ids: Any, training: bool) -> Any:
        x = tf.gather(self.shared, ids) * self.scale + self.table[: tf.shape(ids)[1]]
        return self.drop(x, training)


def _hidden(mask: Any) -> Any:
    return (1 - tf.cast(mask > 0, tf.float32))[:, None, None, :] * HIDDEN


def build(sizes: layout.Sizes, vocabulary: int, most: int, weights: layout.Weights) -> Any:
    """The network with these weights, for texts of at most `most` tokens."""
    model = EncoderDecoder(sizes, vocabulary, most)
    for name, variable, turned in _variables(model, sizes):
        variable.assign(weights[name].T if turned else weights[name])
    return model


def weights_of(model: Any, sizes: layout.Sizes) -> layout.Weights:
    """The weights in the one layout."""
    found = {}
    for name, variable, turned in _variables(model, sizes):
        array = variable.numpy()
        found[name] = np.ascontiguousarray(array.T if turned else array)
    return found


def _variables(model: Any, sizes: layout.Sizes) -> list[tuple[str, Any, bool]]:
    """Each weight's name, its variable, and whether that is turned."""
    found = [(f"{layout.SHARED}.weight", model.shared, False)]
    for name, _, _ in layout.dense_names(sizes):
        dense = _at(model, name)
        found += [(f"{name}.weight", dense.kernel, True), (f"{name}.bias", dense.bias, False)]
    for name in layout.norm_names(sizes):
        norm = _at(model, name)
        found += [(f"{name}.weight", norm.scale, False), (f"{name}.bias", norm.shift, False)]
    return found


def _at(model: Any, name: str) -> Any:
    for part in name.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def decoder_of(model: Any) -> tuple[Any, Any]:
    """Functions of arrays: `encode(ids, mask) -> memory`, `decode(memory, mask, ids) -> logits`."""
    ids = tf.TensorSpec([None, None], tf.int64)
    encode = tf.function(model.encode, input_signature=[ids, ids], autograph=False)
    memory = tf.TensorSpec([None, None, None], tf.float32)
    graph = tf.function(model.decode, input_signature=[memory, ids, ids], autograph=False)

    def decode(memory: Any, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return np.asarray(graph(memory, tf.constant(mask), tf.constant(ids)).numpy())

    return lambda ids, mask: encode(tf.constant(ids), tf.constant(mask)), decode
