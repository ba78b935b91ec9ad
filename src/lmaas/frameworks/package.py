"""From a model to a package: its own files, OpenVINO IR, and the source's answers to compare.

Runs where the model lives: in the caller's process for live objects, in a sandboxed child for
files.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from lmaas import frameworks, tasks
from lmaas.errors import InvalidInput
from lmaas.frameworks.base import Framework, run_source
from lmaas.frameworks.base import outputs_are as kind_of
from lmaas.runtime import ov
from lmaas.tasks import Row
from lmaas.types import BATCH, ImageSpec, LanguageSpec, Lineage, Manifest, Signature, TensorSpec

EXTRA_BATCHES = (1, 3)
"""Batch sizes at which every package carries reference outputs, beside the sample's own."""


def build(
    model: Any,
    *,
    name: str,
    task: str,
    sample: Any,
    folder: Path,
    labels: Sequence[str] | None = None,
    image: ImageSpec | None = None,
    language: LanguageSpec | None = None,
    outputs_are: Literal["logits", "probabilities"] | None = None,
    metrics: Mapping[str, float] | None = None,
    card: str = "",
    lineage: Lineage | None = None,
    framework: Framework | None = None,
    source: Path | None = None,
) -> Manifest:
    """Write a package of `model` into `folder` (empty or absent).

    `sample` is what the model is called with: an array (batch axis first), a tuple of them in
    the order of the model's inputs, or a mapping by input name; torch and TensorFlow tensors
    count as arrays. `source` is the file or folder that the model was loaded from, kept as it is.
    Raises InvalidInput.
    """
    framework = framework or frameworks.get(frameworks.of_object(model))
    arrays = name_arrays(framework, model, sample)
    batches = {
        size: (inputs, {_output_name(name, inputs): value for name, value in results.items()})
        for size, (inputs, results) in _references(framework, model, arrays).items()
    }
    own = len(next(iter(arrays.values())))
    outputs = batches[own][1]
    converted = _convert(framework, model, arrays)
    batch = _name_ports(converted, arrays, outputs, batch=set(batches) >= set(EXTRA_BATCHES))
    if not batch:
        batches = {own: batches[own]}
    signature = Signature(
        inputs=_specs(arrays, batch=batch),
        outputs=_specs(outputs, batch=batch),
        batch=batch,
        labels=tuple(map(str, labels)) if labels is not None else None,
        image=image,
        language=language,
        outputs_are=outputs_are,
    )
    if task == "image-classification" and outputs_are is None:
        signature = msgspec.structs.replace(
            signature, outputs_are=kind_of(next(iter(outputs.values())))
        )
    manifest = Manifest(
        name=name,
        task=task,
        framework=framework.name,
        signature=tasks.get(task).check_signature(signature),
        num_parameters=framework.num_parameters(model),
        framework_version=framework.version(),
        metrics=dict(metrics or {}),
        lineage=lineage or Lineage(),
        card=card,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if source is None or framework.name == "onnx":
        framework.save(model, folder / "source", arrays)
    else:
        _keep(source, folder / "source")
    ov.load().save_model(converted, folder / "compiled" / "model.xml", compress_to_fp16=False)
    _save_sample(batches, folder / "sample.safetensors")
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def _keep(source: Path, folder: Path) -> None:
    """The pushed file or folder itself, under the name that `framework.load` looks for."""
    if source.is_dir():
        shutil.copytree(source, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / f"model{source.suffix}")


def _convert(framework: Framework, model: Any, arrays: Row) -> Any:
    try:
        return framework.convert(model, arrays)
    except InvalidInput:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:500]
        raise InvalidInput(
            f"The model cannot be compiled: {type(error).__name__}: {told}",
            hint="Operations that depend on values, or that only Python can run, do not compile.",
        ) from error


def name_arrays(framework: Framework, model: Any, sample: Any) -> Row:
    """The sample as arrays by input name."""
    if isinstance(sample, Mapping):
        arrays = _in_order(framework, model, {str(n): _array(v) for n, v in sample.items()})
    else:
        values = [_array(v) for v in (sample if isinstance(sample, tuple) else (sample,))]
        names = framework.name_inputs(model, values)
        if len(names) != len(values):
            raise InvalidInput(
                f"The model has the inputs {names}; the sample has {len(values)} arrays.",
                param="sample",
            )
        arrays = dict(zip(names, values, strict=True))
    arrays = _as_declared(framework.inputs(model), arrays)
    sizes = {name: array.shape[:1] for name, array in arrays.items()}
    if not arrays or len(set(sizes.values())) != 1 or sizes[next(iter(sizes))] in ((), (0,)):
        raise InvalidInput(
            f"The sample needs arrays with one common batch axis first; received {sizes}.",
            param="sample",
        )
    return arrays


def _in_order(framework: Framework, model: Any, arrays: Row) -> Row:
    """The arrays in the order of the inputs that the model declares, if it does."""
    names = [spec.name for spec in framework.inputs(model)]
    if names and set(names) != set(arrays):
        raise InvalidInput(
            f"The model has the inputs {names}; the sample has {list(arrays)}.", param="sample"
        )
    return {name: arrays[name] for name in names or arrays}


def _as_declared(specs: list[TensorSpec], arrays: Row) -> Row:
    """The arrays in the dtypes that the model declares, where that changes no kind of number."""
    declared = {spec.name: spec.dtype for spec in specs}
    cast = dict(arrays)
    for name, array in arrays.items():
        dtype = declared.get(name, array.dtype.name)
        if dtype != array.dtype.name:
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise InvalidInput(
                    f"Input {name!r} is {dtype}; the sample has {array.dtype}.", param="sample"
                )
            cast[name] = array.astype(dtype)
    return cast


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    array = np.ascontiguousarray(np.asarray(value))
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"The sample must hold numbers; received {array.dtype}.", param="sample")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _references(framework: Framework, model: Any, arrays: Row) -> dict[int, tuple[Row, Row]]:
    """Inputs and source outputs for the sample and, where the model takes them, sizes 1 and 3."""
    own = len(next(iter(arrays.values())))
    references = {own: (arrays, run_source(framework.run, model, arrays))}
    for size in EXTRA_BATCHES:
        if size == own:
            continue
        inputs = {name: np.resize(a, (size, *a.shape[1:])) for name, a in arrays.items()}
        try:
            outputs = framework.run(model, inputs)
        except Exception:  # noqa: BLE001 - any failure means: this model has a fixed batch size
            return {own: references[own]}
        if any(out.shape[:1] != (size,) for out in outputs.values()):
            return {own: references[own]}
        references[size] = (inputs, outputs)
    return references


def _output_name(name: str, inputs: Row) -> str:
    """OpenVINO tells tensors apart by name alone, so no output may be called like an input."""
    return f"{name}_output" if name in inputs else name


def _name_ports(model: Any, inputs: Row, outputs: Row, *, batch: bool) -> bool:
    """Give the converted model's tensors our names and shapes; whether its batch axis is free."""
    if len(model.inputs) != len(inputs) or len(model.outputs) != len(outputs):
        raise InvalidInput(
            f"The compiled model has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            f"the source has {len(inputs)} and {len(outputs)}.",
            hint="An input that does not reach any output is dropped: leave it out of the sample.",
        )
    ordered_inputs, ordered_outputs = _order(model.inputs, inputs), _order(model.outputs, outputs)
    for ports, names in ((ordered_inputs, inputs), (ordered_outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    fixed = {p: list(a.shape) for p, a in zip(ordered_inputs, inputs.values(), strict=True)}
    if batch:
        try:
            model.reshape({port: [-1, *shape[1:]] for port, shape in fixed.items()})
        except RuntimeError:
            batch = False
    if not batch:
        model.reshape(fixed)
    return batch


def _order(ports: list[Any], arrays: Row) -> list[Any]:
    """The ports in the order of `arrays`: by name where the converter kept all names."""
    named = {name: port for port in ports for name in port.get_names()}
    if all(name in named for name in arrays):
        return [named[name] for name in arrays]
    return list(ports)


def _specs(arrays: Row, *, batch: bool) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name,
            dtype=array.dtype.name,
            shape=(BATCH, *array.shape[1:]) if batch else array.shape,
        )
        for name, array in arrays.items()
    )


def _save_sample(batches: dict[int, tuple[Row, Row]], path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {
        f"{side}.{size}.{name}": np.ascontiguousarray(array)
        for size, pair in batches.items()
        for side, arrays in zip(("in", "out"), pair, strict=True)
        for name, array in arrays.items()
    }
    save_file(tensors, path)
