"""Parity's questions: on which inputs a source model and what is served of it are compared.

The sample alone proves little: tracing freezes whatever it happened to be. So the source is asked
with other values, masks, batches, lengths and whole numbers too, and its answers go with the
package. Knows no framework.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from lmaas.codecs import strings
from lmaas.frameworks import axes as free_axes
from lmaas.frameworks import draws, integers, masks
from lmaas.frameworks.axes import BATCH_NAME, BATCHES, Axes, Places, resize
from lmaas.frameworks.source import Source
from lmaas.runtime.cases import Case
from lmaas.tasks import Tensors
from lmaas.types import BATCH, TensorSpec

MOST_ROWS: Final = 8
"""Rows of the cases that are drawn."""
MOST_BYTES: Final = 64 << 20
"""Of all cases beside the sample: they travel with the package."""
LENGTHS: Final = (1, 2, 3, 7, 17, 33)
"""Sizes at which free axes are compared, where the model takes them, beside some near its own."""
INT32: Final = np.iinfo(np.int32)


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a source."""

    cases: list[Case]
    axes: Axes
    ranges: dict[str, tuple[int, int]]
    pad_axis: str
    pads: dict[str, int]
    random: frozenset[str]
    notes: tuple[str, ...]

    @property
    def own(self) -> Tensors:
        """The source's outputs for the sample."""
        outputs = self.cases[0].outputs
        assert outputs is not None
        return outputs

    def specs(self, *, inputs: bool) -> tuple[TensorSpec, ...]:
        """The tensors of the signature."""
        own = self.cases[0]
        assert own.outputs is not None
        arrays = own.inputs if inputs else own.outputs
        named = self.axes.inputs if inputs else self.axes.outputs
        return tuple(self._spec(name, array, named[name]) for name, array in arrays.items())

    def _spec(self, name: str, array: np.ndarray, named: tuple[str, ...]) -> TensorSpec:
        dtype = strings.dtype_name(array)
        shape = tuple(
            BATCH if label else size for label, size in zip(named, array.shape, strict=True)
        )
        plain = self.axes.joins and not any(named[1:])
        least, most = self.ranges.get(name, (None, None))
        if least is not None and most is not None:
            info = np.iinfo(array.dtype)
            least = None if least <= info.min else least
            most = None if most >= info.max else most
        return TensorSpec(
            name=name,
            dtype=dtype,
            shape=shape,
            axes=() if plain or not any(named) else named,
            minimum=least,
            maximum=most,
        )


NO_BOUNDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({})
FROZEN: Final = "No form of it keeps its free axes: served at the sample's own shapes alone."


def probe(
    source: Source,
    arrays: Tensors,
    wanted: Mapping[str, Mapping[int, str]],
    bounds: Mapping[str, tuple[int, int]] = NO_BOUNDS,
    *,
    frozen: bool = False,
) -> Probed:
    """Ask a source about itself. Raises InvalidInput where it does not run on the sample.

    `wanted` names the axes that are to be free, by input and axis, beside the batch, and `bounds`
    the least and the most size of some; with `frozen` none is free.
    """
    outputs = source.first(arrays)
    if frozen:
        found = free_axes.fixed(arrays, outputs, [FROZEN])
    else:
        found = free_axes.find(source, arrays, outputs, wanted, bounds)
    few = _few(arrays, found)
    ranges = integers.ranges(source, _one(arrays, found))
    asked = _Cases(source, [Case(name="the sample", inputs=arrays, outputs=outputs)])
    rng = np.random.default_rng(2)
    places = _places(found)
    if BATCH_NAME in found.sizes:
        least = found.sizes[BATCH_NAME][0]
        for size in (*BATCHES, free_axes.full_batch(arrays, places[BATCH_NAME])):
            if size >= least:
                asked.ask(f"batch {size}", resize(arrays, places[BATCH_NAME], size, rng))
    asked.ask("values mixed", draws.mixed(few, rng))
    asked.ask("values drawn anew", draws.drawn(few, rng))
    asked.ask("masks drawn anew", draws.masks(few, rng))
    for name, where in places.items():
        if name == BATCH_NAME:
            continue
        for size in _lengths(found.sizes[name], free_axes.own_size(arrays, where)):
            longer = draws.drawn(resize(few, where, size, rng), rng)
            asked.ask(f"{name} {size}", longer)
    for told, by in (("negated", -1.0), ("ten times as large", 10.0), ("a thousandth", 1e-3),
                     ("all zero", 0.0)):  # fmt: skip
        asked.ask(f"values {told}", draws.scaled(few, by))
    if any(output.dtype.kind in "iu" for output in outputs.values()):
        for by in (1e3, 1e6, 1e10):
            asked.ask(f"values times {by:g}", draws.scaled(few, by))
    # What is refused here is refused for how the numbers stand together, as offsets must be in
    # order: the model is not asked for that where it is served.
    asked.ask("whole numbers of all sizes", draws.over(few, ranges, rng), refusals=False)
    asked.ask("whole numbers of 32 bits", draws.over(few, _of_32_bits(ranges), rng), refusals=False)
    notes = list(found.notes)
    if source.random:
        named = ", ".join(sorted(source.random))
        notes.append(f"Drawn at random, so that only shapes and spread were compared: {named}.")
    if asked.skipped:
        notes.append(f"Not compared, for time or space: {', '.join(asked.skipped)}.")
    pad_axis, pads = masks.padding(source, few, found)
    if pad_axis:
        notes.append(f"Requests of different {pad_axis} are joined: the mask hides what fills up.")
    return Probed(
        cases=asked.cases,
        axes=found,
        ranges=ranges,
        pad_axis=pad_axis,
        pads=pads,
        random=source.random,
        notes=tuple(notes),
    )


class _Cases:
    """Collects cases within bounds of time and bytes."""

    def __init__(self, source: Source, cases: list[Case]) -> None:
        self.cases = cases
        self.skipped: list[str] = []
        self._source = source
        self._bytes = 0

    def ask(self, name: str, arrays: Tensors | None, *, refusals: bool = True) -> None:
        if arrays is None or any(_equal(arrays, case.inputs) for case in self.cases):
            return
        if self._source.tired or self._bytes + _size(arrays) > MOST_BYTES:
            self.skipped.append(name)
            return
        outputs = self._source.ask(arrays)
        if outputs is None and not refusals:
            return
        self._bytes += _size(arrays) + _size(outputs or {})
        self.cases.append(Case(name=name, inputs=arrays, outputs=outputs))


def _equal(a: Tensors, b: Tensors) -> bool:
    return all(a[n].shape == b[n].shape and np.array_equal(a[n], b[n]) for n in a)


def _size(arrays: Tensors) -> int:
    return sum(array.nbytes for array in arrays.values())


def _places(found: Axes) -> dict[str, Places]:
    places: dict[str, Places] = {}
    for tensor, named in found.inputs.items():
        for axis, name in enumerate(named):
            if name:
                places[name] = (*places.get(name, ()), (tensor, axis))
    return places


def _few(arrays: Tensors, found: Axes) -> Tensors:
    """The sample with no more rows than `MOST_ROWS`, where the batch axis is free."""
    where = _places(found).get(BATCH_NAME)
    if where is None:
        return arrays
    rows = min(MOST_ROWS, free_axes.own_size(arrays, where))
    return {n: _cut(a, dict(where).get(n), rows) for n, a in arrays.items()}


def _one(arrays: Tensors, found: Axes) -> Tensors:
    """The sample's fewest rows that the model takes."""
    where = _places(found).get(BATCH_NAME)
    if where is None:
        return arrays
    rows = found.sizes[BATCH_NAME][0]
    if rows > free_axes.own_size(arrays, where):
        return arrays
    return {n: _cut(a, dict(where).get(n), rows) for n, a in arrays.items()}


def _cut(array: np.ndarray, axis: int | None, rows: int) -> np.ndarray:
    if axis is None:
        return array
    return np.ascontiguousarray(np.take(array, np.arange(rows), axis))


def _lengths(bounds: tuple[int, int | None], own: int) -> list[int]:
    least, most = bounds
    wanted = {*LENGTHS, least, own - 1, own + 1, 2 * own + 1}
    if most is not None:
        wanted.add(min(most, 8 * own + 512))
    return sorted(s for s in wanted if s >= max(1, least) and (most is None or s <= most))


def _of_32_bits(ranges: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {
        name: (max(least, int(INT32.min)), min(most, int(INT32.max)))
        for name, (least, most) in ranges.items()
        if least < INT32.min or most > INT32.max
    }
