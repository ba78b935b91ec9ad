"""`lmaas.publish`: a model from a notebook or script, straight into a home or onto a server."""

import asyncio
import base64
import os
import sys
import tempfile
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

import msgspec

from lmaas.client import Client
from lmaas.client.calls import build_package
from lmaas.config import Settings, load_settings
from lmaas.errors import InvalidInput
from lmaas.registry.names import check_name
from lmaas.service import Service
from lmaas.telling import lines_of
from lmaas.types import TENANT, ModelVersion, PublishOptions, PushOptions


def publish(
    model: Any,
    *,
    name: str,
    task: str,
    sample: Any = None,
    home: str | Path | None = None,
    url: str | None = None,
    key: str | None = None,
    **options: Unpack[PublishOptions],
) -> ModelVersion:
    """Compile, check and register a model.

    `model` is an `nn.Module`, a `keras.Model` or a `tf.Module`, exported in this process; or the
    path of a `.keras`, `.onnx` or `.gguf` file, a SavedModel folder, the folder of a Hugging Face
    checkpoint or a package, imported in a child without network. `sample` is what the model is
    called with: an array (batch axis first), a tuple of them, or a mapping by input name; a file
    that says its inputs' shapes needs none.

    It goes to the server at `url` (or LMAAS_URL) with `key` (or LMAAS_KEY), else into `home` (or
    LMAAS_HOME), where a running server serves it at once. Raises ParityFailed when the compiled
    model does not give the model's own outputs, InvalidInput and ModelRefused for what is wrong
    with the model.
    """
    check_name(name)
    settings = load_settings({"home": home and str(home), "url": url, "key": key})
    remote = settings.url is not None and (url is not None or home is None)
    with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
        if isinstance(model, str | os.PathLike):
            path = Path(model)
            given: PushOptions | None = _push_options(name, task, sample, options, Path(scratch))
        else:
            path, given = Path(scratch) / "package", None
            build_package(model, name, task, sample, path, options, settings.home_path / "logs")
        if remote:
            with Client(str(settings.url), settings.key) as client:
                version = client.push(path, given)
        else:
            version = _push_here(settings, path, given)
    sys.stderr.write("".join(f"{line}\n" for line in lines_of(version)))
    return version


def _push_here(settings: Settings, path: Path, options: PushOptions | None) -> ModelVersion:
    # A thread of its own: in a notebook this thread already runs an event loop.
    with closing(Service(settings)) as service, ThreadPoolExecutor(1) as thread:
        work: Coroutine[Any, Any, ModelVersion] = service.catalog.push(TENANT, path, options)
        return thread.submit(asyncio.run, work).result()


def _push_options(
    name: str, task: str, sample: Any, options: PublishOptions, folder: Path
) -> PushOptions:
    for option in ("metrics", "lineage", "second_sample"):
        if options.get(option) is not None:
            raise InvalidInput(f"A file takes no {option}: publish the live model.", param=option)
    labels = options.get("labels")
    return PushOptions(
        name=name,
        task=task,
        labels=None if labels is None else tuple(map(str, labels)),
        image=options.get("image"),
        detection=options.get("detection"),
        face=options.get("face"),
        reading=options.get("reading"),
        outputs_are=options.get("outputs_are"),
        card=options.get("card", ""),
        dynamic=_plain(options.get("dynamic")),
        sample=None if sample is None else _write_sample(sample, folder),
    )


def _plain(
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> dict[str, dict[int, str]] | None:
    return None if dynamic is None else {name: dict(axes) for name, axes in dynamic.items()}


def _write_sample(sample: Any, folder: Path) -> str:
    import numpy as np

    if isinstance(sample, str | os.PathLike):
        return str(Path(sample).absolute())
    values = list(sample.values()) if isinstance(sample, dict) else [sample]
    if any(np.asarray(value).dtype.kind in "OSU" for value in values):
        path = folder / "sample.json"
        path.write_bytes(msgspec.json.encode(sample, enc_hook=_listed))
        return str(path)
    if isinstance(sample, dict):
        from safetensors.numpy import save_file

        path = folder / "sample.safetensors"
        save_file({str(n): np.ascontiguousarray(v) for n, v in sample.items()}, path)
        return str(path)
    path = folder / "sample.npy"
    np.save(path, np.asarray(sample), allow_pickle=False)
    return str(path)


def _listed(value: Any) -> Any:
    """Arrays and bytes for JSON, as samples have them."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist()
