"""Texts and tables from a file to answers through one server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError

import lmaas
from lmaas.cli.job_progress import result_lines
from lmaas.client import Client
from lmaas.errors import InvalidInput
from lmaas.job import Job
from lmaas.recipe import recipe_of
from servers import png


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with lmaas.local(home) as client:
        yield client


def run(client: Client, **recipe: Any) -> Job:
    job = client.train(recipe_of(recipe))
    told = [event.message for event in client.follow_job(job.id)]
    job = client.job(job.id)
    assert job.state == "succeeded", (job.error, told[-5:], client.job_log(job.id))
    return job


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
    stock = InferenceClient(model=f"{client.url}/models/mood", token=client.key)
    told = stock.text_classification("a lovely film", function_to_apply="sigmoid", top_k=1)
    assert [each.label for each in told] == ["good"]
    with pytest.raises(BadRequestError, match="is a model for text-classification"):
        stock.zero_shot_classification("a lovely film", ["good", "bad"])
    with pytest.raises(BadRequestError, match="is a model for text-classification"):
        stock.image_classification(png())


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
    stock = InferenceClient(model=f"{client.url}/models/days", token=client.key)
    table = {"age": ["80", "30"], "ward": ["heart", "bone"]}
    assert stock.tabular_classification(table) == pytest.approx([11, 3], abs=0.5)
    with pytest.raises(BadRequestError, match="is a model for tabular"):
        stock.feature_extraction("a text")
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
        ({"age": "80", "ward": "heart"}, None),
        ({"age": "eighty", "ward": "heart"}, "must be a number or null"),
    ):
        check_everywhere(client, home, tmp_path, row, told)
    # JSON has no NaN: Python's is null on its way, and what spells it by hand is no JSON.
    unknown = client.predict("days", {"age": None, "ward": "heart"})
    assert client.predict("days", {"age": float("nan"), "ward": "heart"}) == unknown
    assert post(client, b'{"inputs": {"age": NaN, "ward": "heart"}}').status_code == 400


def test_a_file_as_people_have_it_needs_nothing_but_its_target(
    client: Client, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    days = [date(2024, 1, 1) + timedelta(int(n)) for n in random.integers(0, 366, 90)]
    size = random.uniform(500, 3000, 90)
    price = size * 2 + np.array([500 if day.month > 6 else 0 for day in days])
    lines = ["id;sold on;size;zip;price"]
    for i, (day, area, worth) in enumerate(zip(days, size, price, strict=True)):
        told = f"{worth:,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")
        lines.append(f"H{i:03};{day:%d.%m.%Y};{area:.1f} m²;0{1000 + i % 4};{told} €")
    data = tmp_path / "houses.csv"
    data.write_text("\n".join(lines), "utf-8")
    choice = {"train": str(data), "test": 0.2, "columns": {"target": "price"}}
    job = run(client, name="houses", task="tabular", data=choice)
    version = client.model("houses")
    assert (version.manifest.framework, version.manifest.engine) == ("stack", "openvino")
    assert version.manifest.metrics["test_r2"] > 0.8
    shown = "\n".join(result_lines(job))
    assert "rmse (test)" in shown
    assert "Warning: There are only 63 samples to learn from." in shown
    card = version.manifest.card
    assert "## Warnings" in card
    assert "every row has another value" in card
    names = lines[0].split(";")
    row = dict(zip(names, lines[1].split(";"), strict=True))
    told = client.predict("houses", row)
    assert told == pytest.approx(price[0], rel=0.25)
    plain = {"sold on": days[0].isoformat(), "size": round(float(size[0]), 1)}
    assert client.predict("houses", plain | {"zip": row["zip"]}) == told


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
