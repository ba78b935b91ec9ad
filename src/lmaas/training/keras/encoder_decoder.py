"""The encoder-decoder in Keras: (N, S) and (N, T) token ids in, logits (N, T, V) out.

Layers of Keras's own only, so that the file of a model loads anywhere; a layer is called as in
`training.encoder_decoder`, with underscores.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from lmaas.training import encoder_decoder as layout

EPSILON = 1e-5


def build(sizes: layout.Sizes, vocabulary: int, most: int, weights: layout.Weights) -> Any:
    """The network with these weights, for texts of at most `most` tokens."""
    ids, mask = _ids("input_ids"), _ids("attention_mask")
    shared = layers.ReversibleEmbedding(
        vocabulary, sizes.width, tie_weights=True, name=layout.SHARED
    )
    table = layers.Embedding(most, sizes.width, trainable=False, name="places")
    read = _Reader(sizes, shared, table)
    encoder = keras.Model([ids, mask], _encoder(read(ids, "encoder"), mask, sizes), name="encoder")
    memory = keras.Input((None, sizes.width), name="memory")
    seen, written = _ids("seen"), _ids("written")
    told = _decoder(read(written, "decoder"), memory, seen, sizes)
    decoder = keras.Model([memory, seen, written], shared(told, reverse=True), name="decoder")
    target = _ids("decoder_input_ids")
    logits = decoder([encoder([ids, mask]), mask, target])
    model = keras.Model([ids, mask, target], logits, name="encoder_decoder")
    table.set_weights([layout.places(most, sizes.width)])
    for name, variable, array in _variables(model, sizes, weights):
        variable.assign(array.reshape(variable.shape))
        assert array.size == weights[name].size
    return model


def weights_of(model: Any, sizes: layout.Sizes) -> layout.Weights:
    """The weights in the one layout."""
    found = {}
    for name, variable, _ in _variables(model, sizes, None):
        array = keras.ops.convert_to_numpy(variable)
        if _is_matrix(name):
            width = sizes.width
            # The output of an attention is (heads, size, width), its parts (width, heads, size).
            array = (
                array.reshape(-1, width) if "out_proj" in name else array.reshape(len(array), -1)
            )
            array = array.T
        elif array.ndim > 1 and not name.startswith(layout.SHARED):
            array = array.reshape(-1)
        found[name] = np.array(array, np.float32, copy=True)
    return found


class _Reader:
    """Tokens with their places."""

    def __init__(self, sizes: layout.Sizes, shared: Any, table: Any) -> None:
        self._sizes, self._shared, self._table = sizes, shared, table

    def __call__(self, ids: Any, stack: str) -> Any:
        numbers = ops.cumsum(ops.ones_like(ids, dtype="int32"), axis=1) - 1
        x = self._shared(ids) * self._sizes.width**0.5 + self._table(numbers)
        return _drop(x, self._sizes, f"{stack}_drop")


def _encoder(x: Any, mask: Any, sizes: layout.Sizes) -> Any:
    seen = ops.expand_dims(ops.greater(mask, 0), 1)
    for index in range(sizes.layers):
        at = f"encoder_layers_{index}"
        y = _norm(f"{at}_self_attn_layer_norm")(x)
        y = _attention(sizes, f"{at}_self_attn")(y, y, attention_mask=seen)
        x = x + _drop(y, sizes, f"{at}_drop_1")
        x = _feed(x, sizes, at, sizes.feed[index])
    return _norm("encoder_layer_norm")(x)


def _decoder(x: Any, memory: Any, mask: Any, sizes: layout.Sizes) -> Any:
    seen = ops.expand_dims(ops.greater(mask, 0), 1)
    for index in range(sizes.layers):
        at = f"decoder_layers_{index}"
        y = _norm(f"{at}_self_attn_layer_norm")(x)
        y = _attention(sizes, f"{at}_self_attn")(y, y, use_causal_mask=True)
        x = x + _drop(y, sizes, f"{at}_drop_1")
        y = _norm(f"{at}_encoder_attn_layer_norm")(x)
        y = _attention(sizes, f"{at}_encoder_attn")(y, memory, attention_mask=seen)
        x = x + _drop(y, sizes, f"{at}_drop_2")
        x = _feed(x, sizes, at, sizes.feed[sizes.layers + index])
    return _norm("decoder_layer_norm")(x)


def _feed(x: Any, sizes: layout.Sizes, at: str, feed: int) -> Any:
    y = _norm(f"{at}_final_layer_norm")(x)
    y = layers.Dense(feed, activation="relu", name=f"{at}_fc1")(y)
    y = layers.Dense(sizes.width, name=f"{at}_fc2")(y)
    return x + _drop(y, sizes, f"{at}_drop_3")


def _attention(sizes: layout.Sizes, name: str) -> Any:
    return layers.MultiHeadAttention(sizes.heads, sizes.width // sizes.heads, name=name)


def _norm(name: str) -> Any:
    return layers.LayerNormalization(epsilon=EPSILON, name=name)


def _drop(x: Any, sizes: layout.Sizes, name: str) -> Any:
    return layers.Dropout(sizes.dropout, name=name)(x) if sizes.dropout else x


def _ids(name: str) -> Any:
    return keras.Input((None,), dtype="int64", name=name)


def _variables(
    model: Any, sizes: layout.Sizes, weights: layout.Weights | None
) -> list[tuple[str, Any, Any]]:
    """Each weight's name and variable; where `weights` are given, the array as it goes there."""
    stacks = {stack: model.get_layer(stack) for stack in ("encoder", "decoder")}
    found: list[tuple[str, Any]] = [
        (f"{layout.SHARED}.weight", stacks["encoder"].get_layer(layout.SHARED).embeddings)
    ]
    for name, _, _ in layout.dense_names(sizes):
        stack, _, number, *rest = name.split(".")
        at = f"{stack}_layers_{number}_{rest[0]}"
        dense = stacks[stack].get_layer(at)
        if len(rest) > 1:
            parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
            dense = getattr(dense, f"{parts[rest[1]]}_dense")
        found += [(f"{name}.weight", dense.kernel), (f"{name}.bias", dense.bias)]
    for name in layout.norm_names(sizes):
        norm = stacks[name.split(".")[0]].get_layer(name.replace(".", "_"))
        found += [(f"{name}.weight", norm.gamma), (f"{name}.bias", norm.beta)]
    if weights is None:
        return [(name, variable, None) for name, variable in found]
    return [
        (name, variable, weights[name].T if _is_matrix(name) else weights[name])
        for name, variable in found
    ]


def _is_matrix(name: str) -> bool:
    return name.endswith((".fc1.weight", ".fc2.weight", "_proj.weight"))


def decoder_of(model: Any) -> tuple[Any, Any]:
    """Functions of arrays: `encode(ids, mask) -> memory`, `decode(memory, mask, ids) -> logits`."""
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")

    def encode(ids: np.ndarray, mask: np.ndarray) -> Any:
        return encoder([ops.convert_to_tensor(ids), ops.convert_to_tensor(mask)], training=False)

    def decode(memory: Any, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        tensors = [memory, ops.convert_to_tensor(mask), ops.convert_to_tensor(ids)]
        return np.asarray(ops.convert_to_numpy(decoder(tensors, training=False)))

    return encode, decode
