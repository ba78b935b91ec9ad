"""Which axes of a model are free, and over which sizes: found by asking the source.

A free axis has a name; axes of one name have one size. Whether rows of a batch depend on each other
is found here too: only where they do not may requests of several callers be joined.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks.draws import drawn
from lmaas.frameworks.source import Source, same
from lmaas.tasks import Tensors
from lmaas.types import TensorSpec

BATCH_NAME: Final = "batch"
BATCHES: Final = (1, 2, 5)
"""Batch sizes at which every model is asked, beside the sample's own and a full batch."""
FULL_BATCH: Final = 64
MOST_ELEMENTS: Final = 1 << 22
"""Elements of one input up to which free axes are tried: a model that takes so many has no bound
that is met."""
MOST_CPU_S: Final = 1.0
"""A size at which one row takes so much of the processor is the last that is tried, and served.
What else the machine does makes no difference."""

Places = tuple[tuple[str, int], ...]
"""Axes of inputs: (input, axis)."""


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """The free axes. `inputs` and `outputs` have, for each tensor, a name for each axis, "" for a
    fixed one and "?" for an output's that varies in a way of its own. `sizes` has the least and the
    most size of each name. `joins`: the first axis of everything is the batch, of independent rows.
    """

    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]
    sizes: dict[str, tuple[int, int | None]]
    joins: bool
    notes: tuple[str, ...] = ()

    @property
    def free(self) -> bool:
        """Whether any axis is."""
        return bool(self.sizes)


def resize(arrays: Tensors, places: Places, size: int, rng: np.random.Generator) -> Tensors:
    """`arrays` with `size` along the axes in `places`: the same rows, in another order."""
    resized = dict(arrays)
    order: dict[int, np.ndarray] = {}
    for name, axis in places:
        array = resized[name]
        had = array.shape[axis]
        if had not in order:
            rounds = -(-size // had)
            order[had] = np.concatenate([rng.permutation(had) for _ in range(rounds)])[:size]
        resized[name] = np.ascontiguousarray(np.take(array, order[had], axis))
    return resized


def find(
    source: Source,
    arrays: Tensors,
    outputs: Tensors,
    wanted: Mapping[str, Mapping[int, str]],
    within: Mapping[str, tuple[int, int]],
) -> Axes:
    """The free axes of a source that gives `outputs` for `arrays`.

    `wanted` names further axes that are to be free, by input and axis; each that the model does
    not take in other sizes is an InvalidInput. `within` has the least and the most size of some:
    no others are tried.
    """
    places = _named(arrays, wanted)
    notes: list[str] = []
    sizes: dict[str, tuple[int, int | None]] = {}
    seen: dict[str, dict[int, Tensors]] = {}
    rng = np.random.default_rng(1)
    if BATCH_NAME not in places:
        found = _batch_places(arrays, places)
        if found:
            tried = _try(source, arrays, outputs, found, (*BATCHES, full_batch(arrays, found)), rng)
            if len(tried) > 1:
                places = {BATCH_NAME: found, **places}
                sizes[BATCH_NAME] = (min(tried), None)
                seen[BATCH_NAME] = tried
            else:
                notes.append(
                    f"The model runs at the sample's batch size of {own_size(arrays, found)} alone."
                )
    for name, where in places.items():
        if name in sizes:
            continue
        tried, bounds = _range(
            source,
            arrays,
            outputs,
            where,
            places.get(BATCH_NAME, ()) if BATCH_NAME in sizes else (),
            sizes.get(BATCH_NAME, (1, None))[0],
            rng,
            within.get(name, (1, None)),
        )
        if len(tried) < 2:
            told = ", ".join(f"{tensor} axis {axis}" for tensor, axis in where)
            raise InvalidInput(
                f"The axis {name!r} ({told}) is said to be free; the model runs on no other size "
                f"than the sample's {own_size(arrays, where)}.",
                hint="Axes of different inputs that change together need one name.",
                param="dynamic",
            )
        sizes[name], seen[name] = bounds, tried
    inputs = {name: [""] * array.ndim for name, array in arrays.items()}
    for name, where in places.items():
        for tensor, axis in where:
            inputs[tensor][axis] = name
    told_outputs = {name: _output_axes(name, outputs, seen) for name in outputs}
    joins = _joins(inputs, told_outputs, sizes)
    if joins and not _independent(source, arrays, places[BATCH_NAME], rng):
        joins = False
        notes.append(
            "A row's answer depends on the other rows of its batch: requests are not joined."
        )
    return Axes(
        inputs={name: tuple(axes) for name, axes in inputs.items()},
        outputs=told_outputs,
        sizes=sizes,
        joins=joins,
        notes=tuple(notes),
    )


def shown(arrays: Tensors, other: Tensors) -> dict[str, dict[int, str]]:
    """The axes in which two samples differ, by input and axis; those that change alike are one.

    An input's first axis is the batch and needs no showing. Raises InvalidInput for samples that
    differ in more than their sizes.
    """
    if arrays.keys() != other.keys() or any(arrays[n].ndim != other[n].ndim for n in arrays):
        raise InvalidInput(
            "The second sample must have the same inputs and numbers of axes as the first.",
            param="second_sample",
        )
    names: dict[tuple[int, int], str] = {}
    batch = {(len(arrays[n]), len(other[n])) for n in arrays if arrays[n].ndim}
    wanted: dict[str, dict[int, str]] = {}
    for name, array in arrays.items():
        for axis, (one, two) in enumerate(zip(array.shape, other[name].shape, strict=True)):
            if one == two or (axis == 0 and len(batch) == 1):
                continue
            label = names.setdefault((one, two), f"size_{len(names) + 1}")
            wanted.setdefault(name, {})[axis] = label
    return wanted


def declared(arrays: Tensors, specs: Sequence[TensorSpec]) -> dict[str, dict[int, str]]:
    """The axes beside the first that a model itself leaves open.

    Axes of several inputs that have one size in the sample are taken to be one.
    """
    names: dict[tuple[int, int], str] = {}
    wanted: dict[str, dict[int, str]] = {}
    for spec in specs:
        array = arrays[spec.name]
        seen: Counter[int] = Counter()
        for axis, size in enumerate(spec.shape):
            if axis and size < 0:
                own = array.shape[axis]
                label = names.setdefault((own, seen[own]), f"size_{len(names) + 1}")
                seen[own] += 1
                wanted.setdefault(spec.name, {})[axis] = label
    return wanted


def fixed(arrays: Tensors, outputs: Tensors, notes: Sequence[str] = ()) -> Axes:
    """No free axis at all."""
    return Axes(
        inputs={name: ("",) * array.ndim for name, array in arrays.items()},
        outputs={name: ("",) * array.ndim for name, array in outputs.items()},
        sizes={},
        joins=False,
        notes=tuple(notes),
    )


def _named(arrays: Tensors, wanted: Mapping[str, Mapping[int, str]]) -> dict[str, Places]:
    places: dict[str, Places] = {}
    for tensor, axes in wanted.items():
        if tensor not in arrays:
            raise InvalidInput(
                f"The model has no input {tensor!r}; it has {list(arrays)}.", param="dynamic"
            )
        for axis, name in axes.items():
            rank = arrays[tensor].ndim
            if not -rank <= axis < rank:
                raise InvalidInput(
                    f"Input {tensor!r} has {rank} axes; axis {axis} is none of them.",
                    param="dynamic",
                )
            places[name] = (*places.get(name, ()), (tensor, axis % rank))
    for name, where in places.items():
        found = {arrays[tensor].shape[axis] for tensor, axis in where}
        if len(found) != 1 or not name.isidentifier():
            raise InvalidInput(
                f"The free axis {name!r} has the sizes {sorted(found)} in the sample: one name is "
                "one size, and names are identifiers.",
                param="dynamic",
            )
    return places


def _batch_places(arrays: Tensors, taken: Mapping[str, Places]) -> Places:
    """Where the batch axis is: the first of each input, else the only one of that size."""
    used = {place for where in taken.values() for place in where}
    first = next((a for a in arrays.values() if a.ndim), None)
    if first is None or (next(iter(arrays)), 0) in used:
        return ()
    size = first.shape[0]
    places = []
    for name, array in arrays.items():
        alike = [axis for axis, own in enumerate(array.shape) if own == size]
        alike = [axis for axis in alike if (name, axis) not in used]
        if alike and (alike[0] == 0 or len(alike) == 1):
            places.append((name, alike[0]))
    return tuple(places)


def own_size(arrays: Tensors, where: Places) -> int:
    """The sample's size of an axis."""
    return int(arrays[where[0][0]].shape[where[0][1]])


def full_batch(arrays: Tensors, where: Places) -> int:
    """A full batch, where it is cheap."""
    own = own_size(arrays, where)
    elements = sum(array.size for array in arrays.values()) // own
    return FULL_BATCH if elements * FULL_BATCH <= MOST_ELEMENTS // 16 else own


def _try(
    source: Source,
    arrays: Tensors,
    outputs: Tensors,
    where: Places,
    sizes: Sequence[int],
    rng: np.random.Generator,
) -> dict[int, Tensors]:
    """The outputs at each size at which the model runs and gives tensors of the same rank."""
    found = {own_size(arrays, where): outputs}
    for size in sizes:
        if size in found or source.tired:
            continue
        got = source.ask(resize(arrays, where, size, rng))
        if got is not None and _alike(outputs, got):
            found[size] = got
    return found


def _alike(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(
        a[n].ndim == b[n].ndim and a[n].dtype == b[n].dtype for n in a
    )


def _range(
    source: Source,
    arrays: Tensors,
    outputs: Tensors,
    where: Places,
    batch: Places,
    least_batch: int,
    rng: np.random.Generator,
    within: tuple[int, int | None],
) -> tuple[dict[int, Tensors], tuple[int, int | None]]:
    """Outputs at some sizes, and the least and most size (None: no most was met)."""
    own = own_size(arrays, where)
    lowest, highest = within
    near = [
        size
        for size in (own + 1, own - 1 or own + 2, own + 7)
        if lowest <= size and (highest is None or size <= highest)
    ]
    tried = _try(source, arrays, outputs, where, near, rng)
    if len(tried) < 2:
        return tried, (own, own)

    slim = resize(arrays, batch, least_batch, rng) if batch else arrays

    def runs(size: int) -> bool:
        return source.ask(resize(slim, where, size, rng)) is not None

    least, bad = min(tried), lowest - 1
    for size in range(lowest, lowest + 3):
        if size < least:
            if runs(size):
                least = size
                break
            bad = size
    least = _border(runs, least, bad)
    tried.update(_try(source, arrays, outputs, where, (least,), rng))
    most, bad = max(tried), 0
    unit = max(slim[tensor].size // own for tensor, _ in where)
    while 2 * most * unit <= MOST_ELEMENTS:
        if highest is not None and 2 * most > highest:
            ends = most < highest and runs(highest)
            return tried, (least, highest if ends else most)
        start = time.process_time()
        if not runs(2 * most):
            bad = 2 * most
            break
        most *= 2
        if time.process_time() - start > MOST_CPU_S or source.tired:
            return tried, (least, most)
    if not bad:
        return tried, (least, None)
    return tried, (least, _border(runs, most, bad))


def _border(runs: Callable[[int], bool], good: int, bad: int) -> int:
    """The size nearest to `bad` at which the model runs, by halving."""
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if runs(middle):
            good = middle
        else:
            bad = middle
    return good


def _output_axes(
    name: str, own: Tensors, seen: Mapping[str, Mapping[int, Tensors]]
) -> tuple[str, ...]:
    told = []
    for axis in range(own[name].ndim):
        label = ""
        for symbol, by_size in seen.items():
            found = {s: got[name].shape[axis] for s, got in by_size.items()}
            if len(set(found.values())) == 1:
                continue
            tied = all(s == other for s, other in found.items())
            label = symbol if tied and not label else "?"
        told.append(label)
    return tuple(told)


def _joins(
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
    sizes: Mapping[str, tuple[int, int | None]],
) -> bool:
    if sizes.get(BATCH_NAME, (0, None))[0] != 1:
        return False
    return all(
        bool(axes) and axes[0] == BATCH_NAME and BATCH_NAME not in axes[1:]
        for axes in (*inputs.values(), *outputs.values())
    )


def _independent(source: Source, arrays: Tensors, where: Places, rng: np.random.Generator) -> bool:
    """Whether rows together give what each gives alone."""
    several = drawn(resize(arrays, where, max(BATCHES), rng), rng)
    together = source.ask(several)
    if together is None:
        return False
    for row in range(max(BATCHES)):
        alone = source.ask({name: array[row : row + 1] for name, array in several.items()})
        if alone is None:
            return False
        for name, output in alone.items():
            if name not in source.random and not same(together[name][row : row + 1], output):
                return False
    return True
