"""Does a mask hide padding? Found by filling requests up and asking the source."""

import numpy as np

from lmaas.frameworks.axes import BATCH_NAME, Axes, own_size, resize
from lmaas.frameworks.draws import drawn, is_mask
from lmaas.frameworks.source import Source, same
from lmaas.runtime.padding import Padding
from lmaas.tasks import Tensors
from lmaas.types import Signature, TensorSpec

ROWS = 2


def padding(source: Source, arrays: Tensors, found: Axes) -> tuple[str, dict[str, int]]:
    """The axis along which requests may be filled up, and with what each input; "" for none.

    All but masks is filled with 0, and masks with what hides: the one of 0 and 1 that changes no
    answer. Tried are two pairs of lengths.
    """
    if not found.joins:
        return "", {}
    for axis in found.sizes:
        holders = {n: named.count(axis) for n, named in found.inputs.items() if axis in named}
        ends = [named for named in found.outputs.values() if "?" in named]
        masks = [name for name in holders if is_mask(arrays[name])]
        if axis == BATCH_NAME or not masks or ends or set(holders.values()) != {1}:
            continue
        for hides in (0, 1):
            fills = {name: hides if name in masks else 0 for name in holders}
            if _holds(source, arrays, found, axis, fills):
                return axis, fills
    return "", {}


def _holds(source: Source, arrays: Tensors, found: Axes, axis: str, fills: dict[str, int]) -> bool:
    rng = np.random.default_rng(4)
    rule = Padding(_signature(found, axis, fills, arrays))
    where = tuple((name, found.inputs[name].index(axis)) for name in fills)
    batch = tuple((name, 0) for name in arrays)
    own, (least, most) = own_size(arrays, where), found.sizes[axis]
    for short, long in ((least, own + 3), (own, 2 * own + 5)):
        long = long if most is None else min(long, most)
        if short >= long:
            return False
        requests = [
            drawn(resize(resize(arrays, batch, ROWS, rng), where, size, rng), rng)
            for size in (short, long)
        ]
        together = source.ask(rule.join(requests))
        if together is None:
            return False
        for number, (request, size) in enumerate(zip(requests, (short, long), strict=True)):
            alone = source.ask(request)
            rows = slice(number * ROWS, (number + 1) * ROWS)
            if alone is None:
                return False
            mine = rule.cut({name: array[rows] for name, array in together.items()}, size)
            if not all(same(alone[name], mine[name]) for name in alone):
                return False
    return True


def _signature(found: Axes, axis: str, fills: dict[str, int], arrays: Tensors) -> Signature:
    def spec(name: str, named: tuple[str, ...]) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=(-1,) * len(named), axes=named)

    return Signature(
        inputs=tuple(spec(name, found.inputs[name]) for name in arrays),
        outputs=tuple(spec(name, named) for name, named in found.outputs.items()),
        pads=fills,
        pad_axis=axis,
    )
