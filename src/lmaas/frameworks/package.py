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
from lmaas.codecs import strings
from lmaas.errors import InvalidInput, ParityFailed
from lmaas.frameworks import tf_ragged
from lmaas.frameworks.axes import declared, shown
from lmaas.frameworks.base import Framework
from lmaas.frameworks.base import outputs_are as kind_of
from lmaas.frameworks.choosing import Chosen, choose
from lmaas.frameworks.probing import Probed, probe
from lmaas.frameworks.source import Source
from lmaas.runtime.engine import ENGINES
from lmaas.tasks import Tensors
from lmaas.types import (
    AudioSpec,
    DetectionSpec,
    FaceSpec,
    ImageSpec,
    LanguageSpec,
    Lineage,
    Manifest,
    ReadingSpec,
    Signature,
    TensorSpec,
)


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
    audio: AudioSpec | None = None,
    outputs_are: Literal["logits", "probabilities"] | None = None,
    detection: DetectionSpec | None = None,
    face: FaceSpec | None = None,
    reading: ReadingSpec | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    second_sample: Any = None,
    bounds: Mapping[str, tuple[int, int]] | None = None,
    metrics: Mapping[str, float] | None = None,
    card: str = "",
    lineage: Lineage | None = None,
    framework: Framework | None = None,
    source: Path | None = None,
) -> Manifest:
    """Write a package of `model` into `folder` (empty or absent).

    `sample` is what the model is called with: an array (batch axis first), a tuple of them in
    the order of the model's inputs, or a mapping by input name; torch and TensorFlow tensors
    count as arrays. Axes beside the batch are free where `dynamic` names them by input and axis,
    where a `second_sample` has another size, or where the model itself declares them free.
    `bounds` are the least and the most size that a free axis is served at, by its name.
    `source` is the file or folder that the model was loaded from, kept as it is. Raises
    InvalidInput, and ParityFailed where no form of the model gives its own answers.
    """
    framework = framework or frameworks.get(frameworks.of_object(model))
    if framework.name == "tensorflow":
        model, sample, second_sample, ragged = _without_ragged(
            framework, model, sample, second_sample
        )
        dynamic = dynamic or ragged or None
    arrays = name_arrays(framework, model, sample)
    folder.mkdir(parents=True, exist_ok=True)

    def served(arrays: Tensors) -> Chosen:
        wanted = _wanted(framework, model, arrays, dynamic, second_sample)

        def ask(*, frozen: bool = False) -> Probed:
            source = Source(
                lambda given: _renamed(framework.run(model, given), given),
                lambda: framework.seed(model),
            )
            return probe(source, arrays, wanted, bounds or {}, frozen=frozen)

        def signed(probed: Probed) -> Signature:
            kind = outputs_are
            if kind is None and tasks.spec(task).infers_outputs_are:
                kind = kind_of(next(iter(probed.own.values())))
            return tasks.get(task).check_signature(
                Signature(
                    inputs=probed.specs(inputs=True),
                    outputs=probed.specs(inputs=False),
                    batch=probed.axes.joins,
                    axes=dict(probed.axes.sizes) if _names_axes(probed) else {},
                    pad_axis=probed.pad_axis,
                    pads=probed.pads,
                    labels=tuple(map(str, labels)) if labels is not None else None,
                    image=image,
                    language=language,
                    audio=audio,
                    outputs_are=kind,
                    detection=detection,
                    face=face,
                    reading=reading,
                )
            )

        def freeze() -> Probed:
            return ask(frozen=True)

        # Axes that were asked for are free, or the model is refused.
        asked = dynamic is not None or second_sample is not None
        return choose(framework, model, ask(), None if asked else freeze, signed, task, folder)

    with framework.kept(model):
        arrays = fitting(framework, model, arrays)
        try:
            chosen = served(arrays)
        except (InvalidInput, ParityFailed):
            single = narrowed(arrays)
            if framework.name != "scikit-learn" or single is arrays:
                raise
            # Not everything of scikit-learn is converted in float64: then float32 goes in.
            arrays, chosen = single, served(single)
    manifest = Manifest(
        name=name,
        task=task,
        framework=framework.name,
        signature=chosen.signature,
        num_parameters=framework.num_parameters(model),
        framework_version=framework.version(),
        engine=chosen.engine,
        engine_reason=chosen.reason,
        metrics=dict(metrics or {}),
        lineage=lineage or Lineage(),
        card=card,
    )
    if source is None or framework.name == "onnx":
        framework.save(model, folder / "source", arrays)
    else:
        _keep(source, folder / "source")
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def served_in(folder: Path, manifest: Manifest) -> Path:
    """Where a package keeps what is served: a task's own files lie there too."""
    return folder / ENGINES[manifest.engine].folder


def _without_ragged(
    framework: Framework, model: Any, sample: Any, second: Any
) -> tuple[Any, Any, Any, dict[str, dict[int, str]]]:
    """The model, and its samples, with padded rows and lengths instead of ragged tensors; and the
    axes that are free because of it.
    """

    def named(value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {str(name): each for name, each in value.items()}
        values = list(value) if isinstance(value, tuple) else [value]
        return dict(zip(framework.name_inputs(model, values), values, strict=False))

    if isinstance(sample, Mapping):
        values = list(sample.values())
    else:
        values = list(sample) if isinstance(sample, tuple) else [sample]
    if not any(map(tf_ragged.is_ragged, values)):
        return model, sample, second, {}
    given = named(sample)
    names = [name for name, value in given.items() if tf_ragged.is_ragged(value)]
    other = None if second is None else tf_ragged.dense(named(second))
    free = {} if second is not None else {name: {1: f"{name}_size"} for name in names}
    return tf_ragged.wrap(model, names), tf_ragged.dense(given), other, free


def _names_axes(probed: Probed) -> bool:
    return any(spec.axes for spec in (*probed.specs(inputs=True), *probed.specs(inputs=False)))


def _keep(source: Path, folder: Path) -> None:
    """The pushed file or folder itself, under the name that `framework.load` looks for."""
    if source.is_dir():
        shutil.copytree(source, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / f"model{source.suffix}")


def name_arrays(framework: Framework, model: Any, sample: Any) -> Tensors:
    """The sample as arrays by input name."""
    if sample is None:
        raise InvalidInput(
            "A live model needs sample inputs: what it is called with.", param="sample"
        )
    if hasattr(sample, "columns") and hasattr(sample, "to_numpy"):
        # A table of pandas: each column is an input of its own, (N, 1).
        sample = {str(column): sample[[column]].to_numpy() for column in sample.columns}
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
    if not arrays or any(0 in array.shape for array in arrays.values()):
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        raise InvalidInput(
            f"The sample needs arrays with at least one element; received {shapes}.",
            param="sample",
        )
    return arrays


def narrowed(arrays: Tensors) -> Tensors:
    """The arrays with float32 instead of float64; themselves where there is none."""
    if all(array.dtype != np.float64 for array in arrays.values()):
        return arrays
    return {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}


def fitting(framework: Framework, model: Any, arrays: Tensors) -> Tensors:
    """The arrays, float64 ones as float32 where the model does not take them as they are."""
    narrow = narrowed(arrays)
    if narrow is arrays:
        return arrays
    declared = {spec.name: spec.dtype for spec in framework.inputs(model)}
    if all(declared.get(n) == a.dtype.name for n, a in arrays.items() if a.dtype == np.float64):
        return arrays
    try:
        framework.run(model, arrays)
    except Exception:  # noqa: BLE001 - whatever it raises: in float32 it may run, or says why not
        return narrow
    return arrays


def _wanted(
    framework: Framework,
    model: Any,
    arrays: Tensors,
    dynamic: Mapping[str, Mapping[int, str]] | None,
    second: Any,
) -> dict[str, dict[int, str]]:
    """The axes that are to be free beside the batch: named, shown, or declared by the model."""
    if dynamic is not None:
        if second is not None:
            raise InvalidInput("Give dynamic or second_sample, not both.", param="dynamic")
        return {tensor: dict(named) for tensor, named in dynamic.items()}
    if second is not None:
        other = name_arrays(framework, model, second)
        return shown(arrays, other)
    return declared(arrays, framework.inputs(model))


def _in_order(framework: Framework, model: Any, arrays: Tensors) -> Tensors:
    """The arrays in the order of the inputs that the model declares, if it does."""
    names = [spec.name for spec in framework.inputs(model)]
    if names and set(names) != set(arrays):
        raise InvalidInput(
            f"The model has the inputs {names}; the sample has {list(arrays)}.", param="sample"
        )
    return {name: arrays[name] for name in names or arrays}


def _as_declared(specs: list[TensorSpec], arrays: Tensors) -> Tensors:
    """The arrays in the dtypes that the model declares, where that changes no kind of number."""
    declared = {spec.name: spec.dtype for spec in specs}
    cast = dict(arrays)
    for name, array in arrays.items():
        own = strings.dtype_name(array)
        dtype = declared.get(name, own)
        if dtype != own:
            if strings.DTYPE in (own, dtype) or not np.can_cast(array.dtype, dtype, "same_kind"):
                raise InvalidInput(
                    f"Input {name!r} is {dtype}; the sample has {own}.", param="sample"
                )
            cast[name] = array.astype(dtype)
    return cast


def _array(value: Any) -> np.ndarray:
    """One input as an array; texts as objects of bytes. Raises InvalidInput."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    if hasattr(value, "numpy"):
        value = value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidInput(
            "The sample's lists differ in length or depth; expected regular arrays.",
            hint="Pad them to one length, or give one array for each input.",
            param="sample",
        ) from None
    if strings.is_text(array):
        return strings.from_objects(array, name="The sample")
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"The sample must hold numbers or texts; received {array.dtype}.", param="sample"
        )
    return np.ascontiguousarray(array) if array.ndim else array


def _renamed(outputs: Tensors, inputs: Tensors) -> Tensors:
    """The outputs; OpenVINO tells tensors by name alone, so none is called like an input."""
    return {f"{n}_output" if n in inputs else n: array for n, array in outputs.items()}
