"""Pieces of graphs that both halves of an encoder-decoder are made of, in OpenVINO's operations.

Shapes: N sources, R rows of the decoder, T tokens, S places of the source, D width, H heads, W
width of a head. Matrices are plain constants before a MatMul, so that they can be compressed later.
"""

from typing import Any, Final

import numpy as np

from lmaas.frameworks.sequence.network import Network, Stack, Weights, require
from lmaas.runtime import ov

HIDDEN: Final = -1e9
"""What is added to attention where none may be; finite, so that a row of nothing else is too."""


class Builder:
    """Makes nodes of one network's graphs. Names of weights are `network`'s."""

    def __init__(self, network: Network, weights: Weights) -> None:
        self.openvino = ov.load()
        self.ops = self.openvino.opset13
        self.network = network
        self.weights = weights

    def constant(self, value: Any, dtype: Any = np.float32) -> Any:
        """A small constant."""
        return self.ops.constant(np.asarray(value, dtype))

    def weight(self, name: str, *shape: int) -> Any:
        """A weight as it is stored; f16 is made f32 in the graph, which the plugin folds."""
        array = require(self.weights, name, *shape)
        if array.dtype not in (np.float16, np.float32):
            array = array.astype(np.float32)
        node = self.ops.constant(array)
        node.set_friendly_name(name)
        if array.dtype == np.float16:
            node = self.ops.convert(node, "f32")
            node.get_rt_info()["decompression"] = ""
        return node

    def has(self, name: str) -> bool:
        """Whether the network has this weight."""
        return name in self.weights

    def linear(self, x: Any, name: str, outputs: int, inputs: int) -> Any:
        """x W^T, and what is added."""
        product = self.ops.matmul(
            x, self.weight(f"{name}.weight", outputs, inputs), transpose_a=False, transpose_b=True
        )
        return self.add(product, f"{name}.bias", outputs)

    def add(self, x: Any, name: str, size: int) -> Any:
        """The weight of this name added, where there is one."""
        return self.ops.add(x, self.weight(name, size)) if self.has(name) else x

    def norm(self, x: Any, name: str, size: int) -> Any:
        """Normalised over the last axis; itself where the network has no such norm."""
        ops, epsilon = self.ops, self.network.norm_epsilon
        if not self.has(f"{name}.weight"):
            return x
        axis = self.constant([-1], np.int64)
        if self.network.norm == "layer":
            x = ops.mvn(x, axis, normalize_variance=True, eps=epsilon, eps_mode="inside_sqrt")
        else:
            mean = ops.reduce_mean(ops.power(x, self.constant(2.0)), axis, keep_dims=True)
            root = ops.sqrt(ops.add(mean, self.constant(epsilon)))
            x = ops.multiply(x, ops.divide(self.constant(1.0), root))
        x = ops.multiply(x, self.weight(f"{name}.weight", size))
        return self.add(x, f"{name}.bias", size)

    def activation(self, x: Any) -> Any:
        """What stands between the two matrices of a feed-forward part."""
        match self.network.activation:
            case "relu":
                return self.ops.relu(x)
            case "gelu":
                return self.ops.gelu(x, "erf")
            case "gelu_tanh":
                return self.ops.gelu(x, "tanh")
            case "silu":
                return self.ops.swish(x)
            case "tanh":
                return self.ops.tanh(x)

    def feed(self, x: Any, name: str, width: int) -> Any:
        """The feed-forward part of a layer."""
        inner = require(self.weights, f"{name}.in.weight", -1, width).shape[0]
        hidden = self.activation(self.linear(x, f"{name}.in", inner, width))
        if self.network.gated:
            hidden = self.ops.multiply(hidden, self.linear(x, f"{name}.gate", inner, width))
        return self.linear(hidden, f"{name}.out", width, inner)

    def heads(self, x: Any, name: str, stack: Stack, inputs: int) -> Any:
        """(…, T, D) projected, as (…, H, T, W)."""
        ops, inner = self.ops, stack.heads * stack.head_width
        x = self.linear(x, name, inner, inputs)
        x = ops.reshape(x, self.constant([0, 0, stack.heads, stack.head_width], np.int64), True)
        return ops.transpose(x, self.constant([0, 2, 1, 3], np.int64))

    def attend(self, query: Any, key: Any, value: Any, mask: Any) -> Any:
        """Attention of heads (…, H, T, W) with what is added to it."""
        scale = self.network.attention_scale
        if scale is None:
            return self.ops.scaled_dot_product_attention(query, key, value, mask)
        return self.ops.scaled_dot_product_attention(
            query, key, value, mask, self.constant(scale), causal=False
        )

    def join(self, x: Any, name: str, stack: Stack) -> Any:
        """Heads (…, H, T, W) side by side, projected to (…, T, D)."""
        ops, inner = self.ops, stack.heads * stack.head_width
        x = ops.transpose(x, self.constant([0, 2, 1, 3], np.int64))
        x = ops.reshape(x, self.constant([0, 0, inner], np.int64), True)
        return self.linear(x, name, stack.width, inner)

    def residual(self, x: Any, name: str, stack: Stack, part: Any) -> Any:
        """x plus what `part` makes of it, normalised before or after."""
        inner = self.norm(x, f"{name}.norm", stack.width) if stack.norm_first else x
        x = self.ops.add(x, part(inner))
        return x if stack.norm_first else self.norm(x, f"{name}.norm", stack.width)

    def embed(self, tokens: Any, half: str, stack: Stack) -> Any:
        """Token ids (…, T) as vectors (…, T, D), without their places."""
        table = self.weight(f"{half}.embedding", -1, stack.width)
        x = self.ops.gather(table, tokens, self.constant(0, np.int64))
        if stack.embedding_scale != 1.0:
            x = self.ops.multiply(x, self.constant(stack.embedding_scale))
        return x

    def relative(self, distance: Any, half: str, stack: Stack) -> Any:
        """What is added to attention at whole distances (…, T, L), as (…, H, T, L)."""
        ops = self.ops
        table = require(self.weights, f"{half}.relative", -1, stack.heads)
        most = (table.shape[0] - 1) // 2
        place = ops.add(ops.clamp(distance, -most, most), self.constant(most, np.int64))
        found = ops.gather(self.weight(f"{half}.relative", -1, stack.heads), place,
                           self.constant(0, np.int64))  # fmt: skip
        return ops.transpose(found, self.constant([0, 3, 1, 2], np.int64))
