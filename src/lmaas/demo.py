"""The main job: three frameworks, one digit classifier each, trained, published, served, called.

Each is the 784-128-10 network of a first lesson, on scikit-learn's handwritten digits scaled to
28 x 28. Every held-out digit goes through HTTP as a PNG, and the answers must be the source
model's own.
"""

import asyncio
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from PIL import Image

from lmaas import frameworks
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import MissingExtra, Unavailable
from lmaas.http.server import bind
from lmaas.own_server import wait_for_url
from lmaas.publishing import publish
from lmaas.registry.lock import HomeLock
from lmaas.types import FrameworkName, ImageSpec, Lineage, ModelVersion

SEED = 7
EPOCHS = 12
IMAGE = ImageSpec(height=28, width=28, channels=1, layout="flat")


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
    size = (IMAGE.width, IMAGE.height)
    pixels = np.stack(
        [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR)) for p in small]
    )
    parts = train_test_split(
        pixels, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )
    return Data(parts[0], parts[2], parts[1], parts[3])


def to_inputs(pixels: np.ndarray) -> np.ndarray:
    """(N, 28, 28) uint8 to the models' (N, 784) float32 in 0-1, as the served task does it."""
    from lmaas.codecs.image import from_pixels

    return np.stack([from_pixels(p[:, :, None], IMAGE, "float32") for p in pixels])


def make_pytorch() -> Any:
    """The network in PyTorch."""
    import torch

    torch.manual_seed(SEED)
    return torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def make_keras() -> Any:
    """The network in Keras."""
    import keras

    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((784,), name="pixels"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def make_tensorflow() -> Any:
    """The network in plain TensorFlow."""
    import tensorflow as tf

    rng = np.random.default_rng(SEED)

    class Digits(tf.Module):  # type: ignore[misc]
        """784-128-10 with ReLU; logits."""

        def __init__(self) -> None:
            super().__init__()
            first, second = (rng.standard_normal(s) * (2 / s[0]) ** 0.5 for s in SHAPES)
            self.w1 = tf.Variable(first.astype(np.float32))
            self.b1 = tf.Variable(tf.zeros(128))
            self.w2 = tf.Variable(second.astype(np.float32))
            self.b2 = tf.Variable(tf.zeros(10))

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def __call__(self, pixels: Any) -> Any:
            """Logits of (N, 784) pixels."""
            hidden = tf.nn.relu(pixels @ self.w1 + self.b1)
            return hidden @ self.w2 + self.b2

    return Digits()


SHAPES = ((784, 128), (128, 10))
MAKERS: dict[FrameworkName, tuple[str, Callable[[], Any]]] = {
    "pytorch": ("torch", make_pytorch),
    "keras": ("keras", make_keras),
    "tensorflow": ("tensorflow", make_tensorflow),
}


def train_and_publish(
    settings: Settings, data: Data, name: FrameworkName
) -> tuple[ModelVersion, np.ndarray]:
    """Train one framework's network and publish it; also its own labels of the test digits."""
    module, make = MAKERS[name]
    try:
        model = make()
    except ImportError:
        raise _missing(module, name) from None
    framework = frameworks.get(name)
    train_x, test_x = to_inputs(data.train_x), to_inputs(data.test_x)
    framework.fit(
        model, train_x, data.train_y, epochs=EPOCHS, batch_size=32, learning_rate=1e-3, seed=SEED
    )
    inputs = dict(zip(framework.name_inputs(model, [test_x]), [test_x], strict=True))
    (outputs,) = framework.run(model, inputs).values()
    own = outputs.argmax(axis=1)
    version = publish(
        model,
        name=f"digits-{name}",
        task="image-classification",
        labels=[str(digit) for digit in range(10)],
        sample=train_x[:64],
        image=IMAGE,
        metrics={"accuracy": float(np.mean(own == data.test_y))},
        lineage=Lineage(origin="demo"),
        home=settings.home_path,
    )
    return version, own


async def classify(url: str, key: str, name: str, digits: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels of all digits through HTTP, eight at a time, and one call's median in ms."""
    files = []
    for pixels in digits:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
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
    """Call the served model with every held-out digit and compare with the source's answers."""
    served, p50_ms = asyncio.run(classify(url, key, version.name, data.test_x))
    with Client(url, key) as client:
        (precision,) = {
            w.precision for w in client.ps() if w.model == version.ref and w.precision is not None
        }
    return Result(
        name=version.name,
        framework=version.manifest.framework,
        parameters=version.manifest.num_parameters,
        accuracy=version.manifest.metrics["accuracy"],
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


def _log(settings: Settings) -> Path:
    return settings.home_path / "server.log"


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:].strip()


def _missing(package: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"The demo needs {package}, which is not installed.",
        hint=f"pip install 'lmaas[{extra}]'",
    )
