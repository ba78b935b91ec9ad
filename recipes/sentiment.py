"""Sentiment: what people liked, learned from nothing and then from a model that knows it already.

    python recipes/sentiment.py [--quick] [--home DIR]

Reviews are written here by a grammar: an opinion, praised or not ("a hardly clever plot"), beside
things that say nothing. A small encoder learns reviews of films from nothing. Then reviews of
restaurants come, of which only a few are labelled: one model learns those few from nothing, the
other goes on from the films. Held-out reviews are asked for through the stock client of Hugging
Face. Exit code 0 only when the first is right nearly always, when what was learned from films helps
with restaurants, and when the served answers are those of the trained models. Needs
`lmaas[train]`, `huggingface_hub`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from huggingface_hub import InferenceClient

from lmaas.client import Client
from proof import check, main, say, train

PRAISE: Final = (
    "clever", "moving", "fresh", "warm", "honest", "rich", "lively", "tender", "bright", "subtle",
    "generous", "careful",
)  # fmt: skip
BLAME: Final = (
    "dull", "stale", "cold", "careless", "thin", "noisy", "clumsy", "bitter", "lazy", "grim",
    "sloppy", "bland",
)  # fmt: skip
TURNS: Final = ("hardly", "never", "not at all")
PLAIN: Final = ("really", "rather", "quite", "truly", "")
THINGS: Final = {
    "films": ("plot", "cast", "score", "ending", "dialogue", "camera work", "first hour"),
    "restaurants": ("soup", "service", "terrace", "wine list", "dessert", "bread", "menu"),
}
BEGINNINGS: Final = (
    "we went on a {day} and found a {opinion} {thing}.",
    "the {thing} was {opinion}, and I came with {others}.",
    "a {opinion} {thing}, if you ask me. It was {day}.",
    "my friends had told me of the {thing}: {opinion}!",
)
DAYS: Final = ("Monday", "Friday", "rainy day", "holiday", "Sunday evening")
OTHERS: Final = ("two friends", "my parents", "nobody", "a colleague", "the children")
LONGEST: Final = 32
"""Tokens; a longer text would be refused."""
ENCODER: Final[dict[str, Any]] = {
    "architecture": "transformer",
    "options": {"width": 64, "depth": 2, "heads": 4},
}


class Review(NamedTuple):
    """A text and whether it praises."""

    text: str
    label: str


def write_reviews(about: str, count: int, seed: int) -> list[Review]:
    """So many reviews, as often good as bad; a word of doubt turns an opinion round."""
    random = np.random.default_rng(seed)

    def one(of: tuple[str, ...]) -> str:
        return str(of[random.integers(len(of))])

    reviews = []
    for number in range(count):
        good, turned = bool(number % 2), bool(random.random() < 0.3)
        word = one(PRAISE if good != turned else BLAME)
        opinion = f"{one(TURNS if turned else PLAIN)} {word}".strip()
        text = one(BEGINNINGS).format(
            opinion=opinion, thing=one(THINGS[about]), day=one(DAYS), others=one(OTHERS)
        )
        reviews.append(Review(text, "positive" if good else "negative"))
    return reviews


def save(path: Path, reviews: list[Review]) -> str:
    """As JSONL; its path."""
    path.write_text("".join(json.dumps(review._asdict()) + "\n" for review in reviews), "utf-8")
    return str(path)


def learn(client: Client, name: str, learned: str, held: str, **more: Any) -> float:
    """Train; the accuracy on held-out reviews, as the job measured it."""
    train(
        client,
        name=name,
        task="text-classification",
        data={
            "train": learned,
            "validation": 0.1,
            "test": held,
            "options": {"max_length": LONGEST},
        },
        schedule={"name": "cosine", "warmup": 0.1},
        **more,
    )
    return client.model(name).manifest.metrics["test_accuracy"]


def asked(client: Client, name: str, reviews: list[Review]) -> float:
    """The accuracy of what the server answers."""
    stock = InferenceClient(model=f"{client.url}/models/{name}", token=client.key)
    best = [stock.text_classification(review.text)[0].label for review in reviews]
    return float(
        np.mean([told == review.label for told, review in zip(best, reviews, strict=True)])
    )


def prove(client: Client, folder: Path, quick: bool) -> int:
    """Train three models, ask them, and check."""
    films = write_reviews("films", 600 if quick else 2000, 1)
    few = write_reviews("restaurants", 40, 2)
    held = {about: write_reviews(about, 300, 3) for about in THINGS}
    paths = {about: save(folder / f"{about}.jsonl", rows) for about, rows in held.items()}
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "films": (
            save(folder / "learned.jsonl", films),
            {"model": ENCODER, "epochs": 16 if quick else 12, "batch_size": 32},
        ),
        "few-alone": (
            save(folder / "few.jsonl", few),
            {"model": ENCODER, "epochs": 30, "batch_size": 8},
        ),
        "few-after-films": (
            str(folder / "few.jsonl"),
            {
                "model": {"base": "films"},
                "epochs": 10,
                "batch_size": 8,
                "optimizer": {"learning_rate": 3e-4},
            },
        ),
    }
    found, wrong = {}, 0
    for name, (learned, more) in runs.items():
        about = "films" if name == "films" else "restaurants"
        found[name] = measured = learn(client, name, learned, paths[about], **more)
        served = asked(client, name, held[about])
        say(f"  {name:16} accuracy on {about:12} {measured:.3f}, as served {served:.3f}")
        wrong += check(f"{name} answers as trained", abs(served - measured) < 0.01)
    wrong += check("reviews of films are told apart", found["films"] > 0.95)
    wrong += check(
        "what was learned from films helps with restaurants",
        found["few-after-films"] > found["few-alone"] + 0.1,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main(__doc__, prove))
