"""Sources on their way through the encoder: what waits is read in batches, and kept while needed.

Knows the encoder's graph and its inputs; nothing of decoding.
"""

import re
import weakref
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.runtime import ov
from lmaas.types import SequenceSpec

CROSS: Final = re.compile(r"(key|value)_\d+")
"""Inputs of a decoder that are an encoder's outputs."""
MOST_TOKENS: Final = 4096
"""Of a batch of texts, padding included: longer ones would hold up the running sequences."""
MOST_BUSY: Final = {"tokens": 32, "audio": 1, "image": 2}
MOST_IDLE: Final = {"tokens": 64, "audio": 4, "image": 8}
"""Sources in one run of the encoder, while sequences are running and while none are."""


MOST_KEPT: Final = 4
"""Encoded sources that nobody uses at the moment: a conversation asks again at once, or not."""


class Encoded(msgspec.Struct, kw_only=True, eq=False):
    """A source for cross attention: `layers` has for each layer its keys and values (H, S, W)."""

    layers: list[np.ndarray]
    length: int


class Source(msgspec.Struct, kw_only=True, eq=False):
    """An array that is read once, however many sequences are written about it. `key` is its id.

    While a sequence is written about it, its lane has what was encoded, and nobody else.
    """

    key: int
    array: np.ndarray
    length: int
    encoded: Encoded | None = None
    users: int = 0


class Sources:
    """Arrays on which sequences are written, and some of those that may be asked about again.

    A conversation that holds its array may have more written about it, turns later. So the last
    `MOST_KEPT` that nobody uses now stay encoded, for as long as somebody holds their arrays.
    """

    def __init__(self) -> None:
        self._used: dict[int, Source] = {}
        self._kept: dict[int, tuple[weakref.ref[np.ndarray], Encoded]] = {}

    def take(self, array: np.ndarray) -> Source:
        """The source of an array, for one more sequence."""
        key = id(array)
        source = self._used.get(key)
        if source is None:
            length = 1 if array.ndim == 3 else array.shape[-1]
            source = self._used[key] = Source(key=key, array=array, length=length)
            kept = self._kept.pop(key, None)
            if kept is not None and kept[0]() is array:
                source.encoded = kept[1]
        source.users += 1
        return source

    def give_back(self, source: Source) -> None:
        """One sequence less."""
        source.users -= 1
        if source.users:
            return
        key = source.key
        del self._used[key]
        if source.encoded is not None:
            gone = weakref.ref(source.array, lambda _: self._kept.pop(key, None))
            self._kept[key] = (gone, source.encoded)
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]


class Encoder:
    """Runs the encoder's graph for sources of one kind."""

    def __init__(self, compiled: Any, spec: SequenceSpec, *, halves: bool = False) -> None:
        self._request = compiled.create_infer_request()
        self._halves = halves
        self._kind = spec.source
        self._pad = spec.pad_token_id
        names = sorted(
            (port.get_any_name() for port in compiled.outputs),
            key=lambda name: (int(name.rpartition("_")[2]), name),
        )
        self._outputs = names

    @property
    def names(self) -> list[str]:
        """The names of what each layer looks at, in the order of `Encoded.layers`."""
        return self._outputs

    def fit(self, waiting: list[Source], *, busy: bool) -> list[Source]:
        """The first of `waiting` that make one batch."""
        most = (MOST_BUSY if busy else MOST_IDLE)[self._kind]
        chosen: list[Source] = []
        longest = 0
        for source in waiting[:most]:
            longest = max(longest, source.length)
            if chosen and self._kind == "tokens" and longest * (len(chosen) + 1) > MOST_TOKENS:
                break
            if chosen and self._kind != "tokens" and source.array.shape != chosen[0].array.shape:
                break
            chosen.append(source)
        return chosen

    def run(self, sources: list[Source]) -> None:
        """Encode them together."""
        inputs = self._inputs(sources)
        outputs = self._request.infer(inputs)
        kept = as_bfloat16 if self._halves else np.array
        found = [kept(outputs[name]) for name in self._outputs]
        for number, source in enumerate(sources):
            length = source.length if self._kind == "tokens" else found[0].shape[2]
            layers = [array[number, :, :length] for array in found]
            source.encoded = Encoded(layers=layers, length=length)

    def _inputs(self, sources: list[Source]) -> dict[str, np.ndarray]:
        if self._kind != "tokens":
            name = "features" if self._kind == "audio" else "pixels"
            return {name: np.stack([s.array for s in sources]).astype(np.float32, copy=False)}
        longest = max(source.length for source in sources)
        tokens = np.full((len(sources), longest), self._pad, np.int64)
        mask = np.zeros((len(sources), longest), np.float32)
        for row, source in enumerate(sources):
            tokens[row, : source.length] = source.array
            mask[row, : source.length] = 1
        return {"tokens": tokens, "mask": mask}


def compile_graph(path: Any, precision: str, threads: int) -> Any:
    """A graph on the CPU. Keys and values are kept in the precision of the products."""
    model = ov.core().read_model(path)
    if precision == "bf16":
        model = _taking_halves(model)
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return ov.core().compile_model(model, "CPU", config)


def takes_halves(decoder: Any) -> bool:
    """Whether a compiled decoder takes keys and values of sources as bfloat16."""
    half = ov.load().Type.bf16
    return any(
        CROSS.fullmatch(port.get_any_name()) and port.get_element_type() == half
        for port in decoder.inputs
    )


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded to the nearest: what bfloat16 is, as uint16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _taking_halves(model: Any) -> Any:
    """The graph with keys and values of sources as bfloat16.

    Where they come as float32, the plugin would turn all of them to bfloat16 in every step.
    """
    openvino = ov.load()
    names = [port.get_any_name() for port in model.inputs]
    names = [name for name in names if CROSS.fullmatch(name)]
    if not names:
        return model
    changes = openvino.preprocess.PrePostProcessor(model)
    for name in names:
        changes.input(name).tensor().set_element_type(openvino.Type.bf16)
    return changes.build()
