"""What tests of problems share: plain training, a verified package, and its answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas import frameworks, tasks
from lmaas.codecs.limits import Limits
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.runtime import verify
from lmaas.training.base import Facts, Problem, Split
from lmaas.types import Manifest, Payload

FRAMEWORKS: tuple[TrainingFramework, ...] = ("pytorch", "keras", "tensorflow")


def everything(problem: Problem, split: Split) -> Any:
    return problem.feed(split, np.arange(problem.size(split)), epoch=None)


def learn(problem: Problem, framework: TrainingFramework, model: Any, epochs: int) -> float:
    """Train with the framework's own verb; accuracy on the held-out part."""
    feed = everything(problem, "train")
    verbs = frameworks.get(framework)
    (x,) = feed.inputs.values()
    labels = feed.targets["labels"]
    verbs.fit(model, x, labels, epochs=epochs, batch_size=32, learning_rate=3e-3, seed=0)
    held, meter = everything(problem, "validation"), problem.meter()
    meter.add(verbs.run(model, held.inputs), held)
    return meter.result()["accuracy"]


def packaged(problem: Problem, model: Any, folder: Path, told: Recipe) -> Manifest:
    """The verified manifest of the problem's package."""
    facts = Facts(recipe=told, metrics={"accuracy": 0.5}, data=problem.facts(), job="job-1")
    problem.package(model, folder, facts)
    reply = verify.run(msgspec.json.encode(verify.Request(folder=str(folder))))
    verified = msgspec.json.decode(reply, type=verify.Reply)
    assert verified.parity.passed("f32")
    return verified.manifest


def served(manifest: Manifest, folder: Path, payload: Payload) -> Any:
    """What the served model answers."""
    from lmaas.runtime import ov

    task = tasks.get(manifest.task).bind(folder / "compiled")
    batch = task.read(payload, manifest.signature, Limits())
    compiled = ov.load().Core().compile_model(folder / "compiled" / "model.xml", "CPU")
    outputs = compiled(batch.arrays)
    rows = {spec.name: np.asarray(outputs[spec.name]) for spec in manifest.signature.outputs}
    return json.loads(task.write(rows, batch, manifest.signature, "digits:1").body)
