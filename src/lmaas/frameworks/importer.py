"""Child entry: from a model file or folder to a package. Run by `placement.sandbox` only."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas import frameworks
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.frameworks import adapter, checkpoint, gguf, package, refuse
from lmaas.types import Lineage, Manifest, PushOptions, Record, TensorSpec

CHECKS = {
    "keras": refuse.check_keras,
    "tensorflow": refuse.check_saved_model,
    "onnx": refuse.check_onnx,
}
SAMPLE_SIZE = 4
SEED = 0


class Request(Record, frozen=True, kw_only=True):
    """The model at `path` becomes a package in `folder`.

    `base` is the checkpoint that an adapter was made for.
    """

    path: str
    folder: str
    options: PushOptions
    base: str | None = None


def run(body: bytes) -> bytes:
    """Import one model. Raises ModelRefused, InvalidInput."""
    request = msgspec.json.decode(body, type=Request)
    options = request.options
    if (options.base is None) == adapter.is_adapter(Path(request.path)):
        raise InvalidInput(
            "A LoRA adapter needs the model that it was made for, and nothing else does.",
            hint="lmaas push FOLDER --base NAME",
            param="base",
        )
    if request.base is not None:
        return msgspec.json.encode(_import_adapter(request, Path(request.base)))
    if (file := gguf.file_of(Path(request.path))) is not None:
        plain = Path(request.folder).with_name("plain")
        told = gguf.make_checkpoint(file, plain)
        request = msgspec.structs.replace(request, path=str(plain))
        return msgspec.json.encode(_import_checkpoint(request, told))
    if checkpoint.is_checkpoint(Path(request.path)):
        return msgspec.json.encode(_import_checkpoint(request))
    name, path = refuse.of_path(Path(request.path))
    if options.task is None:
        raise InvalidInput(f"{path.name} does not say its task.", param="task")
    framework = frameworks.get(name)
    try:
        _choose_backend()
        CHECKS[name](path)
        model = framework.load(path)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{path.name} needs {error.name}, which is not installed here.",
            hint=f"pip install 'lmaas[{name}]', or publish from a machine that has it.",
        ) from None
    if options.sample is not None:
        sample: Any = read_sample(Path(options.sample))
    else:
        sample = draw_sample(framework.inputs(model))
    manifest = package.build(
        model,
        name=options.name,
        task=options.task,
        sample=sample,
        folder=Path(request.folder),
        labels=options.labels,
        image=options.image,
        outputs_are=options.outputs_are,
        card=options.card,
        lineage=Lineage(origin="push"),
        framework=framework,
        source=path,
    )
    return msgspec.json.encode(manifest)


def _import_adapter(request: Request, base: Path) -> Manifest:
    merged = Path(request.folder).with_name("merged")
    adapter.merge(Path(request.path), base, merged)
    return _import_checkpoint(msgspec.structs.replace(request, path=str(merged)))


def _import_checkpoint(request: Request, weights: str | None = None) -> Manifest:
    path = Path(request.path)
    try:
        return checkpoint.build(path, Path(request.folder), request.options, weights=weights)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{path.name} needs {error.name}, which is not installed here.",
            hint="pip install 'lmaas[language]'.",
        ) from None


def _choose_backend() -> None:
    """Keras takes TensorFlow unless told otherwise; where only torch is installed, torch."""
    if find_spec("tensorflow") is None and find_spec("torch") is not None:
        os.environ.setdefault("KERAS_BACKEND", "torch")


def draw_sample(specs: list[TensorSpec]) -> dict[str, np.ndarray]:
    """Seeded inputs: standard normal for floats, 0 or 1 for integers."""
    if not specs:
        raise InvalidInput(
            "The model does not say what it takes, so no sample can be drawn.",
            hint="Give sample inputs: --sample FILE (.npy or .safetensors).",
            param="sample",
        )
    rng = np.random.default_rng(SEED)
    sample = {}
    for spec in specs:
        if not spec.shape or any(size < 0 for size in spec.shape[1:]):
            raise InvalidInput(
                f"Input {spec.name!r} has the open shape {list(spec.shape)}, so no sample can be "
                "drawn.",
                hint="Give sample inputs: --sample FILE (.npy or .safetensors).",
                param="sample",
            )
        shape = (SAMPLE_SIZE if spec.shape[0] < 0 else spec.shape[0], *spec.shape[1:])
        is_float = np.dtype(spec.dtype).kind == "f"
        drawn = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
        sample[spec.name] = drawn.astype(spec.dtype)
    return sample


def read_sample(path: Path) -> Any:
    """Sample inputs: a `.npy` array, or a `.safetensors` file of arrays by input name."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"The sample {path.name} cannot be read: {error}.") from None
    raise InvalidInput(f"The sample {path.name} must be .npy or .safetensors.", param="sample")
