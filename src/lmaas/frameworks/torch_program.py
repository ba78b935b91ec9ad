"""From what `torch.export` finds to the program that the engine `torch` runs."""

import inspect
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lmaas.errors import InvalidInput
from lmaas.runtime.native.program import PLAIN, PROGRAM, SYMBOLIC, WEIGHTS, Graph, Node, Program


def write(
    exported: Any,
    folder: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write an exported program whose user's inputs and outputs have these names, in order.

    Raises InvalidInput for operations that a program cannot have.
    """
    from safetensors.torch import save_file

    signature = exported.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**dict(exported.state_dict), **dict(exported.constants)}
    graphs: dict[str, Graph] = {}
    graph = _graph(exported.graph_module, graphs)
    # What a model writes into its own buffers comes first among the outputs; it is not kept.
    told = [
        arg for arg, spec in zip(graph.outputs, signature.output_specs, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]  # fmt: skip
    if len(told) != len(outputs):
        raise InvalidInput(f"The program has {len(told)} outputs; expected {len(outputs)}.")
    program = Program(
        graph=Graph(inputs=graph.inputs, nodes=graph.nodes, outputs=told),
        weights={name: named[name] for name in graph.inputs if name in named},
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        graphs=graphs,
    )
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensors[name] for name in set(program.weights.values())}
    save_file({n: t.detach().cpu().clone().contiguous() for n, t in kept.items()}, folder / WEIGHTS)
    (folder / PROGRAM).write_bytes(msgspec.json.encode(program))


def _graph(module: Any, graphs: dict[str, Graph]) -> Graph:
    inputs, nodes = [], []
    outputs: Any = []
    for node in module.graph.nodes:
        match node.op:
            case "placeholder":
                inputs.append(node.name)
            case "output":
                outputs = _argument(list(node.args[0]), module, graphs)
            case "get_attr":
                # Subgraphs are named where they are used.
                continue
            case "call_function":
                op = _operation(node.target)
                args = [_argument(arg, module, graphs) for arg in node.args]
                if op == "while_loop" and len(args) < 4:
                    args.append([])
                kwargs = {
                    key: _argument(value, module, graphs)
                    for key, value in node.kwargs.items()
                    if key != "pin_memory"
                }
                nodes.append(Node(name=node.name, op=op, args=tuple(args), kwargs=kwargs))
            case _:
                raise InvalidInput(f"The exported graph has a {node.op} node.")
    return Graph(inputs=tuple(inputs), nodes=tuple(nodes), outputs=outputs)


def _operation(target: Any) -> str:
    import torch

    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        if namespace == "aten":
            return f"aten.{name}.{target._overloadname}"
        raise InvalidInput(f"The operation {target} is not one of PyTorch's own.")
    name = getattr(target, "__name__", str(target))
    if isinstance(target, torch._ops.HigherOrderOperator):
        if name in ("cond", "while_loop"):
            return str(name)
        raise InvalidInput(f"The operation {name} cannot be kept.")
    if inspect.isbuiltin(target) and getattr(operator, name, None) is target and name in PLAIN:
        return f"plain.{name}"
    if name in SYMBOLIC:
        return f"torch.{name}"
    module = getattr(target, "__module__", "")
    if module == "math" and name in PLAIN:
        return f"plain.{name}"
    raise InvalidInput(f"The operation {module}.{name} cannot be kept.")


def _argument(arg: Any, module: Any, graphs: dict[str, Graph]) -> Any:
    import torch

    if isinstance(arg, torch.fx.Node):
        if arg.op != "get_attr":
            return {"node": arg.name}
        inner = getattr(module, str(arg.target))
        if not isinstance(inner, torch.fx.GraphModule):
            raise InvalidInput(f"The exported graph refers to {arg.target}, which is no graph.")
        name = f"{len(graphs)}:{arg.target}"
        graphs[name] = Graph(inputs=(), nodes=(), outputs=[])
        graphs[name] = _graph(inner, graphs)
        return {"graph": name}
    if isinstance(arg, list | tuple):
        return [_argument(each, module, graphs) for each in arg]
    if arg is None or isinstance(arg, bool | int | str):
        return arg
    if isinstance(arg, float):
        return arg if arg - arg == 0 else {"float": str(arg)}
    for kind, types in (
        ("dtype", torch.dtype),
        ("format", torch.memory_format),
        ("layout", torch.layout),
    ):
        if isinstance(arg, types):
            return {kind: str(arg).removeprefix("torch.")}
    if isinstance(arg, torch.device):
        return {"device": "cpu"}
    raise InvalidInput(f"The exported graph has an argument of type {type(arg).__name__}.")
