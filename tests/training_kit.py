"""What tests of problems share: the one training loop, a verified package, and its answers."""

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.job import JobEvent
from lmaas.recipe import Recipe, TrainingFramework, recipe_of
from lmaas.runtime import verify
from lmaas.training import learners, loop
from lmaas.training import run as training
from lmaas.training.base import Facts, Problem, Split
from lmaas.training.group import ALONE
from lmaas.types import Manifest, Payload

FRAMEWORKS: tuple[TrainingFramework, ...] = ("pytorch", "keras", "tensorflow")


def everything(problem: Problem, split: Split) -> Any:
    return problem.feed(split, np.arange(problem.size(split)), epoch=None)


def learn(
    problem: Problem,
    framework: TrainingFramework,
    model: Any,
    epochs: int,
    *,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
) -> float:
    """Train `model` through the one loop; accuracy on the held-out part."""
    told = recipe_of(
        {
            "name": "learned",
            "task": "image-classification",
            "framework": framework,
            "data": {"train": "what the problem has"},
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": {"learning_rate": learning_rate},
            "early_stopping": None,
        }
    )
    learner = learners.get(framework)(model, problem.loss, told, ALONE)
    with tempfile.TemporaryDirectory() as folder:
        outcome = loop.train(problem, learner, told, Path(folder), lambda _: None)
    assert outcome.learner.model is model
    return outcome.metrics["valid_accuracy"]


def run(given: Recipe, folder: Path, events: list[JobEvent], *, base: Path | None = None) -> bool:
    """Run a recipe in `folder` as a job does; whether it came to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    return training.run(given, folder, "job-1", events.append, base=base)


def packaged(problem: Problem, model: Any, folder: Path, told: Recipe) -> Manifest:
    """The verified manifest of the problem's package."""
    facts = Facts(recipe=told, metrics={"accuracy": 0.5}, data=problem.facts(), job="job-1")
    problem.package(model, folder, facts)
    return verified(folder)


def verified(folder: Path) -> Manifest:
    """The manifest of a package whose answers are its source's."""
    reply = verify.run(msgspec.json.encode(verify.VerifyRequest(folder=str(folder))))
    found = msgspec.json.decode(reply, type=verify.Reply)
    assert found.parity.passed("f32")
    return found.manifest


def served(manifest: Manifest, folder: Path, payload: Payload) -> Any:
    """What the served model answers."""
    from lmaas.runtime import ov

    task = tasks.get(manifest.task).bind(folder / "compiled")
    batch = task.read(payload, manifest.signature, Limits())
    compiled = ov.load().Core().compile_model(folder / "compiled" / "model.xml", "CPU")
    outputs = compiled(batch.arrays)
    rows = {spec.name: np.asarray(outputs[spec.name]) for spec in manifest.signature.outputs}
    return json.loads(task.write(rows, batch, manifest.signature, "digits:1").body)
