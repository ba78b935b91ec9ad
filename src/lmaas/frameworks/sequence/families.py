"""Hugging Face's encoder-decoders, by `model_type`, as `network` describes them.

Each reader takes the config and the stored weights and gives the description, the weights under
their own names, and what generation is told of the family beside its config.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks.sequence.network import Activation, Network, Stack, sinusoids

Config = Mapping[str, Any]
Stored = Mapping[str, np.ndarray]
Read = tuple[Network, dict[str, np.ndarray]]

ACTIVATIONS: Final[dict[str, Activation]] = {
    "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip
OFFSET: Final = 2
"""Places that fairseq's tables have before the first one."""


def read(config: Config, stored: Stored) -> Read:
    """The network of a checkpoint. Raises ModelRefused naming what cannot be built."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ModelRefused(
            f"Encoder-decoders of the type {kind!a} cannot be built here; known: "
            f"{', '.join(sorted(FAMILIES))}.",
            hint="Fine-tune a checkpoint of one of these types, or save yours in its form.",
        )
    try:
        network, weights = FAMILIES[kind](config, stored)
        if np.array_equal(weights.get("head.weight", ()), weights["decoder.embedding"]):
            del weights["head.weight"]  # stored twice: the graph needs it once
        return network, weights
    except KeyError as error:
        raise ModelRefused(f"The checkpoint lacks {error.args[0]!a}, which {kind} has.") from None
    except (TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise ModelRefused(f"config.json is not valid: {error}.") from None


def _activation(config: Config, key: str) -> Activation:
    name = str(config.get(key))
    if name not in ACTIVATIONS:
        raise ModelRefused(
            f"The activation {name!a} is not known; known: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _heads(width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise ModelRefused(f"A width of {width} has no {heads} equal heads.")
    return width // heads


def _pick(stored: Stored, *names: str) -> np.ndarray:
    """The first of these that is there."""
    for name in names:
        if name in stored:
            return stored[name]
    raise KeyError(names[0])


def _fairseq_sinusoids(most: int, width: int) -> np.ndarray:
    """M2M100's positions for places from 0 on, as fairseq computes them."""
    half = width // 2
    step = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000) / (half - 1)))
    angles = np.arange(most + OFFSET, dtype=np.float32)[:, None] * step[None].astype(np.float32)
    table = np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    if width % 2:
        table = np.pad(table, ((0, 0), (0, 1)))
    return table[OFFSET:]


def _stack_of_bart(config: Config, half: str, *, norm_first: bool) -> Stack:
    width, heads = config["d_model"], config[f"{half}_attention_heads"]
    return Stack(
        width=width,
        layers=config[f"{half}_layers"],
        heads=heads,
        head_width=_heads(width, heads),
        norm_first=norm_first,
        embedding_scale=math.sqrt(width) if config.get("scale_embedding") else 1.0,
    )


BART_LAYER: Final = {
    "self_attn.q_proj": "self.query", "self_attn.k_proj": "self.key",
    "self_attn.v_proj": "self.value", "self_attn.out_proj": "self.out",
    "self_attn_layer_norm": "self.norm",
    "encoder_attn.q_proj": "cross.query", "encoder_attn.k_proj": "cross.key",
    "encoder_attn.v_proj": "cross.value", "encoder_attn.out_proj": "cross.out",
    "encoder_attn_layer_norm": "cross.norm",
    "fc1": "feed.in", "fc2": "feed.out", "final_layer_norm": "feed.norm",
}  # fmt: skip
BART_STACK: Final = {"layernorm_embedding": "embedding_norm", "layer_norm": "norm"}


def _renamed(
    stored: Stored, prefix: str, half: str, stack: Mapping[str, str], layer: Mapping[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Weights of one half, by our names: those of the stack, those of its layers."""
    for name in stored:
        if not name.startswith(prefix):
            continue
        rest, _, kind = name[len(prefix) :].rpartition(".")
        if kind not in ("weight", "bias"):
            continue
        if rest in stack:
            yield f"{half}.{stack[rest]}.{kind}", stored[name]
        elif rest.startswith("layers."):
            _, number, part = rest.split(".", 2)
            if part in layer:
                yield f"{half}.layers.{number}.{layer[part]}.{kind}", stored[name]


def _bart_half(stored: Stored, prefix: str, half: str) -> Iterator[tuple[str, np.ndarray]]:
    yield from _renamed(stored, prefix, half, BART_STACK, BART_LAYER)
    if f"{prefix}embed_tokens.weight" in stored:
        yield f"{half}.embedding", stored[f"{prefix}embed_tokens.weight"]


def _bart_kind(config: Config, stored: Stored, *, norm_first: bool, positions: str) -> Read:
    """BART, mBART, Marian, Pegasus, M2M100: one form, told apart by norms and positions."""
    width, most = config["d_model"], config["max_position_embeddings"]
    weights: dict[str, np.ndarray] = {}
    for half in ("encoder", "decoder"):
        weights.update(_bart_half(stored, f"model.{half}.", half))
        if f"{half}.embedding" not in weights:
            weights[f"{half}.embedding"] = stored["model.shared.weight"]
        match positions:
            case "learned":
                table = stored[f"model.{half}.embed_positions.weight"][OFFSET:]
            case "sinusoidal":
                table = sinusoids(most, width)
            case _:
                table = _fairseq_sinusoids(most, width)
        weights[f"{half}.positions"] = table
    if "lm_head.weight" in stored:
        weights["head.weight"] = stored["lm_head.weight"]
    if "final_logits_bias" in stored and np.any(stored["final_logits_bias"]):
        weights["head.bias"] = stored["final_logits_bias"].reshape(-1)
    network = Network(
        source="tokens",
        vocabulary=weights.get("head.weight", weights["decoder.embedding"]).shape[0],
        encoder=_stack_of_bart(config, "encoder", norm_first=norm_first),
        decoder=_stack_of_bart(config, "decoder", norm_first=norm_first),
        activation=_activation(config, "activation_function"),
    )
    return network, weights


def _bart(config: Config, stored: Stored) -> Read:
    return _bart_kind(config, stored, norm_first=False, positions="learned")


def _mbart(config: Config, stored: Stored) -> Read:
    return _bart_kind(config, stored, norm_first=True, positions="learned")


def _m2m_100(config: Config, stored: Stored) -> Read:
    return _bart_kind(config, stored, norm_first=True, positions="fairseq")


def _marian(config: Config, stored: Stored) -> Read:
    return _bart_kind(config, stored, norm_first=False, positions="sinusoidal")


def _pegasus(config: Config, stored: Stored) -> Read:
    return _bart_kind(config, stored, norm_first=True, positions="sinusoidal")


def _whisper(config: Config, stored: Stored) -> Read:
    weights: dict[str, np.ndarray] = {}
    for half in ("encoder", "decoder"):
        weights.update(_bart_half(stored, f"model.{half}.", half))
        weights[f"{half}.positions"] = stored[f"model.{half}.embed_positions.weight"]
    for number in (0, 1):
        for kind in ("weight", "bias"):
            weights[f"encoder.convolution.{number}.{kind}"] = stored[
                f"model.encoder.conv{number + 1}.{kind}"
            ]
    if "proj_out.weight" in stored:
        weights["head.weight"] = stored["proj_out.weight"]
    decoder = _stack_of_bart(config, "decoder", norm_first=True)
    heads = tuple(
        (int(layer), int(head))
        for layer, head in config.get("alignment_heads") or ()
        if 0 <= int(layer) < decoder.layers and 0 <= int(head) < decoder.heads
    )
    network = Network(
        source="audio",
        vocabulary=weights["decoder.embedding"].shape[0],
        encoder=_stack_of_bart(config, "encoder", norm_first=True),
        decoder=decoder,
        activation=_activation(config, "activation_function"),
        mel_bins=config["num_mel_bins"],
        frames=2 * config["max_source_positions"],
        alignment=heads,
    )
    return network, weights


T5_LAYER: Final = {
    "SelfAttention.q": "self.query", "SelfAttention.k": "self.key", "SelfAttention.v": "self.value",
    "SelfAttention.o": "self.out", "EncDecAttention.q": "cross.query",
    "EncDecAttention.k": "cross.key", "EncDecAttention.v": "cross.value",
    "EncDecAttention.o": "cross.out", "DenseReluDense.wi": "feed.in",
    "DenseReluDense.wi_0": "feed.in", "DenseReluDense.wi_1": "feed.gate",
    "DenseReluDense.wo": "feed.out",
}  # fmt: skip
T5_NORMS: Final = {"encoder": ("self", "feed"), "decoder": ("self", "cross", "feed")}


def _t5(config: Config, stored: Stored) -> Read:
    width, heads, head_width = config["d_model"], config["num_heads"], config["d_kv"]
    layers = {"encoder": config["num_layers"],
              "decoder": config.get("num_decoder_layers") or config["num_layers"]}  # fmt: skip
    kind = str(config.get("feed_forward_proj", "relu"))
    gated = kind.startswith("gated-")
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    weights: dict[str, np.ndarray] = {}
    for half in ("encoder", "decoder"):
        for number in range(layers[half]):
            weights.update(_t5_layer(stored, half, number))
        weights[f"{half}.norm.weight"] = stored[f"{half}.final_layer_norm.weight"]
        weights[f"{half}.embedding"] = _pick(stored, "shared.weight", f"{half}.embed_tokens.weight")
        table = stored[f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        most = int(config.get("relative_attention_max_distance", 128))
        weights[f"{half}.relative"] = table[_buckets(len(table), most, both=half == "encoder")]
    if "lm_head.weight" in stored:
        weights["head.weight"] = stored["lm_head.weight"]
    # The first T5 scales and does not say so; its successors do not, and tell by what is tied.
    said = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    scaled = bool(said) and config["model_type"] == "t5"
    stacks = [
        Stack(width=width, layers=layers[half], heads=heads, head_width=head_width, norm_first=True)
        for half in ("encoder", "decoder")
    ]
    network = Network(
        source="tokens",
        vocabulary=weights.get("head.weight", weights["decoder.embedding"]).shape[0],
        encoder=stacks[0],
        decoder=stacks[1],
        activation=_activation({"": name}, ""),
        gated=gated,
        norm="rms",
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-6)),
        attention_scale=1.0,
        head_scale=width**-0.5 if scaled else 1.0,
    )
    return network, weights


def _t5_layer(stored: Stored, half: str, number: int) -> Iterator[tuple[str, np.ndarray]]:
    for place, part in enumerate(T5_NORMS[half]):
        prefix, name = f"{half}.block.{number}.layer.{place}.", f"{half}.layers.{number}."
        yield f"{name}{part}.norm.weight", stored[f"{prefix}layer_norm.weight"]
        for theirs, ours in T5_LAYER.items():
            if f"{prefix}{theirs}.weight" in stored:
                yield f"{name}{ours}.weight", stored[f"{prefix}{theirs}.weight"]


def _buckets(count: int, most: int, *, both: bool) -> np.ndarray:
    """The bucket (Raffel et al. 2020, section 2.1) of each distance from -most to most."""
    distance = np.arange(-most, most + 1)
    found = np.zeros(len(distance), np.int64)
    if both:
        count //= 2
        found += (distance > 0) * count
        far = np.abs(distance)
    else:
        far = np.maximum(-distance, 0)
    exact = count // 2
    with np.errstate(divide="ignore"):
        ratio = np.log(far.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(most / exact)
        )
    large = exact + np.where(far < exact, 0, ratio * np.float32(count - exact)).astype(np.int64)
    return found + np.where(far < exact, far, np.minimum(large, count - 1))


def _vision(config: Config, stored: Stored) -> Read:
    """An image's encoder, which is converted apart, and TrOCR's decoder."""
    encoder, decoder = config["encoder"], config["decoder"]
    if decoder.get("model_type") != "trocr":
        raise ModelRefused(
            f"The decoder is of the type {decoder.get('model_type')!a}; of images only those of "
            "the type trocr are built."
        )
    width, heads = decoder["d_model"], decoder["decoder_attention_heads"]
    prefix = "decoder.model.decoder."
    weights = dict(_bart_half(stored, prefix, "decoder"))
    pad, most = decoder.get("pad_token_id", 1), decoder["max_position_embeddings"]
    if decoder.get("use_learned_position_embeddings", True):
        weights["decoder.positions"] = stored[f"{prefix}embed_positions.weight"][OFFSET:]
    elif pad + 1 != OFFSET:
        raise ModelRefused(f"The pad token is {pad}; with sinusoidal positions it is {OFFSET - 1}.")
    else:
        weights["decoder.positions"] = _fairseq_sinusoids(most, width)
    if "decoder.output_projection.weight" in stored:
        weights["head.weight"] = stored["decoder.output_projection.weight"]
    if "enc_to_dec_proj.weight" in stored:
        for kind in ("weight", "bias"):
            weights[f"bridge.{kind}"] = stored[f"enc_to_dec_proj.{kind}"]
    network = Network(
        source="image",
        vocabulary=decoder["vocab_size"],
        encoder=Stack(width=encoder["hidden_size"], layers=0, heads=1, head_width=1),
        decoder=Stack(
            width=width,
            layers=decoder["decoder_layers"],
            heads=heads,
            head_width=_heads(width, heads),
            embedding_scale=math.sqrt(width) if decoder.get("scale_embedding") else 1.0,
        ),
        activation=_activation(decoder, "activation_function"),
    )
    return network, weights


FAMILIES: Final[dict[str, Callable[[Config, Stored], Read]]] = {
    "bart": _bart,
    "mbart": _mbart,
    "m2m_100": _m2m_100,
    "marian": _marian,
    "pegasus": _pegasus,
    "t5": _t5,
    "mt5": _t5,
    "vision-encoder-decoder": _vision,
    "whisper": _whisper,
}
"""What reads each type of checkpoint."""
