"""Child entry: from a model file or folder to a package. Run by `placement.sandbox` only."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas import frameworks
from lmaas.codecs import strings
from lmaas.errors import InvalidInput, MissingExtra
from lmaas.frameworks import (
    adapter,
    checkpoint,
    ctranslate2,
    face_api,
    gguf,
    package,
    paddleocr,
    refuse,
    tensorflow,
)
from lmaas.frameworks.base import Framework
from lmaas.frameworks.onnx import OnnxModel
from lmaas.tasks.images import ANCHORS_FILE
from lmaas.types import Anchor, Lineage, Manifest, PushOptions, Record, TensorSpec

SAMPLE_SIZE = 4
OPEN_SIZES = (16, 64, 224, 5)
"""Sizes of open axes at which a sample is drawn, in this order."""
SEED = 0
HOW_TO_GIVE = "Give sample inputs: --sample FILE (.npy, .safetensors or .json)."


class ImportRequest(Record, frozen=True, kw_only=True):
    """The model at `path` becomes a package in `folder`.

    `base` is the checkpoint that an adapter was made for.
    """

    path: str
    folder: str
    options: PushOptions
    base: str | None = None


def run(body: bytes) -> bytes:
    """Import one model. Raises ModelRefused, InvalidInput."""
    request = msgspec.json.decode(body, type=ImportRequest)
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
    if ctranslate2.is_folder(Path(request.path)):
        plain = Path(request.folder).with_name("plain")
        told = ctranslate2.make_checkpoint(Path(request.path), plain)
        request = msgspec.structs.replace(request, path=str(plain))
        return msgspec.json.encode(_import_checkpoint(request, told))
    if face_api.is_folder(Path(request.path)):
        made = face_api.build(Path(request.path), options, Path(request.folder))
        return msgspec.json.encode(made)
    if checkpoint.is_checkpoint(Path(request.path)):
        return msgspec.json.encode(_import_checkpoint(request))
    name, path = refuse.of_path(Path(request.path))
    if options.task is None:
        raise InvalidInput(f"{path.name} does not say its task.", param="task")
    task = options.task
    framework = frameworks.get(name)
    try:
        _choose_backend()
        model = framework.load(path)
        if name == "tensorflow":
            model = tensorflow.select(model, options.signature)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{path.name} needs {error.name}, which is not installed here.",
            hint=f"pip install 'lmaas[{name}]', or publish from a machine that has it.",
        ) from None
    left: paddleocr.Left = paddleocr.Left()
    if isinstance(model, OnnxModel):
        options, left = paddleocr.completed(model, framework.inputs(model), options)
    if options.sample is not None:
        sample: Any = read_sample(Path(options.sample))
    elif left.shape:
        sample = {framework.inputs(model)[0].name: draw(left.shape)}
    else:
        sample = find_sample(framework, model)
    detection = options.detection
    if options.anchors is not None:
        if detection is None or detection.head != "anchors":
            raise InvalidInput(
                "anchors belong to the head anchors.",
                hint='Give --detection \'{"head": "anchors"}\' beside them.',
                param="anchors",
            )
        detection = msgspec.structs.replace(detection, anchors=len(options.anchors))
    manifest = package.build(
        model,
        name=options.name,
        task=task,
        sample=sample,
        folder=Path(request.folder),
        labels=options.labels,
        image=options.image,
        outputs_are=options.outputs_are,
        detection=detection,
        face=options.face,
        reading=options.reading,
        dynamic=options.dynamic,
        bounds=left.bounds,
        card=options.card,
        lineage=Lineage(origin="push"),
        framework=framework,
        source=path,
    )
    if options.anchors is not None:
        _save_anchors(options.anchors, package.served_in(Path(request.folder), manifest))
    return msgspec.json.encode(manifest)


def _save_anchors(anchors: tuple[Anchor, ...], folder: Path) -> None:
    """What the served model's task reads beside it."""
    from safetensors.numpy import save_file

    array = np.asarray(anchors, np.float32).reshape(-1, 4)
    save_file({"anchors": array}, folder / ANCHORS_FILE)


def _import_adapter(request: ImportRequest, base: Path) -> Manifest:
    merged = Path(request.folder).with_name("merged")
    adapter.merge(Path(request.path), base, merged)
    return _import_checkpoint(msgspec.structs.replace(request, path=str(merged)))


def _import_checkpoint(request: ImportRequest, weights: str | None = None) -> Manifest:
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


def find_sample(framework: Framework, model: Any) -> dict[str, np.ndarray]:
    """Drawn inputs on which the model runs, where it says what it takes.

    Open axes are tried at a few sizes. Raises InvalidInput where none will do.
    """
    specs = framework.inputs(model)
    if not specs:
        raise InvalidInput(
            "The model does not say what it takes, so no sample can be drawn.",
            hint=HOW_TO_GIVE,
            param="sample",
        )
    last: Exception | None = None
    for size in OPEN_SIZES if any(-1 in spec.shape[1:] for spec in specs) else OPEN_SIZES[:1]:
        sample = draw_sample(specs, size)
        try:
            framework.run(model, sample)
        except Exception as error:  # noqa: BLE001 - whatever it raises: not at this size
            last = error
            continue
        return sample
    told = " ".join(str(last).split())[:300]
    raise InvalidInput(
        f"The model does not run on inputs drawn for {[list(spec.shape) for spec in specs]}: "
        f"{told}",
        hint=HOW_TO_GIVE,
        param="sample",
    )


def draw(shape: tuple[int, ...]) -> np.ndarray:
    """A seeded input of standard normal numbers."""
    return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)


def draw_sample(specs: list[TensorSpec], size: int) -> dict[str, np.ndarray]:
    """Seeded inputs: standard normal for floats, 0 or 1 for integers, words for texts.

    Open axes beside the batch get `size` elements.
    """
    rng = np.random.default_rng(SEED)
    sample = {}
    for spec in specs:
        shape = tuple(
            (size if axis else SAMPLE_SIZE) if length < 0 else length
            for axis, length in enumerate(spec.shape)
        )
        if spec.dtype == strings.DTYPE:
            words = rng.choice(["a", "the", "good", "bad", "1", "x y"], shape)
            sample[spec.name] = strings.from_objects(words, name=spec.name)
            continue
        is_float = np.dtype(spec.dtype).kind == "f"
        drawn = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
        sample[spec.name] = np.asarray(drawn).astype(spec.dtype)
    return sample


def read_sample(path: Path) -> Any:
    """Sample inputs: a `.npy` array, or a `.safetensors` or `.json` file of arrays by input name.

    JSON may hold one array alone, and bytes as `{"b64": …}`.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".json":
            return _from_json(msgspec.json.decode(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"The sample {path.name} cannot be read: {error}.") from None
    raise InvalidInput(
        f"The sample {path.name} must be .npy, .safetensors or .json.", param="sample"
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and "b64" not in value:
        return {name: _from_json(each) for name, each in value.items()}
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return strings.from_objects(value, name="The sample")
    return array
