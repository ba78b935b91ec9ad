"""What pruning does to a trained classifier: accuracy, parameters, file, and latency when served.

`make bench BENCH=pruning` trains each network as it is and pruned, by the same recipe but for the
pruning, on scikit-learn's handwritten digits, and rewrites results/pruning.json and .md. The
compiled models are then timed in one process, in turns.
"""

import argparse
import io
import os
import platform
import tempfile
import time
import zipfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.predictive import RESULTS, processor
from lmaas.job import RESULT_FOLDER
from lmaas.recipe import recipe_of
from lmaas.training.run import run
from lmaas.types import Manifest

SIDE: Final = 32
"""Digits are 8 x 8; as large as small photographs, convolutions are what costs."""
NETWORKS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "mlp": ({"hidden": [1024, 1024]}, 10),
    "cnn": ({"channels": [64, 128, 256]}, 20),
    "resnet18": ({"width": 32}, 6),
}
"""Sizes, and for how many epochs they are trained."""
SIDES: Final[dict[str, dict[str, Any] | None]] = {
    "as it is": None,
    "magnitude 50 %": {"method": "magnitude", "sparsity": 0.5},
    "structured 50 %": {"method": "structured", "sparsity": 0.5, "end": 0.6, "updates": 4},
    "structured 75 %": {"method": "structured", "sparsity": 0.75, "end": 0.6, "updates": 4},
}
BATCHES: Final = (1, 64)


class Row(msgspec.Struct, kw_only=True):
    """One trained network. `latency_ms` by batch size: the median of each round."""

    network: str
    side: str
    accuracy: float
    parameters: int
    compiled_bytes: int
    training_s: float
    latency_ms: dict[int, list[float]]


class Report(msgspec.Struct, kw_only=True):
    """All networks of one run on one machine."""

    date: str
    command: str
    machine: dict[str, Any]
    rows: list[Row]


def digits(path: Path) -> Path:
    """A zip of PNG files in folders, one a class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    with zipfile.ZipFile(path, "w") as archive:
        for number, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
            file = io.BytesIO()
            Image.fromarray((pixels * 15.9).astype(np.uint8)).save(file, "PNG")
            archive.writestr(f"{label}/{number}.png", file.getvalue())
    return path


def train(data: Path, folder: Path, network: str, pruning: dict[str, Any] | None) -> float:
    """Train into `folder`; the seconds that it took."""
    options, epochs = NETWORKS[network]
    choice = {"train": str(data), "validation": 0.2}
    recipe = recipe_of(
        {
            "name": "digits",
            "task": "image-classification",
            "framework": "pytorch",
            "data": choice | {"options": {"height": SIDE, "width": SIDE}},
            "model": {"architecture": network, "options": options},
            "epochs": epochs,
            "batch_size": 32,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"name": "cosine", "warmup": 0.05},
            "pruning": pruning,
            "early_stopping": None,
        }
    )
    folder.mkdir()
    started = time.monotonic()
    assert run(recipe, folder, None, lambda _: None)
    return time.monotonic() - started


def latencies(folders: dict[str, Path], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Milliseconds a batch of each compiled model, in turns: a median of 30 in each round."""
    from lmaas.runtime import ov

    core = ov.load().Core()
    models = {
        side: core.compile_model(
            folder / RESULT_FOLDER / "compiled" / "model.xml", "CPU",
            {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
        )
        for side, folder in folders.items()
    }  # fmt: skip
    told: dict[str, dict[int, list[float]]] = {side: {b: [] for b in BATCHES} for side in folders}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for batch in BATCHES:
            pixels = random.standard_normal((batch, 1, SIDE, SIDE)).astype(np.float32)
            for side, model in models.items():
                request, times = model.create_infer_request(), []
                for _ in range(35):
                    started = time.perf_counter()
                    request.infer([pixels])
                    times.append(time.perf_counter() - started)
                told[side][batch].append(1000 * float(np.median(times[5:])))
    return told


def measure(network: str, data: Path, folder: Path, rounds: int) -> list[Row]:
    """A network on all sides."""
    folders = {side: folder / f"{network}-{index}" for index, side in enumerate(SIDES)}
    seconds = {side: train(data, folders[side], network, SIDES[side]) for side in SIDES}
    told = latencies(folders, rounds)
    rows = []
    for side, place in folders.items():
        result = place / RESULT_FOLDER
        manifest = msgspec.json.decode((result / "manifest.json").read_bytes(), type=Manifest)
        rows.append(
            Row(
                network=network,
                side=side,
                accuracy=manifest.metrics["valid_accuracy"],
                parameters=manifest.num_parameters,
                compiled_bytes=(result / "compiled" / "model.bin").stat().st_size,
                training_s=seconds[side],
                latency_ms=told[side],
            )
        )
    return rows


def render(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        "# Pruning",
        "",
        f"{report.date}, `{report.command}`. "
        + ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + f". Digits at {SIDE} x {SIDE}, PyTorch, a fifth held out for the accuracy; latencies of "
        "the compiled f32 models in turns, medians over the rounds; ratios to the network as it "
        "is.",
        "",
        "| network | side | accuracy | parameters | file, kB | 1 image, ms | 64 images, ms "
        "| training, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    whole = {row.network: row for row in report.rows if SIDES[row.side] is None}
    for row in report.rows:
        times = []
        for batch in BATCHES:
            mine, its = (np.median(r.latency_ms[batch]) for r in (row, whole[row.network]))
            times.append(f"{mine:.3f} ({mine / its:.2f}×)")
        lines.append(
            f"| {row.network} | {row.side} | {row.accuracy:.3f} | {row.parameters:,} "
            f"| {row.compiled_bytes / 1000:,.0f} | {' | '.join(times)} | {row.training_s:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first network only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=RESULTS / "pruning.json")
    given = parser.parse_args()
    names = given.network or (list(NETWORKS)[:1] if given.quick else list(NETWORKS))
    with tempfile.TemporaryDirectory() as folder:
        data = digits(Path(folder) / "digits.zip")
        rows = [row for name in names for row in measure(name, data, Path(folder), given.rounds)]
    report = Report(
        date=date.today().isoformat(),
        command=f"make bench BENCH=pruning{' QUICK=1' if given.quick else ''}",
        machine={
            "processor": processor(),
            "cores": os.cpu_count(),
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "openvino")},
        },
        rows=rows,
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
