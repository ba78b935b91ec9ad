"""The main job: three frameworks, one digit classifier each, trained, served and called.

Each is the 784-128-10 network of a first lesson, written in its framework, on scikit-learn's
handwritten digits scaled to 28 x 28. A job of the server trains it, as `lmaas train` does. Every
held-out digit goes through HTTP as a PNG, and the answers must be the trained network's own.
"""

import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
from PIL import Image

from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import MissingExtra, Unavailable
from lmaas.http.server import bind
from lmaas.own_server import wait_for_url
from lmaas.recipe import DataChoice, ModelChoice, Recipe, TrainingFramework
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import ModelVersion

SEED = 7
EPOCHS = 12
SIDE = 28
MODULES: Final[dict[TrainingFramework, str]] = {
    "pytorch": "torch",
    "keras": "keras",
    "tensorflow": "tensorflow",
}
"""What each framework is installed as."""


class Data(msgspec.Struct):
    """Digits as 28 x 28 grey pixels (N, 28, 28) uint8 and labels (N,), split."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


class Result(msgspec.Struct, kw_only=True):
    """What was measured of one model."""

    name: str
    framework: str
    parameters: int
    accuracy: float
    served_accuracy: float
    answers_equal: bool
    parity_max_abs_error: float
    precision: str
    size_bytes: int
    p50_ms: float


def load_digits() -> Data:
    """scikit-learn's 1,797 digits, a fifth held out, the same split every time."""
    try:
        from sklearn.datasets import load_digits as bundled
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise _missing("scikit-learn", "demo") from None
    data = bundled()
    small = (data.images * (255 / 16)).astype(np.uint8)
    scaled = (Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for p in small)
    pixels = np.stack([np.asarray(image) for image in scaled])
    parts = train_test_split(
        pixels, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )
    return Data(parts[0], parts[2], parts[1], parts[3])


def write_data(folder: Path, data: Data) -> None:
    """`train.parquet` and `test.parquet`: PNG files and their labels, in the order of `data`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for split, pixels, labels in (
        ("train", data.train_x, data.train_y),
        ("test", data.test_x, data.test_y),
    ):
        columns = {"image": [_png(digit) for digit in pixels], "label": [str(y) for y in labels]}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def recipe_for(framework: TrainingFramework, folder: Path) -> Recipe:
    """How the network is trained in `framework`, on the data that `write_data` put into `folder`.

    Raises MissingExtra where the framework is not installed.
    """
    module = MODULES[framework]
    if find_spec(module) is None:
        raise _missing(module, framework)
    return Recipe(
        name=f"digits-{framework}",
        task="image-classification",
        framework=framework,
        model=ModelChoice(architecture="mlp", options={"hidden": [128]}),
        data=DataChoice(
            train=str(folder / "train.parquet"), test=str(folder / "test.parquet"), validation=0.1
        ),
        epochs=EPOCHS,
        batch_size=32,
        seed=SEED,
    )


def own_labels(service: Service, recipe: Recipe, version: ModelVersion) -> np.ndarray:
    """The trained network's own labels of the test digits, asked in its framework, not served."""
    from lmaas import frameworks
    from lmaas.training import problems

    framework, labels = recipe.framework, version.manifest.signature.labels
    assert framework != "auto"
    assert labels is not None
    model = msgspec.structs.replace(recipe.model, base=version.ref)
    recipe = msgspec.structs.replace(recipe, model=model)
    with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
        base = service.registry.unpack_package(version, Path(scratch) / "base")
        problem = problems.open(recipe, Path(scratch) / "run", base)
        rows = np.arange(problem.size("test"))
        feed = problem.feed("test", rows, epoch=None)
        (outputs,) = frameworks.get(framework).run(problem.build(framework), feed.inputs).values()
    return np.array([int(labels[best]) for best in outputs.argmax(axis=1)])


async def classify(url: str, key: str, name: str, digits: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels of all digits through HTTP, eight at a time, and one call's median in ms."""
    files = [_png(pixels) for pixels in digits]
    headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        slots = asyncio.Semaphore(8)

        async def ask(content: bytes) -> int:
            async with slots:
                response = await client.post(f"/models/{name}", content=content)
            response.raise_for_status()
            return int(response.json()[0]["label"])

        labels = np.array(await asyncio.gather(*map(ask, files)))
        times = []
        for content in files[:50]:
            start = time.perf_counter()
            await ask(content)
            times.append(time.perf_counter() - start)
    return labels, float(np.median(times)) * 1e3


def measure(url: str, key: str, data: Data, version: ModelVersion, own: np.ndarray) -> Result:
    """Call the served model with every held-out digit; `own` are the trained network's labels."""
    served, p50_ms = asyncio.run(classify(url, key, version.name, data.test_x))
    with Client(url, key) as client:
        (precision,) = {
            w.precision for w in client.ps() if w.model == version.ref and w.precision is not None
        }
    return Result(
        name=version.name,
        framework=version.manifest.framework,
        parameters=version.manifest.num_parameters,
        accuracy=version.manifest.metrics["test_accuracy"],
        served_accuracy=float(np.mean(served == data.test_y)),
        answers_equal=bool(np.array_equal(served, own)),
        parity_max_abs_error=version.parity.max_abs_error(precision),
        precision=precision,
        size_bytes=version.compiled_bytes,
        p50_ms=p50_ms,
    )


def write_digit(settings: Settings, data: Data) -> Path:
    """A held-out digit as a file in the home, for the snippets."""
    path = settings.home_path / "digit.png"
    Image.fromarray(data.test_x[0]).save(path)
    return path


def check_port(settings: Settings) -> None:
    """Raises AlreadyRunning when the server that will be needed could not listen."""
    if HomeLock.read(settings.home_path) is None:
        bind(settings).close()


def ensure_server(settings: Settings) -> tuple[str, subprocess.Popen[bytes] | None]:
    """The URL of this home's live server, started if there is none (then with its process)."""
    live = HomeLock.read(settings.home_path)
    if live and "url" in live:
        return str(live["url"]), None
    port = str(settings.port)
    argv = [sys.executable, "-m", "lmaas", "serve", "--host", settings.host, "--port", port]
    environment = {**os.environ, "LMAAS_HOME": str(settings.home_path)}
    # Its own process group: Ctrl-C reaches only us, and one signal of ours starts the drain.
    with _log(settings).open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stderr=log, stdout=log, process_group=0)
    try:
        return wait_for_url(process, settings.home_path, _log(settings)), process
    except BaseException:
        stop(process)
        raise


def wait(process: subprocess.Popen[bytes], settings: Settings) -> None:
    """Return at Ctrl-C. Raises Unavailable when the server ends by itself."""
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    if code:
        raise Unavailable(f"The server ended with code {code}: {_end_of(_log(settings))}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server drain and end; Ctrl-C meanwhile ends it at once."""
    while process.poll() is None:
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:
            continue


def snippets(settings: Settings, url: str, key: str, digit: Path) -> str:
    """Calls and publications to paste; each runs as it stands."""
    elsewhere = settings.home_path != Settings().home_path
    home = f", home={str(settings.home_path)!r}" if elsewhere else ""
    template = (Path(__file__).parent / "demo_snippets.txt").read_text("utf-8")
    for name, value in (("URL", url), ("KEY", key), ("DIGIT", str(digit)), ("HOME", home)):
        template = template.replace(f"<{name}>", value)
    return template.rstrip()


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _log(settings: Settings) -> Path:
    return settings.home_path / "server.log"


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:].strip()


def _missing(package: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"The demo needs {package}, which is not installed.",
        hint=f"pip install 'lmaas[{extra}]'",
    )
