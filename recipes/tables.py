"""What the recipes of tables share: trees and a network, trained, served and checked side by side.

Each recipe gives a `Table`; `main` writes it as two CSV files, has one server train both models
from the first, asks them for every row of the second through HTTP, and compares three things: a
trivial guess, what the job measured of the trained model, and what the served answers are worth.
The metrics are scikit-learn's.
"""

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

import proof
from lmaas.client import Client
from proof import check, say, train

Row = dict[str, Any]
SAME = 1e-4
"""So close are metrics of served answers to those of the trained model."""
MODELS: dict[str, Row] = {
    "trees": {
        "model": {"architecture": "boosted-trees", "options": {"leaves": 15}},
        "epochs": 400,
        "optimizer": {"learning_rate": 0.05},
        "early_stopping": {"patience": 30},
    },
    "network": {
        "model": {"architecture": "mlp", "options": {"hidden": [64, 32]}},
        "epochs": 40,
        "optimizer": {"learning_rate": 0.003, "weight_decay": 0.01},
        "early_stopping": {"patience": 6},
    },
}
QUICK: dict[str, Row] = {"trees": {"epochs": 60}, "network": {"epochs": 12}}


class Table(NamedTuple):
    """Rows with a `target`; a quarter of them is held out.

    `metric` tells the models from the trivial guess, and `better` by how much at least: "auc" and
    "accuracy" must be higher by that, "rmse" lower by that share.
    """

    name: str
    rows: list[Row]
    target: str
    metric: str
    better: float


def main(doc: str | None, draw: Callable[[int], Table], sizes: tuple[int, int]) -> int:
    """Draw a table of one of two `sizes` (quick, whole), train, serve, check; the exit code."""

    def prove(client: Client, folder: Path, quick: bool) -> int:
        table = draw(sizes[0] if quick else sizes[1])
        learned, held = split(table.rows)
        for name, rows in (("learned", learned), ("held", held)):
            write(folder / f"{name}.csv", rows)
        return compare(client, table, folder, learned, held, quick=quick)

    return proof.main(doc, prove)


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to learn from, and a quarter that no run sees before its end."""
    order = np.random.default_rng(1).permutation(len(rows)).tolist()
    held = set(order[: len(rows) // 4])
    return [r for i, r in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV; None is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def compare(
    client: Client, table: Table, folder: Path, learned: list[Row], held: list[Row], *, quick: bool
) -> int:
    """Print a line for the trivial guess and each model; how many checks failed."""
    trivial = guess(table, learned, held)
    say(f"{table.name}: {len(learned)} rows to learn from, {len(held)} held out")
    line("trivial guess", trivial, "")
    wrong = 0
    for kind, options in MODELS.items():
        name, started = f"{table.name}-{kind}", time.perf_counter()
        measured = learn(client, name, table, folder, options | (QUICK[kind] if quick else {}))
        took = time.perf_counter() - started
        size = sum(f.size_bytes for f in client.model(name).files if f.role == "compiled")
        found = asked(client, name, table, held)
        line(kind, found, f"{took:5.1f} s to train, {size / 1024:6.0f} KiB")
        before, now = trivial[table.metric], found[table.metric]
        gain = (before - now) / before if table.metric == "rmse" else now - before
        wrong += check(f"{kind} beat the trivial {table.metric}", gain >= table.better)
        apart = {m: abs(measured[m] - value) / max(1.0, abs(value)) for m, value in found.items()}
        wrong += check(f"{kind} answer as trained", max(apart.values()) <= SAME)
    return wrong


def line(kind: str, found: dict[str, float], more: str) -> None:
    """One line of the table."""
    told = "  ".join(f"{name} {value:8.4f}" for name, value in found.items())
    say(f"  {kind:14} {told}  {more}")


def learn(client: Client, name: str, table: Table, folder: Path, options: Row) -> dict[str, float]:
    """Run the job; the metrics of the trained model on the held-out rows."""
    data = {
        "train": str(folder / "learned.csv"),
        "validation": 0.15,
        "test": str(folder / "held.csv"),
        "columns": {"target": table.target},
    }
    train(client, name=name, task="tabular", data=data, **options)
    found = client.model(name).manifest.metrics
    return {key.removeprefix("test_"): v for key, v in found.items() if key.startswith("test_")}


def asked(client: Client, name: str, table: Table, held: list[Row]) -> dict[str, float]:
    """The metrics of what the server answers."""
    rows = [{key: value for key, value in row.items() if key != table.target} for row in held]
    answers = [a for at in range(0, len(rows), 500) for a in client.predict(name, rows[at:][:500])]
    true = [row[table.target] for row in held]
    if table.metric == "rmse":
        return errors(true, answers)
    scores = [{label.label: label.score for label in answer} for answer in answers]
    return worth(true, [max(s, key=lambda k: s[k]) for s in scores], scores)


def guess(table: Table, learned: list[Row], held: list[Row]) -> dict[str, float]:
    """What the commonest class, or the mean, is worth."""
    known, true = ([row[table.target] for row in rows] for rows in (learned, held))
    empty = [np.zeros((len(part), 1)) for part in (known, true)]
    if table.metric == "rmse":
        return errors(true, DummyRegressor().fit(empty[0], known).predict(empty[1]))
    dummy = DummyClassifier(strategy="prior").fit(empty[0], known)
    shares = dummy.predict_proba(empty[1])
    scores = [dict(zip(dummy.classes_, row, strict=True)) for row in shares]
    return worth(true, list(dummy.predict(empty[1])), scores)


def worth(true: list[str], told: list[str], scores: list[dict[str, float]]) -> dict[str, float]:
    """Accuracy, macro-F1 and, of two classes, the area under the ROC curve."""
    last = max(set(true))
    return {
        "accuracy": float(metrics.accuracy_score(true, told)),
        "macro_f1": float(metrics.f1_score(true, told, average="macro")),
        "auc": float(metrics.roc_auc_score([t == last for t in true], [s[last] for s in scores])),
    }


def errors(true: list[float], told: Any) -> dict[str, float]:
    """RMSE, MAE and R2."""
    return {
        "rmse": float(metrics.root_mean_squared_error(true, told)),
        "mae": float(metrics.mean_absolute_error(true, told)),
        "r2": float(metrics.r2_score(true, told)),
    }
