"""What is wrong with data or a recipe is the job's clear error, and the queue goes on."""

import asyncio
import csv
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from job_runner import Bench
from lmaas.job import Job
from lmaas.jobs import process

PATIENCE_S = 400
COLUMNS = ("age", "dose", "outcome")
GOOD = "".join(f"{20 + i % 50},{i % 7}.5,{'well' if i % 7 > 3 else 'ill'}\n" for i in range(80))
TABLE = f"{','.join(COLUMNS)}\n{GOOD}"


class Case(NamedTuple):
    """A file, the recipe beside it, and what the job's error says."""

    name: str
    write: Callable[[Path], Any]
    code: str
    told: tuple[str, ...]
    task: str = "tabular"
    recipe: dict[str, Any] = {}  # noqa: RUF012 - never changed


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], Any]:
    return lambda path: path.write_text(content, encoding)


def zipped(**members: bytes) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


def one_class(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f"c{number}" for number in range(3)] + ["outcome"])
        writer.writerows([1, 2, 3, "a"] for _ in range(20))


def wide(path: Path) -> None:
    cells = [f"c{number}" for number in range(9999)]
    path.write_text("".join(f"{','.join([*cells, 'outcome'])}\n" for _ in range(2)))


def with_held(content: str) -> Callable[[Path], Any]:
    """The good table, and beside it `held.csv`."""

    def write(path: Path) -> None:
        path.write_text(TABLE)
        path.with_name("held.csv").write_text(content)

    return write


TREES = {"model": {"architecture": "boosted-trees"}}
"""Data are read alike for trees and networks, and trees begin without torch."""
HELD = {**TREES, "data": {"validation": "held.csv"}}
HUGE = {"hidden": [65_536] * 3}
CASES = [
    *(
        Case(name, write, "invalid_input", told, recipe=TREES)
        for name, write, told in (
            ("a.csv", lambda path: path.write_bytes(pickle.dumps(1)), ("pickle",)),
            ("a.pkl", text("x"), ("pickle",)),
            ("a.csv", text(TABLE + "1,2\n"), ("a.csv", "line 82")),
            ("a.csv", text(TABLE + "=A2+1,1.5,ill\n"), ("a.csv", "line 82", "'age'", "formula")),
            ("a.csv", text(TABLE + "old,1.5,ill\n"), ("a.csv", "line 82", "'age'", "'old'")),
            ("a.jsonl", text('{"age": 1}\n{"age": "old"}\n'), ("a.jsonl", "line 2", "a text")),
            ("a.csv", text(TABLE + "9,1.5,böse\n", "latin-1"), ("line 82", "not UTF-8", "0xf6")),
            ("a.csv", text(TABLE, "utf-16-le"), ("a.csv, line 1", "zero byte")),
            ("a.csv", text(""), ("empty",)),
            ("a.csv", one_class, ("one class only",)),
            ("a.csv", wide, ("a.csv", "line 1", "10000 columns", "4096")),
            (
                "a.jsonl", text('{"outcome":1}\n' * 1_000_000 + '{"outcome":1\n'),
                ("a.jsonl", "line 1000001 is not a JSON object"),
            ),
        )
    ),
    Case(
        "a.csv", with_held(TABLE + "20,1.5,dead\n"), "invalid_input",
        ("held.csv", "line 82", "'dead'", "not one of those learned", "'ill', 'well'"),
        recipe=HELD,
    ),
    Case(
        "a.csv", with_held(TABLE), "invalid_input",
        ("data.validation is the same data as data.train",), recipe=HELD,
    ),
    Case(
        "a.csv", text(TABLE), "invalid_input", ("no column", "sex"),
        recipe={"data": {"columns": {"target": "sex"}}},
    ),
    Case(
        "a.csv", text(TABLE), "invalid_input",
        ("at step ", "(batch ", " of epoch 1) at learning rate 1e+38"),
        recipe={"optimizer": {"name": "sgd", "learning_rate": 1e38}, "epochs": 40, "seed": 3},
    ),
    Case(
        "a.csv", text(TABLE), "does_not_fit", ("parameters", "weights", "optimizer", "may use"),
        recipe={"model": {"architecture": "mlp", "options": HUGE}},
    ),
    Case(
        "a.jsonl", text('{"text": "a"}\n'), "does_not_fit", ("may use",), task="text-generation",
        recipe={"model": {"options": {"hidden": 32_768, "layers": 96, "mlp": 98_304}}},
    ),
    Case(
        "a.jsonl", text('{"text": "a"}\n'), "invalid_input", ("text-generation", "keras"),
        task="text-generation", recipe={"framework": "keras"},
    ),
    Case(
        "a.zip", zipped(**{"../../x/a.png": b"x"}), "invalid_input", ("outside itself",),
        task="image-classification",
    ),
    Case(
        "a.zip", zipped(**{f"{c}/{i}.png": bytes(50 << 20) for c in "ab" for i in range(3)}),
        "invalid_input", ("would unpack to",), task="image-classification",
    ),
    Case(
        "a.zip", zipped(**{"a/1.png": b"\x89PNG no image", "b/1.png": b"\x89PNG no image"}),
        "invalid_input", ("a.zip", "a/1.png"), task="image-classification",
    ),
]  # fmt: skip


def recipe_of(case: Case, path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "bad", "task": case.task, "epochs": 2, "batch_size": 16, **case.recipe,
    }  # fmt: skip
    columns = {"columns": {"target": "outcome"}} if case.task == "tabular" else {}
    data = {"train": str(path), **columns, **case.recipe.get("data", {})}
    if "validation" in data:
        data["validation"] = str(path.with_name(data["validation"]))
    return {**plain, "data": data}


async def ended(bench: Bench, job: Job) -> Job:
    async with asyncio.timeout(PATIENCE_S):
        while not bench.get(job).ended:
            await asyncio.sleep(0.05)
    return bench.get(job)


def test_each_is_told_and_the_queue_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        # More than the libraries need, and less than any of the models that do not fit.
        bench = Bench(tmp_path / "home", command=process.COMMAND, memory_bytes=8 << 30)
        await bench.runner.start()
        try:
            jobs = []
            for number, case in enumerate(CASES):
                folder = tmp_path / str(number)
                folder.mkdir()
                case.write(folder / case.name)
                recipe = recipe_of(case, folder / case.name)
                jobs.append(bench.jobs.add("t", "key", "train", "bad", recipe))
            (tmp_path / "good.csv").write_text(TABLE)
            good = Case("good.csv", text(TABLE), "", ())
            recipe = recipe_of(good, tmp_path / "good.csv")
            last = bench.jobs.add("t", "key", "train", "good", recipe)
            assert (await ended(bench, last)).state == "succeeded"
            for job, case in zip(jobs, CASES, strict=True):
                found = await ended(bench, job)
                told = found.error
                assert found.state == "failed", (case, found)
                assert told is not None
                assert told.code == case.code, (case.told, told)
                assert all(word in told.message for word in case.told), (case.told, told)
                assert found.model is None
                assert bench.jobs.events("t", job.id, limit=1000)[-1].type == "error"
            assert [model.ref for model in bench.registry.models("t")] == ["good:1"]
        finally:
            await bench.runner.close(5)
            bench.close()

    asyncio.run(test())


FULL = """
import pathlib, resource, sys, threading, time
from lmaas.jobs.child import main, train
folder, limit = pathlib.Path(sys.argv[2]), int(sys.argv[1])
def fill():
    while not list(folder.glob("checkpoints/step-*")):
        time.sleep(0.001)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def work(*given):
    threading.Thread(target=fill, daemon=True).start()
    return train(*given)
sys.exit(main(folder, work))
"""
"""A job whose disk is full for files of more than so many bytes, once it has a checkpoint."""


MISSING = """
import pathlib, sys
from lmaas.jobs.child import main
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
sys.exit(main(pathlib.Path(sys.argv[2])))
"""
"""A job where a package is not installed."""


@pytest.mark.parametrize(
    ("framework", "package", "extra"),
    [("pytorch", "torch", "train"), ("keras", "keras", "keras"),
     ("tensorflow", "tensorflow", "tensorflow")],
)  # fmt: skip
def test_a_missing_package_is_named(
    tmp_path: Path, framework: str, package: str, extra: str
) -> None:
    async def test() -> None:
        (tmp_path / "good.csv").write_text(TABLE)
        good = Case("good.csv", text(TABLE), "", (), recipe={"framework": framework})
        command = (process.COMMAND[0], "-P", "-c", MISSING, package)
        bench = Bench(tmp_path / "home", command=command)
        await bench.runner.start()
        try:
            recipe = recipe_of(good, tmp_path / "good.csv")
            found = await ended(bench, bench.jobs.add("t", "key", "train", "good", recipe))
            assert found.state == "failed"
            assert found.error is not None
            assert found.error.code == "missing_extra", found.error
            assert f"needs {package}" in found.error.message
            assert found.error.hint is not None
            assert f"lmaas[{extra}]" in found.error.hint
        finally:
            await bench.runner.close(5)
            bench.close()

    asyncio.run(test())


def full(limit_bytes: int) -> tuple[str, ...]:
    return (process.COMMAND[0], "-P", "-c", FULL, str(limit_bytes))


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for label in ("dark", "light"):
        (tmp_path / "bars" / label).mkdir(parents=True)
        for number in range(40):
            low, high = (0, 90) if label == "dark" else (160, 255)
            pixels = random.integers(low, high, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "bars" / label / f"{number}.png")
    return tmp_path / "bars"


@pytest.mark.parametrize("enough", [True, False])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, bars: Path, enough: bool
) -> None:
    # An optimizer's state is twice its model's 266 kB: a limit between lets the model be written.
    limit = 400_000 if enough else 100_000

    async def test() -> None:
        bench = Bench(tmp_path / "home", command=full(limit), memory_bytes=8 << 30)
        await bench.runner.start()
        try:
            recipe = {
                "name": "bars", "task": "image-classification", "data": {"train": str(bars)},
                "model": {"architecture": "mlp", "options": {"hidden": [1000]}}, "epochs": 40,
                "checkpoints": {"every_steps": 10}, "batch_size": 8, "early_stopping": None,
            }  # fmt: skip
            job = bench.jobs.add("t", "key", "train", "bars", recipe)
            found = await ended(bench, job)
            told = [event.message for event in bench.jobs.events("t", job.id, limit=1000)]
            assert any("No space for the checkpoint of step" in message for message in told), told
            steps = [point.step for point in found.checkpoints]
            left = sorted((bench.home / "jobs" / job.id / "checkpoints").glob("step-*"))
            assert int(left[-1].name.removeprefix("step-")) == steps[-1] < 40 * 9
            if enough:
                assert (found.state, found.model) == ("succeeded", "bars:1")
            else:
                assert found.state == "failed"
                assert found.error is not None
                assert found.error.code == "storage_full", found.error
                assert bench.registry.models("t") == []
        finally:
            await bench.runner.close(5)
            bench.close()

    asyncio.run(test())
