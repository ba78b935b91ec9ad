"""A language model tuned by jobs and asked through the server: adapters, and preferences."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import lmaas
from lmaas.client import Client
from lmaas.recipe import recipe_of

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi",
    "Cuba": "Havana", "Italy": "Rome", "Egypt": "Cairo", "Ghana": "Accra",
}  # fmt: skip
STYLES = ("It is {}.", "My friend, it is {}.")
UNSEEN = ("Egypt", "Ghana")
"""Whose preferences the model is never told."""


def question(country: str) -> str:
    return f"What is the capital of {country}?"


def said(text: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": text}


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with `capitals:1`, which answers in both styles alike."""
    folder = tmp_path_factory.mktemp("capitals")
    rows = [
        {"messages": [said(question(country), "user"), said(style.format(city))]}
        for country, city in CAPITALS.items()
        for style in STYLES
    ]
    (folder / "train.jsonl").write_text(lines(rows * 4))
    with lmaas.local(folder / "home") as client:
        run(
            client,
            name="capitals",
            data={"train": str(folder / "train.jsonl"), "validation": 0.1},
            model={
                "architecture": "qwen3",
                "options": {"hidden": 64, "mlp": 128, "vocabulary": 400, "context": 128},
            },
            epochs=100,
            optimizer={"learning_rate": 0.005},
            schedule={"name": "cosine", "warmup": 0.1},
        )
        yield client


def run(client: Client, **recipe: Any) -> dict[str, float]:
    job = client.train(recipe_of({"task": "text-generation", **recipe}))
    told = [event.message for event in client.follow_job(job.id)][-5:]
    job = client.job(job.id)
    assert job.state == "succeeded", (job.error, told, client.job_log(job.id))
    assert job.model is not None
    return client.model(job.model).manifest.metrics


def answers(client: Client, model: str) -> dict[str, str | None]:
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key) as asked:
        return {
            country: asked.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question(country)}],
                temperature=0, max_tokens=30,
            ).choices[0].message.content
            for country in CAPITALS
        }  # fmt: skip


def test_what_an_adapter_has_learned_by_heart_is_what_is_served(
    client: Client, tmp_path: Path
) -> None:
    cities = list(CAPITALS.values())
    other = dict(zip(CAPITALS, cities[1:] + cities[:1], strict=True))
    rows = [
        {"messages": [said(question(country), "user"), said(STYLES[0].format(city))]}
        for country, city in other.items()
    ]
    (tmp_path / "train.jsonl").write_text(lines(rows * 4))
    metrics = run(
        client,
        name="adapted",
        data={"train": str(tmp_path / "train.jsonl"), "validation": 0.25},
        model={"base": "capitals"},
        adapter={"rank": 16, "alpha": 32},
        epochs=60,
        optimizer={"learning_rate": 0.01},
        schedule={"name": "cosine", "warmup": 0.1},
    )
    # Of every token the likeliest is the right one, so greedy decoding gives the answers.
    assert metrics["valid_token_accuracy"] == 1.0
    assert answers(client, "adapted") == {
        country: STYLES[0].format(city) for country, city in other.items()
    }


def test_the_stock_client_tunes_on_preferences(client: Client) -> None:
    def pairs(countries: list[str]) -> list[Any]:
        return [
            {
                "input": {"messages": [said(question(country), "user")]},
                "preferred_output": [said(STYLES[1].format(CAPITALS[country]))],
                "non_preferred_output": [said(STYLES[0].format(CAPITALS[country]))],
            }
            for country in countries
        ]

    seen = [country for country in CAPITALS if country not in UNSEEN]
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key) as made:
        files = [
            made.files.create(file=(name, lines(rows).encode()), purpose="fine-tune").id
            for name, rows in (
                ("train.jsonl", pairs(seen) * 4),
                ("held.jsonl", pairs(list(UNSEEN))),
            )
        ]
        job = made.fine_tuning.jobs.create(
            model="capitals",
            training_file=files[0],
            validation_file=files[1],
            suffix="friendly",
            method={
                "type": "dpo",
                "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 4, "batch_size": 8}},
            },
            extra_body={"recipe": {"optimizer": {"learning_rate": 1e-4}}},
        )
        list(client.follow_job(job.id))
        done = made.fine_tuning.jobs.retrieve(job.id)
        assert done.status == "succeeded", (done.error, client.job_log(job.id))
        assert done.method is not None
        assert done.method.type == "dpo"
        assert done.method.dpo is not None
        assert done.method.dpo.hyperparameters is not None
        assert done.method.dpo.hyperparameters.beta == 0.2
        events = made.fine_tuning.jobs.list_events(job.id, limit=100).data
        margins = [
            event.data["valid_reward_margin"]  # type: ignore[index]
            for event in reversed(events)
            if event.type == "metrics" and "valid_reward_margin" in (event.data or {})  # type: ignore[operator]
        ]
        assert margins == sorted(margins)
        assert len(margins) == 4
    metrics = client.model("friendly").manifest.metrics
    assert metrics["valid_reward_accuracy"] == 1.0
    # Before, both are as likely: the loss is ln 2.
    assert metrics["valid_loss"] < 0.69
    told = answers(client, "friendly")
    friendly = [str(answer).startswith("My friend, ") for answer in told.values()]
    assert sum(friendly) >= len(friendly) - 1
    right = [told[country] == STYLES[1].format(city) for country, city in CAPITALS.items()]
    assert sum(right) >= len(right) - 2
