"""A PyTorch graph as data: `program.json` and `weights.safetensors`, and what runs it.

What `torch.export` finds is a list of operations; it is kept here as JSON and run one by one.
torch's own archive is not loaded: reading it evaluates expressions and may unpickle. Only
operations of PyTorch's own library on tensors, and arithmetic on sizes, can be named.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.types import UNREADABLE, Record

PROGRAM: Final = "program.json"
WEIGHTS: Final = "weights.safetensors"
FORBIDDEN: Final = frozenset({"from_file", "save", "_print"})
"""Operations of the library that touch files or print."""
NOTHING: Final = frozenset(
    {"aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default"}
)
"""What only the exporter needs."""
PLAIN: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(operator, name)
    for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "eq", "ne", "lt", "le",
        "gt", "ge", "getitem", "and_", "or_", "not_", "abs",
    )
} | {"ceil": math.ceil, "floor": math.floor, "trunc": math.trunc, "sqrt": math.sqrt}  # fmt: skip
"""Arithmetic on sizes."""
SYMBOLIC: Final = frozenset(
    {"sym_max", "sym_min", "sym_not", "sym_ite", "sym_float", "sym_int", "sym_sqrt", "sym_sum"}
)
DTYPES: Final = frozenset(
    {"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
     "bfloat16", "float32", "float64", "complex64", "complex128"}
)  # fmt: skip
FORMATS: Final = frozenset({"contiguous_format", "preserve_format", "channels_last",
                            "channels_last_3d"})  # fmt: skip


class Node(Record, frozen=True, kw_only=True):
    """One operation: `aten.add.Tensor`, `plain.mul`, `torch.sym_max`, `cond` or `while_loop`."""

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)


class Graph(Record, frozen=True, kw_only=True):
    """Operations in order. `inputs` are names of nodes; `outputs` what they give, as arguments."""

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: Any


class Program(Record, frozen=True, kw_only=True):
    """A graph, its subgraphs by name, and which of its inputs are weights (by tensor name).

    `inputs` and `outputs` are the names that callers use, in order.
    """

    graph: Graph
    weights: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graphs: dict[str, Graph] = msgspec.field(default_factory=dict)


def read(folder: Path) -> Program:
    """The program in `folder`. Raises ModelRefused for what is none or names what it must not."""
    try:
        program = msgspec.json.decode((folder / PROGRAM).read_bytes(), type=Program)
    except (OSError, *UNREADABLE) as error:
        raise ModelRefused(f"{PROGRAM} is not a program: {error}.") from None
    for graph in (program.graph, *program.graphs.values()):
        for node in graph.nodes:
            _check(node.op)
    return program


def _check(op: str) -> None:
    kind, _, rest = op.partition(".")
    known = {
        "aten": rest.partition(".")[0] not in FORBIDDEN,
        "plain": rest in PLAIN,
        "torch": rest in SYMBOLIC,
        "cond": not rest,
        "while_loop": not rest,
    }
    if not known.get(kind, False):
        raise ModelRefused(f"{PROGRAM} has the operation {op!a}, which is not run.")


class Runner:
    """A program, ready to be run."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.program = read(folder)
        self._weights = load_file(folder / WEIGHTS)
        missing = sorted(set(self.program.weights.values()) - self._weights.keys())
        if missing:
            raise ModelRefused(f"{WEIGHTS} lacks {missing[:5]}.")
        graphs = {"": self.program.graph, **self.program.graphs}
        self._ready = {name: _steps(graph) for name, graph in graphs.items()}

    def __call__(self, tensors: Mapping[str, Any]) -> list[Any]:
        """The outputs, in the program's order. Raises InvalidInput where an operation fails."""
        program = self.program
        given = iter([tensors[name] for name in program.inputs])
        values = [
            self._weights[program.weights[name]] if name in program.weights else next(given)
            for name in program.graph.inputs
        ]
        outputs = self._run("", program.graph, values)
        return list(outputs)

    def _run(self, key: str, graph: Graph, values: Sequence[Any]) -> Any:
        known = dict(zip(graph.inputs, values, strict=True))
        for node, call, over in self._ready[key]:
            args = [_value(arg, known) for arg in node.args]
            kwargs = {name: _value(arg, known) for name, arg in node.kwargs.items()}
            try:
                known[node.name] = (
                    self._control(node.op, args) if call is None else call(*args, **kwargs)
                )
            except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
                told = " ".join(str(error).split())[:300]
                raise InvalidInput(f"The model cannot run on this input: {node.op}: {told}") from (
                    error
                )
            for name in over:
                del known[name]
        return _value(graph.outputs, known)

    def _control(self, op: str, args: list[Any]) -> Any:
        if op == "cond":
            which, then, otherwise, operands = args
            name = then if bool(which) else otherwise
            return self._run(name, self.program.graphs[name], operands)
        condition, body, carried, extra = args
        while bool(self._run(condition, self.program.graphs[condition], [*carried, *extra])[0]):
            carried = list(self._run(body, self.program.graphs[body], [*carried, *extra]))
        return carried


def _steps(graph: Graph) -> list[tuple[Node, Callable[..., Any] | None, list[str]]]:
    """The operations, each with what nothing needs after it: memory is given back as it goes."""
    last: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        last[node.name] = place
        for name in _named([*node.args, *node.kwargs.values()]):
            last[name] = place
    for name in _named(graph.outputs):
        last.pop(name, None)
    over: dict[int, list[str]] = {}
    for name, place in last.items():
        over.setdefault(place, []).append(name)
    return [(node, _bound(node), over.get(n, [])) for n, node in enumerate(graph.nodes)]


def _named(arg: Any) -> Iterator[str]:
    if isinstance(arg, list | tuple):
        for each in arg:
            yield from _named(each)
    elif isinstance(arg, dict) and "node" in arg:
        yield arg["node"]


def _bound(node: Node) -> Callable[..., Any] | None:
    import torch

    kind, _, rest = node.op.partition(".")
    if node.op in NOTHING:
        return lambda *_, **__: None
    if kind == "plain":
        return PLAIN[rest]
    if kind == "torch":
        found: Callable[..., Any] = getattr(torch, rest)
        return found
    if kind != "aten":
        return None
    name, _, overload = rest.partition(".")
    try:
        op: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    except AttributeError:
        raise ModelRefused(
            f"This PyTorch has no operation {node.op!a}.", hint="Publish the model again."
        ) from None
    return op


def _value(arg: Any, known: Mapping[str, Any]) -> Any:
    """An argument: itself, a list of such, or a mapping with one key that says what it is."""
    if isinstance(arg, list | tuple):
        return [_value(each, known) for each in arg]
    if not isinstance(arg, dict):
        return arg
    (kind, told), *_ = arg.items()
    match kind:
        case "node":
            return known[told]
        case "graph":
            return told
        case "float":
            return float(told)
        case _:
            return _torch_value(kind, told)


def _torch_value(kind: str, told: str) -> Any:
    import torch

    match kind:
        case "dtype" if told in DTYPES:
            return getattr(torch, told)
        case "format" if told in FORMATS:
            return getattr(torch, told)
        case "layout" if told == "strided":
            return torch.strided
        case "device":
            return torch.device("cpu")
    raise ModelRefused(f"{PROGRAM} has the argument {kind}={told!a}, which is not known.")
