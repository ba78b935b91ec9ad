"""Handwritten digits with each training technique on and off, in all three frameworks.

    python recipes/digits.py [--quick] [--home DIR]

A 784-128-10 network learns 300 of scikit-learn's digits, enlarged to 28 x 28 and laid down a little
askew as on a scanner, in PyTorch, Keras and TensorFlow: as it is, then with one technique more at a
time. Every model is registered, served, and
asked for digits that no run saw; one table shows what each technique did to accuracy, to the size
of what is served, to the latency of one call over HTTP and to the time of the job. Exit code 0 only
when each did what it is for. Needs `lmaas[train,keras,tensorflow]`.
"""

import io
import statistics
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from lmaas.client import Client
from proof import check, main, say, train

SIDE: Final = 28
FRAMEWORKS: Final = ("pytorch", "keras", "tensorflow")
LEARNED, HELD = 300, 400
EPOCHS: Final = 40
AS_IT_IS: Final = "as it is"
TECHNIQUES: Final[dict[str, dict[str, Any]]] = {
    AS_IT_IS: {},
    "data augmentation": {
        "augmentation": [
            {"name": "rotate", "options": {"degrees": 12}},
            {"name": "crop", "options": {"padding": 3}},
        ]
    },
    "learning-rate decay": {"schedule": {"name": "cosine", "warmup": 0.05}},
    "weight pruning": {
        "pruning": {"method": "structured", "sparsity": 0.5, "end": 0.6, "updates": 4}
    },
    "early stopping": {"early_stopping": {"metric": "loss", "patience": 4}},
    "two workers": {"distribution": {"workers": 2}},
}
LOST: Final = 0.04
"""So much accuracy may a technique cost whose purpose is another."""


class Row(NamedTuple):
    """A line of the table: what the served model is worth and what it took."""

    accuracy: float
    valid_loss: float
    size_bytes: int
    latency_ms: float
    took_s: float
    steps: int


def digits() -> list[tuple[str, bytes]]:
    """Labels and PNG files, in a drawn order."""
    data, random = load_digits(), np.random.default_rng(3)
    found = []
    for index in random.permutation(len(data.target))[: LEARNED + HELD]:
        file = io.BytesIO()
        small = Image.fromarray((data.images[index] * 15.9).astype(np.uint8))
        image = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        moved = image.rotate(
            random.uniform(-15, 15),
            Image.Resampling.BILINEAR,
            translate=tuple(random.integers(-3, 4, 2).tolist()),
        )
        moved.save(file, "PNG")
        found.append((str(data.target[index]), file.getvalue()))
    return found


def write(path: Path, rows: list[tuple[str, bytes]]) -> None:
    """A zip with a folder for each label."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (label, content) in enumerate(rows):
            archive.writestr(f"{label}/{number}.png", content)


def measure(
    client: Client, folder: Path, held: list[tuple[str, bytes]], framework: str, technique: str
) -> Row:
    """Train, call for each held-out digit, and tell."""
    name = f"{framework}-{technique.replace(' ', '-')}"
    began = time.perf_counter()
    job = train(
        client,
        name=name,
        task="image-classification",
        framework=framework,
        model={"architecture": "mlp", "options": {"hidden": [128]}},
        data={"train": str(folder / "learned.zip"), "validation": 0.2},
        epochs=EPOCHS,
        batch_size=16,
        optimizer={"name": "adamw", "learning_rate": 0.002},
        **{"early_stopping": None, **TECHNIQUES[technique]},
    )
    took = time.perf_counter() - began
    right, times = 0, []
    for label, content in held:
        began = time.perf_counter()
        best = client.predict(name, content)[0]
        times.append(time.perf_counter() - began)
        right += best.label == label
    version = client.model(name)
    return Row(
        accuracy=right / len(held),
        valid_loss=version.manifest.metrics["valid_loss"],
        size_bytes=sum(file.size_bytes for file in version.files if file.role == "compiled"),
        latency_ms=1000 * statistics.median(times[len(times) // 4 :]),
        took_s=took,
        steps=int(job.progress["step"]),
    )


def judge(framework: str, rows: dict[str, Row]) -> int:
    """Whether each technique did what it is for."""
    plain = rows[AS_IT_IS]
    gained = rows["data augmentation"].accuracy - plain.accuracy
    pruned, stopped = rows["weight pruning"], rows["early stopping"]
    wrong = check(f"{framework}: augmentation gains accuracy ({gained:+.3f})", gained > 0)
    wrong += check(
        f"{framework}: the pruned model is half as large and loses at most {LOST:.0%}",
        pruned.size_bytes < 0.6 * plain.size_bytes and pruned.accuracy >= plain.accuracy - LOST,
    )
    wrong += check(
        f"{framework}: early stopping saves steps ({stopped.steps} of {plain.steps}) and keeps the "
        f"least loss on the samples it watched ({stopped.valid_loss - plain.valid_loss:+.3f})",
        stopped.steps < plain.steps and stopped.valid_loss < plain.valid_loss,
    )
    for technique in ("learning-rate decay", "two workers"):
        lost = plain.accuracy - rows[technique].accuracy
        wrong += check(f"{framework}: with {technique} as right ({-lost:+.3f})", lost <= LOST)
    return wrong


def prove(client: Client, folder: Path, quick: bool) -> int:
    """The table, and what must hold of it."""
    rows = digits()
    write(folder / "learned.zip", rows[:LEARNED])
    held, wrong = rows[LEARNED:], 0
    say(f"{LEARNED} digits to learn from, {HELD} that no run saw; 784-128-10")
    say(
        f"  {'framework':10} {'technique':20} accuracy  watched loss  size, KiB  a call, ms  "
        "job, s  steps"
    )
    for framework in FRAMEWORKS[: 1 if quick else None]:
        found = {}
        for technique in TECHNIQUES:
            found[technique] = row = measure(client, folder, held, framework, technique)
            say(
                f"  {framework:10} {technique:20} {row.accuracy:8.3f}  {row.valid_loss:12.3f}"
                f"  {row.size_bytes / 1024:9.0f}"
                f"  {row.latency_ms:10.2f}  {row.took_s:6.1f}  {row.steps:5}"
            )
        wrong += judge(framework, found)
    return wrong


if __name__ == "__main__":
    sys.exit(main(__doc__, prove))
