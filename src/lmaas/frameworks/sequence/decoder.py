"""The graph of a decoder: some tokens of each row in, what may come next out; it keeps its past.

All rows share one past length P in the graph's states, whatever they have read: a row's mask hides
what is not its own, and its places are given. So rows can join and leave between two runs.

Inputs, for R rows of N sources (R = N x rows a source, side by side):
- `tokens` (R, T) int64; `places` (R, T) int64, each token's number in its own row;
- `mask` (R, T, P + T) float32, added to attention: 0 where a token may look, -1e9 else;
- `key_places` (R, P + T) int64, only where the decoder has relative positions: each column's place;
- `rows` (R,) int32: which row of the run before each row goes on from;
- `source_mask` (N, 1, 1, S) float32, added to cross attention (only where sources are tokens);
- `key_i`, `value_i` (N, H, S, W): the encoder's outputs.

Outputs: `logits` (R, V) of what follows each row's last token, `normalizer` (R, 1), the logarithm
of the sum of their exponentials; `attention` (N, heads, rows x T, S) where the network has
alignment heads.
"""

from typing import Any

import numpy as np

from lmaas.frameworks.sequence.graph import Builder
from lmaas.frameworks.sequence.network import Network, Weights


def build_decoder(network: Network, weights: Weights) -> Any:
    """The decoder as an `openvino.Model` with states."""
    return _Decoder(network, weights).model()


class _Decoder:
    def __init__(self, network: Network, weights: Weights) -> None:
        self.builder = Builder(network, weights)
        self.ops, self.stack = self.builder.ops, network.decoder
        self.network = network
        self.inputs: list[Any] = []
        self.sinks: list[Any] = []
        self.variables: list[Any] = []
        self.looked: dict[tuple[int, int], Any] = {}

    def model(self) -> Any:
        """All of it."""
        b, ops, stack = self.builder, self.ops, self.stack
        zero = b.constant(0, np.int64)
        tokens = self.input("tokens", [-1, -1], np.int64)
        places = self.input("places", [-1, -1], np.int64)
        mask = ops.unsqueeze(self.input("mask", [-1, -1, -1], np.float32),
                             b.constant(1, np.int64))  # fmt: skip
        self.rows = self.input("rows", [-1], np.int32)
        self.source_mask = None
        if self.network.source == "tokens":
            self.source_mask = self.input("source_mask", [-1, 1, 1, -1], np.float32)
        x = b.embed(tokens, "decoder", stack)
        if b.has("decoder.positions"):
            table = b.weight("decoder.positions", -1, stack.width)
            x = ops.add(x, ops.gather(table, places, zero))
        x = b.norm(x, "decoder.embedding_norm", stack.width)
        if b.has("decoder.relative"):
            key_places = self.input("key_places", [-1, -1], np.int64)
            apart = ops.subtract(
                ops.unsqueeze(key_places, b.constant(1, np.int64)),
                ops.unsqueeze(places, b.constant(2, np.int64)),
            )
            mask = ops.add(b.relative(apart, "decoder", stack), mask)
        self.mask = mask
        self.count = ops.gather(ops.shape_of(tokens), b.constant([0], np.int64), zero)
        for number in range(stack.layers):
            x = self.layer(x, number)
        x = b.norm(x, "decoder.norm", stack.width)
        last = ops.gather(x, b.constant(-1, np.int64), b.constant(1, np.int64))
        results = self.head(last)
        if self.looked:
            seen = [self.looked[pair] for pair in self.network.alignment]
            results.append(self.result(ops.concat(seen, 1), "attention"))
        return b.openvino.Model(results, self.sinks, self.inputs, self.variables, "decoder")

    def input(self, name: str, shape: list[int], dtype: Any) -> Any:
        """One more input."""
        parameter = self.ops.parameter(shape, dtype, name=name)
        parameter.get_output_tensor(0).set_names({name})
        self.inputs.append(parameter)
        return parameter

    def result(self, node: Any, name: str) -> Any:
        """An output of this name."""
        node.output(0).set_names({name})
        return self.ops.result(node)

    def head(self, x: Any) -> list[Any]:
        """Logits (R, V) of the last vectors (R, D), and their normalizer."""
        b, ops = self.builder, self.ops
        if self.network.head_scale != 1.0:
            x = ops.multiply(x, b.constant(self.network.head_scale))
        name = "head.weight" if b.has("head.weight") else "decoder.embedding"
        table = b.weight(name, self.network.vocabulary, self.stack.width)
        logits = ops.matmul(x, table, transpose_a=False, transpose_b=True)
        logits = b.add(logits, "head.bias", self.network.vocabulary)
        axis = b.constant([1], np.int64)
        most = ops.reduce_max(logits, axis, keep_dims=True)
        shares = ops.reduce_sum(ops.exp(ops.subtract(logits, most)), axis, keep_dims=True)
        total = ops.add(ops.log(shares), most)
        return [self.result(logits, "logits"), self.result(total, "normalizer")]

    def layer(self, x: Any, number: int) -> Any:
        """One layer of the decoder."""
        b, stack, name = self.builder, self.stack, f"decoder.layers.{number}"

        def attend(inner: Any) -> Any:
            query, key, value = (
                b.heads(inner, f"{name}.self.{part}", stack, stack.width)
                for part in ("query", "key", "value")
            )
            key, value = (
                self.past(key, f"past_key_{number}"),
                self.past(value, f"past_value_{number}"),
            )
            return b.join(b.attend(query, key, value, self.mask), f"{name}.self.out", stack)

        x = b.residual(x, f"{name}.self", stack, attend)
        x = b.residual(x, f"{name}.cross", stack, lambda inner: self.cross(inner, number))
        return b.residual(
            x, f"{name}.feed", stack, lambda y: b.feed(y, f"{name}.feed", stack.width)
        )

    def past(self, now: Any, name: str) -> Any:
        """Keys or values (R, H, T, W) after those of earlier runs; the plugin fuses this form."""
        b, ops, stack = self.builder, self.ops, self.stack
        openvino = b.openvino
        info = openvino.op.util.VariableInfo()
        info.data_shape = openvino.PartialShape([-1, stack.heads, -1, stack.head_width])
        info.data_type = openvino.Type.f32
        info.variable_id = name
        variable = openvino.op.util.Variable(info)
        sizes = b.constant([stack.heads, 0, stack.head_width], np.int64)
        empty = ops.broadcast(b.constant(0.0), ops.concat([self.count, sizes], 0))
        read = openvino.opset6.read_value(empty, variable)
        chosen = ops.gather(read, self.rows, b.constant(0, np.int64))
        whole = ops.concat([chosen, now], 2)
        self.sinks.append(openvino.opset6.assign(whole, variable))
        self.variables.append(variable)
        return whole

    def cross(self, x: Any, number: int) -> Any:
        """Attention to the source. The rows of a source are its queries, so that they share it."""
        b, ops, stack = self.builder, self.ops, self.stack
        name = f"decoder.layers.{number}.cross"
        shape = [-1, stack.heads, -1, stack.head_width]
        key = self.input(f"key_{number}", shape, np.float32)
        value = self.input(f"value_{number}", shape, np.float32)
        inner = stack.heads * stack.head_width
        query = b.linear(x, f"{name}.query", inner, stack.width)
        sources = ops.gather(ops.shape_of(key), b.constant([0], np.int64), b.constant(0, np.int64))
        # (R, T, D) -> (N, rows x T, H, W)
        rest = b.constant([-1, stack.heads, stack.head_width], np.int64)
        query = ops.reshape(query, ops.concat([sources, rest], 0), False)
        query = ops.transpose(query, b.constant([0, 2, 1, 3], np.int64))
        # Not as one operation: the plugin would scale and turn all keys in every step.
        scale = self.network.attention_scale
        if scale is None:
            scale = stack.head_width**-0.5
        if scale != 1.0:
            query = ops.multiply(query, b.constant(scale))
        products = ops.matmul(query, key, transpose_a=False, transpose_b=True)
        if self.source_mask is not None:
            products = ops.add(products, self.source_mask)
        shares = ops.softmax(products, -1)
        seen = ops.matmul(shares, value, transpose_a=False, transpose_b=False)
        self.look(shares, number)
        seen = ops.transpose(seen, b.constant([0, 2, 1, 3], np.int64))
        tokens = ops.gather(ops.shape_of(x), b.constant([0, 1], np.int64), b.constant(0, np.int64))
        back = ops.concat([tokens, b.constant([inner], np.int64)], 0)
        return b.linear(ops.reshape(seen, back, False), f"{name}.out", stack.width, inner)

    def look(self, shares: Any, number: int) -> None:
        """Where the alignment heads of a layer look, (R, 1, T, S) each."""
        b, ops = self.builder, self.ops
        one = b.constant([1], np.int64)
        for layer, head in self.network.alignment:
            if layer == number:
                # Only asked for with one row a source: (N, 1, T, S).
                self.looked[layer, head] = ops.gather(shares, b.constant([head], np.int64), one)
