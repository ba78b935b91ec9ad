"""The graph of an encoder: a source in, what the decoder's cross attention looks at out.

Inputs: `tokens` (N, S) int64 and `mask` (N, S) float32, 1 where there is a token; or `features`
(N, bins, frames) float32; or `pixels` (N, 3, height, width) float32. Outputs: `key_i` and
`value_i` (N, H, S, W) for each layer of the decoder. What the mask hides has values that mean
nothing.
"""

from typing import Any

import numpy as np

from lmaas.frameworks.sequence.graph import HIDDEN, Builder
from lmaas.frameworks.sequence.network import Network, Weights, require


def build_encoder(network: Network, weights: Weights, tower: Any = None) -> Any:
    """The encoder as an `openvino.Model`.

    `tower` is the encoder of an image: a model with one input of pixels and one output (N, S, D).
    """
    builder = Builder(network, weights)
    match network.source:
        case "tokens":
            inputs, hidden = _read_tokens(builder)
        case "audio":
            inputs, hidden = _read_sound(builder)
        case "image":
            assert tower is not None
            inputs, hidden = _read_tower(tower)
    return _with_cross(builder, inputs, hidden)


def _read_tokens(builder: Builder) -> tuple[list[Any], Any]:
    ops, stack = builder.ops, builder.network.encoder
    tokens = ops.parameter([-1, -1], np.int64, name="tokens")
    mask = ops.parameter([-1, -1], np.float32, name="mask")
    x = builder.embed(tokens, "encoder", stack)
    length = ops.gather(ops.shape_of(tokens), builder.constant([1], np.int64),
                        builder.constant(0, np.int64))  # fmt: skip
    zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
    places = ops.range(zero, ops.squeeze(length, zero), one, "i64")
    if builder.has("encoder.positions"):
        table = builder.weight("encoder.positions", -1, stack.width)
        x = ops.add(x, ops.gather(table, places, zero))
    x = builder.norm(x, "encoder.embedding_norm", stack.width)
    hidden = ops.multiply(ops.subtract(builder.constant(1.0), mask), builder.constant(HIDDEN))
    added = ops.unsqueeze(hidden, builder.constant([1, 2], np.int64))
    if builder.has("encoder.relative"):
        apart = ops.subtract(ops.unsqueeze(places, zero), ops.unsqueeze(places, one))
        bias = builder.relative(ops.unsqueeze(apart, zero), "encoder", stack)
        added = ops.add(bias, added)
    return [tokens, mask], _layers(builder, x, added)


def _read_sound(builder: Builder) -> tuple[list[Any], Any]:
    ops, network = builder.ops, builder.network
    stack = network.encoder
    frames = -1 if network.frames is None else network.frames
    features = ops.parameter([-1, network.mel_bins, frames], np.float32, name="features")
    x, channels = features, network.mel_bins
    for number, stride in enumerate((1, 2)):
        kernel = builder.weight(f"encoder.convolution.{number}.weight", stack.width, channels, 3)
        x = ops.convolution(x, kernel, [stride], [1], [1], [1])
        bias = require(builder.weights, f"encoder.convolution.{number}.bias", stack.width)
        x = ops.add(x, builder.constant(bias[None, :, None]))
        x, channels = ops.gelu(x, "erf"), stack.width
    x = ops.transpose(x, builder.constant([0, 2, 1], np.int64))
    positions = builder.weight("encoder.positions", -1, stack.width)
    x = ops.add(x, ops.unsqueeze(positions, builder.constant(0, np.int64)))
    return [features], _layers(builder, x, None)


def _read_tower(tower: Any) -> tuple[list[Any], Any]:
    parameter = tower.get_parameters()[0]
    parameter.get_output_tensor(0).set_names({"pixels"})
    return [parameter], tower.output(0).get_node().input_value(0)


def _layers(builder: Builder, x: Any, mask: Any) -> Any:
    ops, stack = builder.ops, builder.network.encoder
    for number in range(stack.layers):
        name = f"encoder.layers.{number}"

        def attend(inner: Any, name: str = name) -> Any:
            query, key, value = (
                builder.heads(inner, f"{name}.self.{part}", stack, stack.width)
                for part in ("query", "key", "value")
            )
            if mask is None:
                scale = builder.network.attention_scale
                assert scale is None
                seen = ops.scaled_dot_product_attention(query, key, value)
            else:
                seen = builder.attend(query, key, value, mask)
            return builder.join(seen, f"{name}.self.out", stack)

        def feed(inner: Any, name: str = name) -> Any:
            return builder.feed(inner, f"{name}.feed", stack.width)

        x = builder.residual(x, f"{name}.self", stack, attend)
        x = builder.residual(x, f"{name}.feed", stack, feed)
    return builder.norm(x, "encoder.norm", stack.width)


def _with_cross(builder: Builder, inputs: list[Any], hidden: Any) -> Any:
    ops, decoder, width = builder.ops, builder.network.decoder, builder.network.encoder.width
    if builder.has("bridge.weight"):
        hidden = builder.linear(hidden, "bridge", decoder.width, width)
        width = decoder.width
    results = []
    for number in range(decoder.layers):
        for part in ("key", "value"):
            heads = builder.heads(hidden, f"decoder.layers.{number}.cross.{part}", decoder, width)
            heads.output(0).set_names({f"{part}_{number}"})
            results.append(ops.result(heads))
    return builder.openvino.Model(results, inputs, "encoder")
