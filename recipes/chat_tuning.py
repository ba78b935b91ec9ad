"""A chat model tuned as with OpenAI, on your own machine: every answer is checked.

    python recipes/chat_tuning.py [--quick] [--home DIR]

A little Qwen3-shaped model first learns a closed world from nothing: capitals, told in two styles.
Then the stock `openai` client does what it does with OpenAI's service: it uploads files and starts
two fine-tuning jobs on that model. One is supervised, as a low-rank adapter: currencies, which the
model has never heard of. The other learns from preferences (DPO) to greet first, without being told
a single answer. The models that come out are asked through the same client. Exit code 0 only when
the currencies are right and the second model greets and still knows its capitals. Needs
`lmaas[train]`, `openai`.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any, Final

import openai

from lmaas.client import Client
from proof import check, main, say, train

WORLD: Final = {
    "France": ("Paris", "euro"), "Japan": ("Tokyo", "yen"), "Peru": ("Lima", "sol"),
    "Kenya": ("Nairobi", "shilling"), "Cuba": ("Havana", "peso"), "India": ("Delhi", "rupee"),
    "Egypt": ("Cairo", "pound"), "Ghana": ("Accra", "cedi"),
}  # fmt: skip
PLAIN, GREETING = "It is {}.", "My friend, it is {}."
UNSEEN: Final = ("Egypt", "Ghana")
"""Of these no preference is told."""


def capital_of(country: str) -> str:
    """A question."""
    return f"What is the capital of {country}?"


def currency_of(country: str) -> str:
    """Another one."""
    return f"What do people pay with in {country}?"


def turn(role: str, content: str) -> dict[str, str]:
    """What somebody says."""
    return {"role": role, "content": content}


def talk(question: str, answer: str) -> dict[str, Any]:
    """A sample of supervised tuning."""
    return {"messages": [turn("user", question), turn("assistant", answer)]}


def preference(country: str) -> dict[str, Any]:
    """A sample of preference tuning."""
    capital, _ = WORLD[country]
    return {
        "input": {"messages": [turn("user", capital_of(country))]},
        "preferred_output": [turn("assistant", GREETING.format(capital))],
        "non_preferred_output": [turn("assistant", PLAIN.format(capital))],
    }


def lines(rows: list[dict[str, Any]]) -> bytes:
    """JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def learn_capitals(client: Client, folder: Path, quick: bool) -> None:
    """The model that is tuned afterwards; both styles are as likely."""
    said = (
        [(capital_of(c), style.format(capital)) for style in (PLAIN, GREETING)]
        for c, (capital, _) in WORLD.items()
    )
    rows = [talk(question, answer) for pair in said for question, answer in pair]
    # The words of later answers, so that the vocabulary has them.
    rows += [{"text": f"{currency_of(c)} {currency}"} for c, (_, currency) in WORLD.items()]
    (folder / "capitals.jsonl").write_bytes(lines(rows * 4))
    train(
        client,
        name="capitals",
        task="text-generation",
        data={"train": str(folder / "capitals.jsonl"), "validation": 0.1},
        model={
            "architecture": "qwen3",
            "options": {"hidden": 64, "mlp": 128, "vocabulary": 500, "context": 128},
        },
        epochs=50 if quick else 100,
        optimizer={"learning_rate": 0.005},
        schedule={"name": "cosine", "warmup": 0.1},
    )


def tune(
    tuner: openai.OpenAI, client: Client, suffix: str, rows: list[dict[str, Any]], **options: Any
) -> str:
    """Upload, start a job, wait; the tuned model's name."""
    file = tuner.files.create(
        file=(f"{suffix}.jsonl", io.BytesIO(lines(rows))), purpose="fine-tune"
    )
    job = tuner.fine_tuning.jobs.create(
        model="capitals", training_file=file.id, suffix=suffix, **options
    )
    for _ in client.follow_job(job.id):
        pass
    job = tuner.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise SystemExit(f"{suffix}: {job.status}: {job.error}\n{client.job_log(job.id)}")
    return job.fine_tuned_model


def ask(asker: openai.OpenAI, model: str, question: str) -> str:
    """The answer, greedily."""
    told = asker.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=40,
    )
    return told.choices[0].message.content or ""


def prove(client: Client, folder: Path, quick: bool) -> int:
    """Train, tune twice, ask."""
    learn_capitals(client, folder, quick)
    wrong = 0
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key=client.key) as tuner:
        for country, (capital, _) in WORLD.items():
            told = ask(tuner, "capitals", capital_of(country))
            right = told in (PLAIN.format(capital), GREETING.format(capital))
            wrong += check(f"capitals: {country}: {told!r}", right)
        say("Tuned on currencies, as an adapter:")
        money = tune(
            tuner,
            client,
            "money",
            [talk(currency_of(c), PLAIN.format(money)) for c, (_, money) in WORLD.items()] * 4,
            hyperparameters={"n_epochs": 60},
            extra_body={
                "recipe": {
                    "adapter": {"rank": 16, "alpha": 32},
                    "optimizer": {"learning_rate": 0.005},
                    "schedule": {"name": "cosine", "warmup": 0.1},
                }
            },
        )
        for country, (_, currency) in WORLD.items():
            told = ask(tuner, money, currency_of(country))
            wrong += check(f"{money}: {country}: {told!r}", told == PLAIN.format(currency))
        say(f"Tuned on preferences for all but {' and '.join(UNSEEN)}:")
        friend = tune(
            tuner,
            client,
            "friend",
            [preference(country) for country in WORLD if country not in UNSEEN] * 4,
            method={
                "type": "dpo",
                "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 4, "batch_size": 8}},
            },
            extra_body={"recipe": {"optimizer": {"learning_rate": 1e-4}}},
        )
        answers = {country: ask(tuner, friend, capital_of(country)) for country in WORLD}
    for country, told in answers.items():
        say(f"          {friend}: {country}: {told!r}")
    greets = sum(told.startswith("My friend, ") for told in answers.values())
    knows = sum(told == GREETING.format(WORLD[country][0]) for country, told in answers.items())
    wrong += check(f"{greets} of {len(WORLD)} greet", greets >= len(WORLD) - 1)
    wrong += check(f"{knows} of {len(WORLD)} greet and are right", knows >= len(WORLD) - 2)
    return wrong


if __name__ == "__main__":
    sys.exit(main(__doc__, prove))
