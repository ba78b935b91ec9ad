"""Texts and tables from a file to answers through one server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import lmaas
from lmaas.client import Client
from lmaas.errors import InvalidInput
from lmaas.recipe import recipe_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with lmaas.local(home) as client:
        yield client


def run(client: Client, **recipe: Any) -> None:
    job = client.train(recipe_of(recipe))
    told = [event.message for event in client.follow_job(job.id)]
    job = client.job(job.id)
    assert job.state == "succeeded", (job.error, told[-5:], client.job_log(job.id))


def test_texts_are_sorted(client: Client, tmp_path: Path) -> None:
    words = {"good": ("lovely", "warm", "brilliant"), "bad": ("awful", "cold", "boring")}
    rows = [
        {"text": f"the film was {word}, said number {i}", "label": label}
        for label, known in words.items()
        for word in known
        for i in range(20)
    ]
    data = tmp_path / "mood.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    run(client, name="mood", task="text-classification", data={"train": str(data)}, epochs=8)
    answer = client.predict("mood", ["a lovely film", "boring and cold"])
    assert [each[0].label for each in answer] == ["good", "bad"]
    assert client.model("mood").manifest.metrics["valid_accuracy"] > 0.9


def test_a_number_is_told_from_a_row(client: Client, home: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    age, ward = random.uniform(20, 90, 200), random.choice(["heart", "bone"], 200)
    days = age / 10 + 3 * (ward == "heart")
    rows = zip(age, ward, days, strict=True)
    data = tmp_path / "days.csv"
    data.write_text("age,ward,days\n" + "\n".join(f"{a:.2f},{w},{d:.3f}" for a, w, d in rows))
    choice = {"train": str(data), "columns": {"target": "days"}}
    run(client, name="days", task="tabular", data=choice, epochs=30)
    one, other = {"age": 80, "ward": "heart"}, {"age": 30.0, "ward": "bone"}
    assert client.predict("days", one) == pytest.approx(11, abs=0.5)
    assert client.predict("days", [one, other]) == pytest.approx([11, 3], abs=0.5)
    with pytest.raises(InvalidInput, match="lacks 'ward'"):
        client.predict("days", {"age": 80})
    for row, told in (
        ({"age": 80, "ward": "heart"}, None),
        ({"age": None, "ward": "heart"}, None),
        ({"age": 80, "ward": "never seen"}, None),
        ({"age": 80, "ward": None}, None),
        ({"age": 80}, "lacks 'ward'"),
        ({"age": 80, "ward": "heart", "size": 1}, "unknown column 'size'"),
        ({"age": "80 ", "ward": "heart", "days": 1}, None),
        ({"age": "eighty", "ward": "heart"}, "must be a number or null"),
    ):
        check_everywhere(client, home, tmp_path, row, told)
    # JSON has no NaN: Python's is null on its way, and what spells it by hand is no JSON.
    unknown = client.predict("days", {"age": None, "ward": "heart"})
    assert client.predict("days", {"age": float("nan"), "ward": "heart"}) == unknown
    assert post(client, b'{"inputs": {"age": NaN, "ward": "heart"}}').status_code == 400


def post(client: Client, body: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json"}
    return httpx.post(f"{client.url}/models/days", content=body, headers=headers)


def check_everywhere(
    client: Client, home: Path, folder: Path, row: dict[str, Any], told: str | None
) -> None:
    """The row gets one answer, or one error, over HTTP, from the client and on the command line."""
    answer = post(client, json.dumps({"inputs": row}).encode())
    file = folder / "row.json"
    file.write_text(json.dumps(row))
    argv = [sys.executable, "-m", "lmaas", "--home", str(home), "predict", "days", str(file)]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=False)
    if told is None:
        value = answer.json()["value"]
        assert client.predict("days", row) == value
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == value
        return
    assert answer.status_code == 400
    assert told in answer.text
    with pytest.raises(InvalidInput, match=re.escape(told)):
        client.predict("days", row)
    assert done.returncode != 0
    assert told in done.stderr + done.stdout
