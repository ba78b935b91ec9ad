"""Learning curves from what a run told."""

import csv
import math
import sys
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from lmaas.job import CURVES_FILE, EVENTS_FILE, METRICS_FILE, JobEvent
from lmaas.training import curves


def tell(folder: Path, *data: dict[str, float]) -> None:
    with (folder / EVENTS_FILE).open("ab") as file:
        for told in data:
            event = JobEvent(type="metrics", message="", created_at=1.0, data=dict(told))
            file.write(msgspec.json.encode(event) + b"\n")
        file.write(msgspec.json.encode(JobEvent(type="message", message="x", created_at=1.0)))
        file.write(b"\nhalf a li\n")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_step_is_one_row_with_all_that_was_told_of_it(tmp_path: Path) -> None:
    tell(
        tmp_path,
        {"step": 1, "epoch": 1, "total_steps": 9, "train_loss": 2.0, "learning_rate": 0.1},
        {"step": 5, "epoch": 1, "total_steps": 9, "train_loss": 1.5, "learning_rate": 0.1},
        {"step": 5, "epoch": 1, "total_steps": 9, "train_loss": 1.5, "valid_accuracy": 0.125},
    )
    assert curves.write(tmp_path) is None
    first, second = rows(tmp_path)
    assert list(first) == ["step", "epoch", "train_loss", "learning_rate", "valid_accuracy"]
    assert (first["step"], first["valid_accuracy"]) == ("1", "")
    assert (second["step"], second["train_loss"], second["valid_accuracy"]) == ("5", "1.5", "0.125")
    with Image.open(tmp_path / CURVES_FILE) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        CURVES_FILE, EVENTS_FILE, METRICS_FILE,
    ]  # fmt: skip


def test_what_a_run_told_that_was_taken_up_from_before_it_is_dropped(tmp_path: Path) -> None:
    tell(tmp_path, *({"step": step, "train_loss": 100.0 + step} for step in (1, 4, 6, 7)))
    tell(tmp_path, *({"step": step, "train_loss": 200.0 + step} for step in (5, 8)))
    curves.write(tmp_path)
    assert [(row["step"], row["train_loss"]) for row in rows(tmp_path)] == [
        ("1", "101.0"), ("4", "104.0"), ("5", "205.0"), ("8", "208.0"),
    ]  # fmt: skip


def test_numbers_that_are_none_are_not_drawn(tmp_path: Path) -> None:
    data = JobEvent(
        type="metrics", message="", created_at=1.0, data={"step": 1, "train_loss": None}
    )
    (tmp_path / EVENTS_FILE).write_bytes(msgspec.json.encode(data) + b"\n")
    tell(tmp_path, {"step": 2, "train_loss": math.inf}, {"step": 3, "valid_perplexity": 30.0})
    assert curves.write(tmp_path) is None
    assert (tmp_path / CURVES_FILE).exists()


def test_a_run_that_told_nothing_has_no_curves(tmp_path: Path) -> None:
    assert curves.write(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_without_its_library_the_picture_is_missed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    tell(tmp_path, {"step": 1, "train_loss": 2.0})
    assert "lmaas[train]" in (curves.write(tmp_path) or "")
    assert (tmp_path / METRICS_FILE).exists()
    assert not (tmp_path / CURVES_FILE).exists()
