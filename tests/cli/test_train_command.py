"""`lmaas train`, `lmaas jobs` and `lmaas.train`, with a tiny run on a real server."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import lmaas
from checkpoints import make_qwen3
from lmaas.cli import main
from lmaas.errors import InvalidInput
from lmaas.registry.lock import HomeLock
from lmaas.training.schema import recipe_schema
from servers import serving

RECIPE = """
name: bars
task: image-classification
data: {train: bars, validation: 0.2}
model: {architecture: mlp}
epochs: 2
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images of bars, lying and standing, and a recipe for them."""
    random = np.random.default_rng(0)
    for label in ("lying", "standing"):
        (tmp_path / "bars" / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 60, (8, 8), np.uint8)
            at = int(random.integers(8))
            pixels[(at, slice(None)) if label == "lying" else (slice(None), at)] = 255
            Image.fromarray(pixels).save(tmp_path / "bars" / label / f"{number}.png")
    (tmp_path / "bars.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    for name in ("LMAAS_URL", "LMAAS_KEY", "LMAAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(folder / "home"), *arguments])
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return call


def test_a_recipe_becomes_a_model_without_a_server(run: Run, folder: Path) -> None:
    done = run("train", "bars.yaml", "--json", "--seed", "3")
    assert done.code == 0, done.err
    *events, job = [json.loads(line) for line in done.out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {"resolved", "metrics", "message"} <= {event["type"] for event in events}
    assert (job["state"], job["model"]) == ("succeeded", "bars:1")
    assert job["resolved"]["seed"] == 3
    assert job["resolved"]["batch_size"] == 8
    assert job["recipe"]["data"]["train"] == str(folder / "bars")
    shown = json.loads(run("jobs", "show", job["id"], "--json").out)
    assert shown["model"] == "bars:1"
    assert [each["id"] for each in json.loads(run("jobs", "list", "--json").out)] == [job["id"]]
    assert "succeeded" in run("jobs", "list").out
    assert "bars:1" in run("jobs", "watch", job["id"], "-q").out
    lines = run("jobs", "watch", job["id"], "--json").out.splitlines()
    *watched, last = [json.loads(line) for line in lines]
    assert (watched, last["id"], last["state"]) == (events, job["id"], "succeeded")
    log = run("jobs", "logs", job["id"])
    assert (log.code, log.err) == (0, "")
    printed = json.loads(run("jobs", "logs", job["id"], "--json").out)["log"]
    assert printed.split() == log.out.split()
    told = json.loads(run("jobs", "logs", job["id"], "--events", "--json").out)
    assert told == events
    model = json.loads(run("models", "show", "bars", "--json").out)
    assert job["id"] in json.dumps(model)
    predicted = run("predict", "bars", "bars/lying/0.png", "--json")
    assert {label["label"] for label in json.loads(predicted.out)} == {"lying", "standing"}


def test_flags_alone_say_what_is_trained(run: Run) -> None:
    done = run(
        "train", "--task", "image-classification", "--data", "bars", "--epochs", "1",
        "--set", "model.architecture=mlp", "--validation", "0.25", "--name", "b",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Registered as b:1" in done.out
    assert "Samples: 30 train, 10 validation." in done.err


def test_a_table_as_people_have_it_is_trained_on_and_predicted(run: Run, folder: Path) -> None:
    rows = [f"{i};{i % 7};{'größer' if i % 7 > 3 else 'kleiner'}" for i in range(80)]
    rows[3], rows[50] = "3;5;", "50;2; "
    content = "\r".join([";number;kind", *rows]).encode("latin-1")
    (folder / "numbers.csv.gz").write_bytes(gzip.compress(content))
    asked = ("train", "--task", "tabular", "--data", "numbers.csv.gz", "--framework", "lightgbm",
             "--set", "data.columns.target=kind")  # fmt: skip
    refused = run(*asked)
    assert refused.code == 1
    assert "--set data.encoding=latin-1" in refused.err
    done = run(*asked, "--set", "data.encoding=latin-1")
    assert done.code == 0, done.err
    assert "The first column has no name: it is an index, and left out." in done.err
    assert (
        "Rows of numbers.csv.gz passed over, since they have no value of 'kind': 2 (line 5, "
        in (done.err)
    )
    told = run("predict", "numbers:1", "numbers.csv.gz", "--encoding", "latin-1", "--out", "a.csv")
    assert (told.code, told.out) == (0, ""), told.err
    assert "Wrote 80 rows to a.csv." in told.err
    with (folder / "a.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert list(answers[0]) == ["number", "kind", "prediction", "score"]
    right = ["größer" if int(row["number"]) > 3 else "kleiner" for row in answers]
    assert [row["prediction"] for row in answers] == right
    assert [i for i, row in enumerate(answers) if not row["kind"].strip()] == [3, 50]
    (folder / "bad.csv").write_text("number\n1\nmany\n")
    told = run("predict", "numbers", "bad.csv", "--out", "b.csv")
    assert told.code == 1
    assert "bad.csv, line 3: 'number' must be a number" in told.err
    assert not (folder / "b.csv").exists()
    assert run("predict", "numbers", "bad.csv", "--out", "b.xls").code == 1
    assert "is what is read" in run("predict", "numbers", "bad.csv", "--out", "./bad.csv").err
    assert "has no field 'text'" in run("predict", "numbers", "bad.csv", "--column", "text=a").err


def test_the_queue_is_worked_on_without_a_server(run: Run) -> None:
    done = run("train", "bars.yaml", "--detach", "--priority", "2", "--json")
    job = json.loads(done.out)
    assert (job["state"], job["priority"]) == ("queued", 2)
    for verb, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert json.loads(run("jobs", verb, job["id"], "--json").out)["state"] == state
    again = run("jobs", "cancel", job["id"])
    assert again.code == 1
    assert "cancelled already" in again.err
    watched = run("jobs", "watch", job["id"])
    assert watched.code == 1
    assert "was cancelled" in watched.err
    assert run("jobs", "show", "ftjob-none").code == 3
    assert "paused" in run("jobs", "logs", job["id"], "--events").out


def test_a_failing_run_fails_the_command_with_its_error(run: Run) -> None:
    done = run("train", "bars.yaml", "--set", "data.train=/no/such")
    assert done.code == 1
    assert "/no/such" in done.err.splitlines()[-1] + done.err.splitlines()[-2]
    job = json.loads(run("jobs", "list", "--json").out)[0]
    assert job["state"] == "failed"
    assert job["error"]["code"] == "invalid_input"
    assert "/no/such" in run("jobs", "show", job["id"]).out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no.yaml",), "no.yaml"),
        (("bars.yaml", "--set", "epoch=3"), "epoch"),
        (("bars.yaml", "--set", "epochs"), "KEY=VALUE"),
        (("bars.yaml", "--set", "epochs=[1"), "YAML"),
        (("bars.yaml", "--set", "epochs=0"), "epochs"),
        (("bars.yaml", "--base", "nobody"), "nobody"),
        (("--task", "tabular"), "--data"),
        (("bars/lying/0.png",), "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_by_name(run: Run, arguments: tuple[str, ...], told: str) -> None:
    done = run("train", *arguments, "--detach")
    assert done.code != 0
    assert told in done.err


def test_the_schema_is_printed(run: Run) -> None:
    assert json.loads(run("train", "--schema").out) == json.loads(json.dumps(recipe_schema()))


def test_python_trains_at_the_live_server_of_the_home(folder: Path) -> None:
    told: list[str] = []
    with serving(folder / "home"):
        job = lmaas.train(
            "bars.yaml", home=folder / "home", name="other", heard=lambda e: told.append(e.type)
        )
    assert job.model == "other:1"
    assert "metrics" in told
    with pytest.raises(InvalidInput, match="rate"):
        lmaas.train("bars.yaml", home=folder / "home", rate=3)


def test_a_named_server_is_sent_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{i},{'öd' if i % 2 else 'even'}\n" for i in range(60))
    (folder / "numbers.csv").write_text(f"number,kind\n{rows}", "latin-1")
    with serving(folder / "home", max_running_jobs=0) as server:
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "--url", server.url, "--key", server.key, "train", "--task", "tabular",
                    "--data", "numbers.csv", "--set", "data.columns.target=kind", "--detach",
                    "--json", "--set", "data.encoding=latin-1",
                ]
            )  # fmt: skip
        assert ended.value.code == 0
        job = json.loads(capsys.readouterr().out)
        assert job["name"] == "numbers"
        file_id = job["recipe"]["data"]["train"]
        path = folder / "home" / "files" / file_id / "content" / "numbers.csv"
        assert path.read_text("utf-8") == f"number,kind\n{rows}"
        assert job["recipe"]["data"].get("encoding") is None


def test_a_checkpoint_of_this_machine_is_trained_on(folder: Path, run: Run) -> None:
    make_qwen3(folder / "checkpoint")
    row = {"prompt": "the quick", "completion": " brown fox"}
    (folder / "rows.jsonl").write_text(8 * (json.dumps(row) + "\n"))
    given = ("--task", "text-generation", "--data", "rows.jsonl", "--base", "checkpoint")
    refused = run("train", *given, "--detach")
    assert "lmaas push" in refused.err
    done = run("train", *given, "--steps", "2", "--json")
    assert done.code == 0, done.err
    job = json.loads(done.out.splitlines()[-1])
    assert job["model"] == "rows:1"
    assert job["recipe"]["model"]["base"] == "rows-base:1"


def test_an_interrupted_command_leaves_its_job_to_the_next_server(folder: Path, run: Run) -> None:
    argv = [sys.executable, "-m", "lmaas", "--home", str(folder / "home"), "train", "bars.yaml"]
    argv += ["--set", "epochs=20000", "--set", "checkpoints.every_steps=50"]
    argv += ["--set", "early_stopping=null"]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("Checkpoint"):
                break
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert process.returncode == 130
    job: dict[str, Any] = json.loads(run("jobs", "list", "--json").out)[0]
    assert job["state"] == "queued"
    assert json.loads(run("jobs", "show", job["id"], "--json").out)["checkpoints"]
    assert HomeLock.read(folder / "home") is None
    assert run("jobs", "cancel", job["id"]).code == 0
