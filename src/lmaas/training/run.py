"""A training run from a recipe to a package: resolve, open the data, train, package.

Knows the parts and their order; what is learned is a problem's matter, how a learner's, when the
loop's. May be called again in the same folder: it goes on from the newest checkpoint there.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from lmaas import lean_imports, tasks
from lmaas.errors import CorruptBlob, InvalidInput
from lmaas.job import CURVES_FILE, METRICS_FILE, RESULT_FOLDER, RUN_FILE, JobEvent
from lmaas.recipe import ModelChoice, Recipe
from lmaas.runtime import cpu
from lmaas.training import (
    card,
    cautions,
    checkpoint,
    curves,
    distributed,
    early_stopping,
    learners,
    loop,
    memory,
    problems,
)
from lmaas.training.base import Boosting, Comparing, Counted, Facts, Group, Learner, Problem
from lmaas.training.group import ALONE
from lmaas.training.problems.frameworks import check, framework_of
from lmaas.training.problems.splits import noted, overlap_warnings

TARGET_STEPS = 1500
"""So many steps does a network learn from nothing, where the epochs are left open."""
FEWEST_EPOCHS, MOST_EPOCHS = 3, 30
FINE_TUNE_EPOCHS = 3
PATIENCE = 4
"""So many evaluations without a gain end a run, where that is left open."""
LEAST_BATCH, MOST_BATCH = 8, 64
LANGUAGE_BATCH = 8
BATCHES_AN_EPOCH = 50

Tell = Callable[[JobEvent], None]


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run began with: a later attempt must find the same."""

    recipe: Recipe
    data_sha256: str | None


def run(
    recipe: Recipe,
    folder: Path,
    job_id: str | None,
    tell: Tell,
    *,
    base: Path | None = None,
    memory_bytes: int | None = None,
) -> bool:
    """Train what `recipe` says and write the package into `folder`/result.

    `base` is the folder of the model that is trained on. True: the package is complete; False: a
    checkpoint is written because a pause was asked for. Raises InvalidInput for a recipe or data
    that do not do, DoesNotFit for a model that cannot be trained in `memory_bytes`, Cancelled when
    that was asked for.
    """
    _share_cores(recipe.distribution.workers)
    framework = framework_of(recipe, base)
    check(recipe, base)
    if framework in learners.LEARNERS:
        learners.get(framework)
    recipe = msgspec.structs.replace(recipe, framework=framework)
    if base is None:
        memory.check(recipe, problems.least_parameters(recipe), memory_bytes)
    problem = problems.open(recipe, folder, base)
    recipe = resolve(recipe, problem)
    facts = problem.facts()
    _same_as_before(folder, recipe, facts)
    _tell(tell, "resolved", "The recipe, with every auto resolved.", recipe=recipe)
    sizes = {split: problem.size(split) for split in ("train", "validation", "test")}
    told = ", ".join(f"{count} {split}" for split, count in sizes.items() if count)
    _tell(tell, "message", f"Samples: {told}.", **facts)
    for text in _chosen(facts):
        _tell(tell, "message", text)
    for warning in (*overlap_warnings(facts), *noted(facts)):
        tell(warning)
    facts["warnings"] = cautions.of_data(recipe, facts)
    _warn(tell, facts["warnings"])
    if isinstance(problem, Counted) and (count := problem.num_parameters()):
        _tell(tell, "message", f"Memory: {memory.check(recipe, count, memory_bytes)}")
    command = [sys.executable, "-P", "-m", "lmaas.training.run", str(folder), str(base or "")]
    with _group(recipe.distribution.workers, command) as group:
        outcome = _train(problem, recipe, folder, tell, group)
    if outcome.paused:
        return False
    if outcome.stopped_early:
        text = f"Stopped early after step {outcome.steps}."
        if outcome.best_step is not None:
            text += f" The model has the weights of step {outcome.best_step}."
        _tell(tell, "message", text)
    if isinstance(outcome.learner, Comparing):
        facts["compared"] = outcome.learner.verdict()
        _tell(tell, "message", facts["compared"])
    more = cautions.of_result(facts, outcome.metrics)
    _warn(tell, more)
    facts["warnings"] += more
    measured = {**outcome.metrics, "warnings": facts["warnings"]}
    _tell(tell, "message", _scores(outcome.metrics), measured=measured)
    _tell(tell, "message", "Packaging the model.", metrics=outcome.metrics)
    known = Facts(recipe=recipe, metrics=outcome.metrics, data=facts, job=job_id)
    package = folder / RESULT_FOLDER
    problem.package(outcome.learner.model, package, known)
    if missing := curves.write(folder):
        _tell(tell, "message", missing)
    for name in (METRICS_FILE, CURVES_FILE):
        if (folder / name).exists():
            shutil.copyfile(folder / name, package / name)
    card.write(package, known)
    return True


def export(recipe: Recipe, folder: Path, job_id: str, *, base: Path | None) -> None:
    """Write the package of the one checkpoint in `folder` into `folder`/result, untrained.

    `recipe` is resolved, `base` as for `run`. Raises CorruptBlob for a damaged checkpoint,
    InvalidInput when the data are not what they were.
    """
    assert recipe.framework != "auto"
    if checkpoint.newest(folder) is None:
        raise CorruptBlob("The checkpoint is damaged.", hint="Call another one of this job.")
    problem = problems.open(recipe, folder, base)
    facts = problem.facts()
    _same_as_before(folder, recipe, facts)
    learner = _learner(problem, recipe, ALONE)
    outcome = loop.restored(problem, learner, recipe, folder)
    known = Facts(recipe=recipe, metrics=outcome.metrics, data=facts, job=job_id)
    package = folder / RESULT_FOLDER
    problem.package(outcome.learner.model, package, known)
    card.write(package, known)


def follow(folder: Path, base: Path | None) -> None:
    """Be one of the other workers of the run that has begun in `folder`."""
    recipe = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Begun).recipe
    with distributed.join() as group:
        problem = problems.open(recipe, folder, base)
        _train(problem, recipe, folder, lambda _: None, group)


def _train(
    problem: Problem, recipe: Recipe, folder: Path, tell: Tell, group: Group
) -> loop.Outcome:
    learner = _learner(problem, recipe, group)
    return loop.train(problem, learner, recipe, folder, tell, group)


def _learner(problem: Problem, recipe: Recipe, group: Group) -> Learner:
    assert recipe.framework != "auto"
    model = problem.build(recipe.framework)
    if isinstance(problem, Boosting):
        return problem.learner(model, recipe)
    return learners.get(recipe.framework)(model, problem.loss, recipe, group)


@contextlib.contextmanager
def _group(workers: int, command: list[str]) -> Iterator[Group]:
    if workers == 1:
        yield ALONE
        return
    with distributed.lead(workers, command) as group:
        yield group


def _share_cores(workers: int) -> None:
    """Let each worker's libraries use its share; they read this when they are loaded."""
    if workers > 1:
        share = str(cpu.threads(workers))
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            os.environ.setdefault(name, share)


def resolve(recipe: Recipe, problem: Problem) -> Recipe:
    """The recipe with every "auto" replaced, from the data's size and what is trained."""
    if isinstance(problem, Boosting):
        recipe = problem.resolved(recipe)
    rows = problem.size("train")
    tuned, speaks = recipe.model.base is not None, tasks.spec(recipe.task).generates
    batch = recipe.batch_size
    if batch == "auto":
        batch = LANGUAGE_BATCH
        if not speaks:
            batch = _power_of_two(rows // BATCHES_AN_EPOCH, LEAST_BATCH, MOST_BATCH)
    per_epoch = max(1, -(-rows // batch))
    epochs = recipe.epochs
    if epochs == "auto":
        wanted = FINE_TUNE_EPOCHS if tuned else -(-TARGET_STEPS // per_epoch)
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, wanted))
    optimizer = recipe.optimizer
    if optimizer.learning_rate == "auto":
        rate = _learning_rate(recipe, tuned=tuned)
        optimizer = msgspec.structs.replace(optimizer, learning_rate=rate)
    # A copy of a language model's weights is as large as it is.
    held = 0 if speaks else problem.size("validation")
    stopping = early_stopping.chosen(recipe.early_stopping, held, PATIENCE)
    if stopping is not None:
        stopping = msgspec.structs.replace(stopping, mode=early_stopping.mode_of(stopping))
    every = recipe.checkpoints.every_steps
    looks = recipe.evaluation.every_steps
    chosen = getattr(problem, "model", None)
    return msgspec.structs.replace(
        recipe,
        batch_size=batch,
        epochs=epochs,
        optimizer=optimizer,
        early_stopping=stopping,
        model=chosen if isinstance(chosen, ModelChoice) else recipe.model,
        checkpoints=msgspec.structs.replace(
            recipe.checkpoints, every_steps=per_epoch if every == "auto" else every
        ),
        evaluation=msgspec.structs.replace(
            recipe.evaluation, every_steps=per_epoch if looks == "auto" else looks
        ),
    )


def _learning_rate(recipe: Recipe, *, tuned: bool) -> float:
    """Usual first choices; an adapter's few weights bear larger steps than a whole model's."""
    if recipe.method.type == "dpo":
        return 5e-6 if recipe.adapter is None else 5e-5
    if recipe.adapter is not None:
        return 2e-4
    if recipe.optimizer.name == "sgd":
        return 0.01 if tuned else 0.05
    return 5e-5 if tuned else 1e-3


def _power_of_two(value: int, least: int, most: int) -> int:
    return min(most, max(least, 1 << max(0, value).bit_length() - 1 if value > 0 else least))


def _same_as_before(folder: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Refuse to go on with other data than the run began with."""
    now = Begun(recipe=recipe, data_sha256=facts.get("sha256"))
    path = folder / RUN_FILE
    if not path.exists():
        written = path.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(now))
        written.replace(path)
        return
    before = msgspec.json.decode(path.read_bytes(), type=Begun)
    if before.data_sha256 != now.data_sha256:
        raise InvalidInput(
            "The data is not what it was when this run began "
            f"(sha256 {now.data_sha256}, was {before.data_sha256}).",
            hint="Put the old data back, or start a new run.",
            param="data",
        )


def _chosen(facts: dict[str, Any]) -> list[str]:
    """What a table's columns were taken for, in words."""
    left_out = "; ".join(f"{name!r}: {why}" for name, why in facts.get("left_out", {}).items())
    return [
        *([facts["target"]] if "target" in facts else []),
        *facts.get("read", ()),
        *([f"Left out, and ignored when the model is asked: {left_out}."] if left_out else []),
    ]


def _scores(metrics: dict[str, float]) -> str:
    told = []
    for prefix, split in cautions.SPLITS.items():
        own = {n.partition("_")[2]: v for n, v in metrics.items() if n.startswith(f"{prefix}_")}
        if own:
            told.append(f"{split}: {', '.join(f'{n} {v:.4g}' for n, v in own.items())}")
    return "; ".join(told).capitalize() or "Nothing was held out to measure the model on."


def _warn(tell: Tell, texts: list[str]) -> None:
    for text in texts:
        tell(JobEvent(type="message", level="warn", message=text, created_at=time.time()))


def _tell(tell: Tell, kind: Any, text: str, **data: Any) -> None:
    plain = {name: msgspec.to_builtins(value) for name, value in data.items()}
    tell(JobEvent(type=kind, message=text, created_at=time.time(), data=plain))


if __name__ == "__main__":
    lean_imports.install()
    follow(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
