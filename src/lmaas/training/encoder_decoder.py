"""The one layout of an encoder-decoder's weights, whatever framework learns them.

Names and shapes are those of transformers' M2M100ForConditionalGeneration (dense weights are
(out, in)), so that a model of any framework is also a checkpoint that others read. Layers are
normalised before each part, places are sines and cosines, one embedding serves both sides and the
output. Knows arrays only.
"""

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

BOS, PAD, EOS, UNKNOWN = range(4)
SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>")
OFFSET: Final = 2
"""The number of the first place, as M2M100 has it."""
SHARED: Final = "shared"

Weights = dict[str, np.ndarray]


class Sizes(Protocol):
    """What is read of an architecture's options."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def feed(self) -> tuple[int, ...]: ...  # noqa: D102


def places(count: int, width: int) -> np.ndarray:
    """Sines, then cosines, of `count` places (count, width) float32, as in M2M100."""
    half = width // 2
    rates = np.exp(np.arange(half) * -(np.log(10_000) / max(1, half - 1)))
    angles = (np.arange(count) + OFFSET)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def dense_names(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """Each dense layer's name, and how wide it is before and after."""
    width = sizes.width
    for stack, first in (("encoder", 0), ("decoder", sizes.layers)):
        for layer in range(sizes.layers):
            at = f"{stack}.layers.{layer}"
            kinds = ["self_attn"] + ["encoder_attn"] * (stack == "decoder")
            for kind in kinds:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield f"{at}.{kind}.{part}", width, width
            feed = sizes.feed[first + layer]
            yield f"{at}.fc1", width, feed
            yield f"{at}.fc2", feed, width


def norm_names(sizes: Sizes) -> Iterator[str]:
    """Each layer normalisation's name."""
    for stack in ("encoder", "decoder"):
        for layer in range(sizes.layers):
            at = f"{stack}.layers.{layer}"
            yield f"{at}.self_attn_layer_norm"
            if stack == "decoder":
                yield f"{at}.encoder_attn_layer_norm"
            yield f"{at}.final_layer_norm"
        yield f"{stack}.layer_norm"


def draw(sizes: Sizes, vocabulary: int, seed: int) -> Weights:
    """First weights: Glorot and Bengio (2010) for matrices, embeddings of standard deviation
    width**-0.5; the same for every framework.
    """
    random = np.random.default_rng(seed)
    weights: Weights = {}
    shared = random.standard_normal((vocabulary, sizes.width)) * sizes.width**-0.5
    shared[PAD] = 0
    weights[f"{SHARED}.weight"] = shared.astype(np.float32)
    for name, before, after in dense_names(sizes):
        bound = (6 / (before + after)) ** 0.5
        weights[f"{name}.weight"] = random.uniform(-bound, bound, (after, before)).astype(
            np.float32
        )
        weights[f"{name}.bias"] = np.zeros(after, np.float32)
    for name in norm_names(sizes):
        weights[f"{name}.weight"] = np.ones(sizes.width, np.float32)
        weights[f"{name}.bias"] = np.zeros(sizes.width, np.float32)
    return weights


def checkpoint(weights: Weights) -> Weights:
    """The weights as a checkpoint of M2M100 has them."""
    return {f"model.{name}": array for name, array in weights.items()}


def config(sizes: Sizes, vocabulary: int, most: int) -> dict[str, object]:
    """What `config.json` of such a checkpoint says, for texts of at most `most` tokens.

    Only for stacks whose feed-forward parts have one width each.
    """
    return {
        "architectures": ["M2M100ForConditionalGeneration"],
        "model_type": "m2m_100",
        "vocab_size": vocabulary,
        "d_model": sizes.width,
        "encoder_layers": sizes.layers,
        "decoder_layers": sizes.layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.feed[0],
        "decoder_ffn_dim": sizes.feed[sizes.layers],
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "activation_function": "relu",
        "dropout": sizes.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "max_position_embeddings": most,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": EOS,
        "is_encoder_decoder": True,
    }
