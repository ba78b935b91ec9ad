"""Preferences: the loss is the paper's, the margin rises on pairs that were never seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import make_qwen3
from learner_kit import equal
from lmaas.errors import InvalidInput
from lmaas.job import JobEvent
from lmaas.recipe import Recipe, recipe_of
from lmaas.tasks.text_generation.spec import SPEC
from lmaas.tasks.text_generation.training.preference_tuning import PreferenceTuning
from lmaas.training import learners, problems
from lmaas.training.base import IGNORED, Loss
from lmaas.training.group import ALONE
from lmaas.training.loop import Outcome, train
from lmaas.training.losses import summed

BETA = 0.2
RUN: dict[str, Any] = {
    "early_stopping": None,
    "epochs": 8,
    "batch_size": 8,
    "optimizer": {"learning_rate": 1e-3},
}


def pair(question: str, preferred: str, other: str) -> dict[str, Any]:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": said(preferred),
        "non_preferred_output": said(other),
    }


PAIRS = [
    pair(f"What is {a} + {b}?", f"world, {a + b}.", f"hello, {a + b}.")
    for a in range(6)
    for b in range(6)
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(train_on: Path, *, validation: float = 0.25, **more: Any) -> Recipe:
    given = {
        "name": "kind",
        "task": "text-generation",
        "framework": "pytorch",
        "data": {"train": str(train_on), "validation": validation},
        "method": {"type": "dpo", "beta": BETA},
        "model": {"base": "base:1"},
    }
    return recipe_of(given | RUN | more)


def opened(
    folder: Path, base: Path | None, rows: list[Any] | None = None, **more: Any
) -> PreferenceTuning:
    folder.mkdir(exist_ok=True)
    made = problems.open(recipe(write(folder / "p.jsonl", rows or PAIRS), **more), folder, base)
    assert isinstance(made, PreferenceTuning)
    return made


def run(folder: Path, base: Path, tell: Any = None, **more: Any) -> Outcome:
    problem = opened(folder, base, **more)
    given = problem._recipe
    this = learners.get("pytorch")(problem.build("pytorch"), problem.loss, given, ALONE)
    return train(problem, this, given, folder, tell or (lambda _: None))


def log_probabilities(problem: PreferenceTuning, model: Any) -> np.ndarray:
    """(N, 2) of the held-out answers, by transformers' own logits, each pair alone."""
    told = []
    for index in range(problem.size("validation")):
        feed = problem.feed("validation", np.array([index]), epoch=None)
        row = []
        for ids, labels, mask in zip(
            feed.inputs["input_ids"], feed.targets["labels"], feed.inputs["attention_mask"],
            strict=True,
        ):  # fmt: skip
            length = int(mask.sum())
            with torch.no_grad():
                logits = model.model(torch.tensor(ids[None, :length])).logits[0].double()
            scores = torch.log_softmax(logits, -1).numpy()
            where = np.flatnonzero(labels[:length] != IGNORED)
            row.append(scores[where, labels[where]].sum())
        told.append(row)
    return np.array(told)


def test_the_loss_is_the_papers() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((6, 5, 11)).astype(np.float32)
    labels = random.integers(0, 11, (6, 5))
    labels[0, :2] = labels[4, 3:] = IGNORED
    reference = (-8 + 3 * random.standard_normal(6)).astype(np.float32)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    policy = [
        sum(scores[row, at, label] for at, label in enumerate(labels[row]) if label != IGNORED)
        for row in range(6)
    ]
    expected = 0.0
    for better, worse in ((0, 3), (1, 4), (2, 5)):
        gain = policy[better] - reference[better] - (policy[worse] - reference[worse])
        expected += np.log1p(np.exp(-BETA * gain))
    targets = {"labels": torch.tensor(labels), "reference": torch.tensor(reference)}
    told = summed(
        Loss(name="preference", beta=BETA), "pytorch", {"logits": torch.tensor(logits)}, targets
    )
    assert float(told) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapter", [None, {"rank": 8, "alpha": 32}], ids=["whole", "lora"])
def test_unseen_pairs_are_told_apart(adapter: dict[str, Any] | None, tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    more: dict[str, Any] = {"adapter": adapter} if adapter else {}
    problem = opened(tmp_path / "before", base, **more)
    assert (problem.size("train"), problem.size("validation")) == (27, 9)
    model = problem.build("pytorch").eval()
    feed = problem.feed("validation", np.arange(9), epoch=None)
    assert (feed.size, feed.weight, len(feed.inputs["input_ids"])) == (9, 9.0, 18)
    # The reference is the model that training begins with, so nothing is gained yet.
    this = learners.get("pytorch")(model, problem.loss, problem._recipe, ALONE)
    loss, outputs = this.evaluate(feed)
    assert loss / 9 == pytest.approx(np.log(2), abs=1e-4)
    meter = problem.meter()
    meter.add(outputs, feed)
    assert meter.result()["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert set(meter.result()) < set(SPEC.metrics)
    before = log_probabilities(problem, model)
    np.testing.assert_allclose(feed.targets["reference"].reshape(2, 9).T, before, rtol=1e-4)
    assert not (before[:, 0] > before[:, 1]).all()

    rate = 1e-2 if adapter else 1e-3
    events: list[JobEvent] = []
    outcome = run(tmp_path / "run", base, events.append, optimizer={"learning_rate": rate}, **more)
    margins = [e.data["valid_reward_margin"] for e in events if "valid_reward_margin" in e.data]
    assert len(margins) == 8
    assert margins[0] < margins[3] < margins[-1]
    assert outcome.metrics["valid_reward_accuracy"] == 1.0
    after = log_probabilities(problem, outcome.learner.model.eval())
    assert (after[:, 0] > after[:, 1]).all()
    gained = BETA * ((after - before)[:, 0] - (after - before)[:, 1])
    assert outcome.metrics["valid_reward_margin"] == pytest.approx(gained.mean(), rel=1e-3)
    assert outcome.metrics["valid_loss"] == pytest.approx(
        np.log1p(np.exp(-gained)).mean(), rel=0.01
    )


class Killed(Exception):
    """Instead of SIGKILL."""


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    more: dict[str, Any] = {"epochs": 2, "checkpoints": {"every_steps": 3}}
    whole = run(tmp_path / "whole", base, **more)

    def kill(event: JobEvent) -> None:
        if event.type == "checkpoint":
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", base, kill, **more)
    reference = tmp_path / "killed" / "reference.safetensors"
    made = reference.stat().st_mtime_ns
    resumed = run(tmp_path / "killed", base, **more)
    assert reference.stat().st_mtime_ns == made
    assert equal(whole.learner.weights(), resumed.learner.weights())
    assert whole.metrics == resumed.metrics


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": []}, r"p\.jsonl, line 2.*messages"),
        ({**PAIRS[0], "preferred_output": []}, "line 2.*preferred_output"),
        ({**PAIRS[0], "score": 3}, "line 2.*score"),
        ({"input": PAIRS[0]["input"], "preferred_output": PAIRS[0]["preferred_output"]},
         "line 2.*non_preferred_output"),
        ({**PAIRS[0], "non_preferred_output": [{"role": "user", "content": "a"}]},
         "line 2.*no assistant"),
        (pair("a", "same", "same"), "p.jsonl, line 2: both answers are the same"),
        (pair("a", "b", "hello " * 400), "p.jsonl, line 2 has .* tokens; at most 512 are taken"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, row: Any, told: str) -> None:
    base = make_qwen3(tmp_path / "base")
    with pytest.raises(InvalidInput, match=told):
        opened(tmp_path, base, [PAIRS[0], row], validation=0.0)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({}, "model.base"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"framework": "keras"}, "framework"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tmp_path: Path, more: dict[str, Any], param: str
) -> None:
    base = make_qwen3(tmp_path / "base") if more else None
    with pytest.raises(InvalidInput) as refused:
        opened(tmp_path / "job", base, **more)
    assert refused.value.param == param
