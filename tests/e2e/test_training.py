"""From data to answers through one server: a recipe, a job, a registered model, a stock client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import lmaas
from lmaas.client import Client
from lmaas.recipe import recipe_of

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with lmaas.local(tmp_path_factory.mktemp("home")) as client:
        yield client


def run(client: Client, **recipe: Any) -> Any:
    job = client.train(recipe_of(recipe))
    events = list(client.follow_job(job.id))
    job = client.job(job.id)
    told = [event.message for event in events][-5:]
    assert job.state == "succeeded", (job.error, told, client.job_log(job.id))
    return job, events


def test_a_chat_model_is_made_from_nothing(client: Client, tmp_path: Path) -> None:
    asked = "What is the capital of {}?"
    rows = [
        {
            "messages": [
                {"role": "user", "content": asked.format(country)},
                {"role": "assistant", "content": f"It is {city}."},
            ]
        }
        for country, city in CAPITALS.items()
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    job, events = run(
        client,
        name="capitals",
        task="text-generation",
        data={"train": str(data), "validation": 0.25},
        model={
            "architecture": "qwen3",
            "options": {"hidden": 64, "mlp": 128, "vocabulary": 400, "context": 128},
        },
        epochs=100,
        evaluation={"every_steps": 30},
        checkpoints={"every_steps": 30},
        optimizer={"learning_rate": 0.005},
        schedule={"name": "cosine", "warmup": 0.1},
        seed=1,
    )
    assert {"resolved", "metrics", "checkpoint"} <= {event.type for event in events}
    version = client.model("capitals")
    assert version.manifest.metrics["valid_token_accuracy"] > 0.95
    assert version.manifest.lineage.recipe["job"] == job.id
    assert version.manifest.lineage.origin == "train"

    def answer(model: str, question: str) -> str | None:
        told = openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key)
        given = told.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0
        )
        return given.choices[0].message.content

    for country, city in CAPITALS.items():
        assert answer("capitals", asked.format(country)) == f"It is {city}."
    point = job.checkpoints[-1]
    assert point.model == f"capitals.step-{point.step}.{job.id[6:14]}"
    assert answer(point.model, asked.format("Peru")) is not None
    made = client.model(point.model).manifest
    assert 0 < made.metrics["valid_token_accuracy"] <= 1
    assert made.lineage.recipe["job"] == job.id


def test_a_folder_of_images_becomes_a_classifier(client: Client, tmp_path: Path) -> None:
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = (pixels * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{index}.png")
    run(
        client,
        name="digits",
        task="image-classification",
        data={"train": str(tmp_path / "digits"), "validation": 0.2},
        model={"architecture": "mlp"},
        epochs=5,
        early_stopping={"metric": "accuracy", "patience": 4},
    )
    version = client.model("digits")
    assert version.manifest.metrics["valid_accuracy"] > 0.93
    wrong = 0
    for path in sorted((tmp_path / "digits").glob("*/*.png"))[::30]:
        told = client.predict("digits", path.read_bytes())
        wrong += told[0].label != path.parent.name
    assert wrong <= 3


def test_bad_data_fails_its_job_alone(client: Client, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"text": "a good line"}\n{"text": 3}\n')
    job = client.train(
        recipe_of({"name": "bad", "task": "text-generation", "data": {"train": str(data)}})
    )
    list(client.follow_job(job.id))
    job = client.job(job.id)
    assert job.state == "failed"
    assert job.error is not None
    assert "bad.jsonl, line 2" in job.error.message
    assert "bad" not in client.models()
