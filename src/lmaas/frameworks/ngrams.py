"""Linear classifiers over runs of characters: plain data, compiled to one graph.

A text is a row of symbols with a mask. Each run of up to `longest` shown symbols has a row in a
table of weights, found by a hash (Weinberger et al., 2009); the logits are the sum of these rows by
the root of how many they are, and a bias. Whoever trains uses `counts`, which hashes alike.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import lmaas
from lmaas.errors import InvalidInput
from lmaas.frameworks.axes import Axes
from lmaas.frameworks.base import Deterministic, Facts, Form, Framework
from lmaas.runtime import ov
from lmaas.tasks import Tensors
from lmaas.tasks.text import IDS, MASK
from lmaas.types import BATCH, FrameworkName, TensorSpec

FILE: Final = "ngrams.safetensors"
FACTOR: Final = 8191
"""Of the hash; with tables of up to 2^17 rows no product leaves 32 bits."""
MOST_ROWS: Final = 1 << 17


class Ngrams(msgspec.Struct, frozen=True, kw_only=True):
    """A table (rows, classes) float32, rows a power of two, and a bias (classes,).

    Symbols are numbers below `symbols`; `length` is how many a text has, the mask's zeros included.
    """

    table: np.ndarray
    bias: np.ndarray
    longest: int
    symbols: int
    length: int


class Linear(Deterministic):
    """Verbs for `Ngrams`."""

    name: FrameworkName = "ngrams"

    def owns(self, model: Any) -> bool:
        """Whether `model` is one."""
        return isinstance(model, Ngrams)

    def version(self) -> str:
        """Ours, for the format is ours."""
        return lmaas.__version__

    def inputs(self, model: Any) -> list[TensorSpec]:
        """Symbols and their mask."""
        shape = (BATCH, model.length)
        return [TensorSpec(name=name, dtype="int64", shape=shape) for name in (IDS, MASK)]

    def name_inputs(self, model: Any, sample: Sequence[np.ndarray]) -> list[str]:
        """As the task calls them."""
        return [IDS, MASK]

    def save(self, model: Any, folder: Path, arrays: Tensors) -> None:
        """One file of safetensors."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        sizes = np.array([model.longest, model.symbols, model.length], np.int64)
        save_file({"table": model.table, "bias": model.bias, "sizes": sizes}, folder / FILE)

    def load(self, folder: Path, like: Any = None) -> Ngrams:
        """The model that `save` wrote. Raises InvalidInput for a damaged one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(folder / FILE)
            longest, symbols, length = found["sizes"].tolist()
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise InvalidInput(f"{FILE} is damaged: {error}.") from None
        return Ngrams(
            table=found["table"],
            bias=found["bias"],
            longest=longest,
            symbols=symbols,
            length=length,
        )

    def run(self, model: Any, arrays: Tensors) -> Tensors:
        """Logits (N, classes). Raises InvalidInput for a symbol that is none."""
        ids, mask = arrays[IDS], arrays[MASK]
        if ids.size and (ids.min() < 0 or ids.max() >= model.symbols):
            raise InvalidInput(f"{IDS} must be within 0 and {model.symbols - 1}.", param=IDS)
        total = np.zeros((len(ids), len(model.bias)))
        count = np.zeros((len(ids), 1))
        for rows, shown in counts(ids, mask, model.longest, len(model.table)):
            total += (model.table[rows].astype(np.float64) * shown[:, :, None]).sum(1)
            count += shown.sum(1, keepdims=True)
        logits = total / np.sqrt(np.maximum(count, 1)) + model.bias
        return {"logits": logits.astype(np.float32)}

    def forms(
        self, model: Any, arrays: Tensors, outputs: Sequence[str], axes: Axes
    ) -> Iterator[Form]:
        """One graph of sums and lookups."""
        yield Form("openvino", "lookups", lambda _: _graph(model))

    def facts(self, model: Any, arrays: Tensors) -> Facts:
        """Sums in float32."""
        return Facts("f32")

    def num_parameters(self, model: Any) -> int:
        """The table and the bias."""
        return int(model.table.size + model.bias.size)


def counts(
    ids: np.ndarray, mask: np.ndarray, longest: int, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each length of a run: the table's row (N, T') of each, and whether all of it is shown."""
    size = ids.shape[1]
    places = np.zeros(ids.shape, np.int64)
    shown = np.ones(ids.shape, np.int64)
    for length in range(1, min(longest, size) + 1):
        wide = size - length + 1
        places = (places[:, :wide] * FACTOR + ids[:, length - 1 :] + length) & (rows - 1)
        shown = shown[:, :wide] * mask[:, length - 1 :]
        yield places, shown


def _graph(model: Ngrams) -> Any:
    ov.load()
    import openvino
    from openvino import opset13 as ops

    assert len(model.table) <= MOST_ROWS

    def whole(value: Any) -> Any:
        return ops.constant(np.asarray(value, np.int32))

    def part(node: Any, first: int, last: int) -> Any:
        return ops.slice(node, whole([first]), whole([last]), whole([1]), whole([1]))

    given = [ops.parameter([-1, model.length], np.int64, name=name) for name in (IDS, MASK)]
    ids, mask = (ops.convert(node, "i32") for node in given)
    table = ops.constant(np.ascontiguousarray(model.table, np.float32))
    places = shown = total = count = None
    for length in range(1, min(model.longest, model.length) + 1):
        wide = model.length - length + 1
        here, seen = part(ids, length - 1, model.length), part(mask, length - 1, model.length)
        here = ops.add(here, whole(length))
        if places is not None:
            before = ops.multiply(part(places, 0, wide), whole(FACTOR))
            here = ops.add(before, here)
            seen = ops.multiply(part(shown, 0, wide), seen)
        places = ops.bitwise_and(here, whole(len(model.table) - 1))
        shown = seen
        weight = ops.convert(ops.unsqueeze(shown, whole(2)), "f32")
        rows = ops.multiply(ops.gather(table, places, whole(0)), weight)
        summed = ops.reduce_sum(rows, whole([1]), False)
        number = ops.reduce_sum(weight, whole([1]), False)
        total = summed if total is None else ops.add(total, summed)
        count = number if count is None else ops.add(count, number)
    root = ops.sqrt(ops.maximum(count, ops.constant(np.float32(1))))
    bias = ops.constant(np.ascontiguousarray(model.bias[np.newaxis], np.float32))
    return openvino.Model([ops.add(ops.divide(total, root), bias)], given, "ngrams")


FRAMEWORK: Framework = Linear()
