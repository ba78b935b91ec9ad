"""The training loop, one for all frameworks: order of samples, schedule, evaluation, stopping.

All that is random in it follows from the recipe's seed, the epoch and the sample's index, so that a
run which is taken up again goes on as if it had never stopped.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import FULL, Cancelled, InvalidInput
from lmaas.job import CONTROL_FILE, JobEvent
from lmaas.recipe import Recipe
from lmaas.training import checkpoint, learners
from lmaas.training.base import Diverged, Feed, Group, Learner, Lengthy, Problem, Split
from lmaas.training.checkpoint import State
from lmaas.training.group import ALONE
from lmaas.training.ordering import order_of
from lmaas.training.pruning import Pruner
from lmaas.training.schedule import factor
from lmaas.training.shrinking import Shrinker

TELL_S: Final = 0.5
CONTROL_S: Final = 0.2
GOES_ON, PAUSE, CANCEL = 0.0, 1.0, 2.0
WORDS: Final = {"pause": PAUSE, "cancel": CANCEL}

Tell = Callable[[JobEvent], None]


class Outcome(msgspec.Struct, kw_only=True):
    """How a run ended: `paused` with a checkpoint, or with the model's `metrics` after `steps`.

    `stopped_early` says that patience ran out; `best_step` is whose weights the model has.
    `learner` holds the model: another than the run began with, where its layers were made smaller.
    """

    learner: Any
    paused: bool = False
    steps: int = 0
    stopped_early: bool = False
    best_step: int | None = None
    metrics: dict[str, float] = {}


def train(
    problem: Problem,
    learner: Learner,
    recipe: Recipe,
    folder: Path,
    tell: Tell,
    group: Group = ALONE,
) -> Outcome:
    """Run a resolved recipe from its newest checkpoint in `folder`, or from the beginning.

    Of a group, every member runs this; the first one writes and tells. Raises InvalidInput when
    training diverges, Cancelled when the control file says so.
    """
    return _Run(problem, learner, recipe, folder, tell, group).run()


def restored(problem: Problem, learner: Learner, recipe: Recipe, folder: Path) -> Outcome:
    """The newest checkpoint in `folder` as it was then, not its best weights, measured anew."""
    run = _Run(problem, learner, recipe, folder, lambda _: None, ALONE)
    run._resume()
    return Outcome(learner=run.learner, steps=run.state.step, metrics=run._final())


class _Run:
    def __init__(
        self,
        problem: Problem,
        learner: Learner,
        recipe: Recipe,
        folder: Path,
        tell: Tell,
        group: Group,
    ) -> None:
        assert recipe.batch_size != "auto"
        assert recipe.epochs != "auto"
        assert recipe.optimizer.learning_rate != "auto"
        assert recipe.early_stopping != "auto"
        self.problem, self.learner, self.recipe = problem, learner, recipe
        self.folder, self.group = folder, group
        self.leads = group.rank == 0
        self._tell = tell
        self.rows = problem.size("train")
        self.batch = min(recipe.batch_size, self.rows)
        self.per_epoch = -(-self.rows // self.batch)
        self.total = recipe.steps or recipe.epochs * self.per_epoch
        self.rule = recipe.early_stopping
        self.peak = recipe.optimizer.learning_rate * recipe.optimizer.learning_rate_multiplier
        every = recipe.evaluation.every_steps
        self.evaluate_every = self.per_epoch if every == "auto" else every
        every = recipe.checkpoints.every_steps
        self.save_every = self.per_epoch if every == "auto" else every
        self.pruner = self._pruner()
        self.state = State()
        self.best: dict[str, np.ndarray] | None = None
        self.saved_step = 0
        self._looked = 0.0
        self._told = 0.0
        self._samples = 0
        self._samples_per_s = 0.0
        self._epoch = -1
        self._began = 0
        self._last = (0, 0.0, 0.0)
        self._order = np.arange(0)
        self._lengths = problem.lengths() if isinstance(problem, Lengthy) else None
        for name, wanted in (
            ("early_stopping", recipe.early_stopping is not None),
            ("schedule", recipe.schedule.name == "plateau"),
        ):
            if wanted and not problem.size("validation"):
                raise InvalidInput(
                    f"{name} needs held-out samples to look at.",
                    hint="Give data.validation.",
                    param=name,
                )

    def _pruner(self) -> Pruner | Shrinker | None:
        rule, framework = self.recipe.pruning, self.recipe.framework
        if rule is None or rule.method != "structured":
            return None if rule is None else Pruner(rule, self.total)
        assert framework != "auto"
        make, problem = learners.get(framework), self.problem

        def learner() -> Learner:
            return make(problem.build(framework), problem.loss, self.recipe, self.group)

        return Shrinker(rule, self.total, problem, learner)

    def run(self) -> Outcome:
        self._resume()
        self._began, self._told = self.state.step, time.monotonic()
        stopped = False
        while self.state.step < self.total and not stopped:
            word = self._step()
            step = self.state.step
            if step % self.evaluate_every == 0 or step == self.total:
                stopped = self._look()
            if word == PAUSE:
                self._save()
                return Outcome(learner=self.learner, paused=True, steps=step)
            if word == CANCEL:
                raise Cancelled("The job was cancelled.")
            if step % self.save_every == 0 and step < self.total and not stopped:
                self._save()
        rule = self.rule
        best_step = None
        if rule is not None and rule.restore_best and self.best is not None:
            self.learner.set_weights(self.best)
            best_step = self.state.watch.best_step
        return Outcome(
            learner=self.learner,
            steps=self.state.step,
            stopped_early=stopped and self.state.step < self.total,
            best_step=best_step,
            metrics=self._final() if self.leads else {},
        )

    def _resume(self) -> None:
        found = checkpoint.newest(self.folder)
        if found is None:
            return
        if self.pruner is not None:
            self.learner = self.pruner.rebuilt(self.learner, checkpoint.state_of(found).sizes)
        self.state, self.best = checkpoint.read(found, self.learner)
        self.saved_step = self.state.step
        if self.pruner is not None:
            self.pruner.resume(self.learner, self.state.step)
        self.say(f"Goes on from step {self.state.step} of {self.total}.")

    def _step(self) -> float:
        """One step; what the control file says."""
        step = self.state.step
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = order_of(
                self.rows, self.recipe.seed, epoch, self.per_epoch, self._lengths
            )
        # Equal but for one sample: a rest of one would be no batch to normalise over.
        first, after = (self.rows * i // self.per_epoch for i in (at, at + 1))
        rows = self._order[first:after]
        count = len(rows)
        if self.group.workers > 1:
            rows = np.array_split(rows, self.group.workers)[self.group.rank]
        parts = [rows]
        if self.recipe.accumulate > 1:
            parts = np.array_split(rows, self.recipe.accumulate)
        feeds = [self.problem.feed("train", part, epoch=epoch) for part in parts if len(part)]
        weight, word = sum(feed.weight for feed in feeds), self._control()
        if self.group.workers > 1:
            told = np.array([weight, word])
            self.group.sum(told)
            weight, word = float(told[0]), float(told[1])
        rate = self.peak * factor(self.recipe.schedule, step, self.total)
        rate *= self.state.plateau.factor
        try:
            loss = self.learner.step(feeds, learning_rate=rate, weight=weight)
        except Diverged as error:
            raise InvalidInput(
                f"{str(error).rstrip(chr(46))} at step {step + 1} (batch {at + 1} of epoch "
                f"{epoch + 1}) at learning rate {rate:g}.",
                hint="Lower the learning rate, set clip_norm, or look for NaN in the data.",
                param="optimizer.learning_rate",
            ) from None
        self.state.step = step + 1
        if self.pruner is not None:
            self._prune(self.pruner)
        self._samples += count
        now = time.monotonic()
        if now - self._told >= TELL_S or step == self._began:
            self._metrics(now, epoch, loss / weight, rate, {})
        self._last = epoch, loss / weight, rate
        return word

    def _prune(self, pruner: Pruner | Shrinker) -> None:
        before, self.learner = self.learner, pruner.update(self.learner, self.state.step)
        self.state.sizes = pruner.sizes
        if self.learner is not before:
            told = ", ".join(f"{name} {size}" for name, size in self.state.sizes.items())
            self.say(f"Layers are smaller after step {self.state.step}: {told}.")

    def _control(self) -> float:
        """What is asked of the run, looked up now and then."""
        now = time.monotonic()
        if not self.leads or now - self._looked < CONTROL_S:
            return GOES_ON
        self._looked = now
        try:
            return WORDS.get((self.folder / CONTROL_FILE).read_text().strip(), GOES_ON)
        except FileNotFoundError:
            return GOES_ON

    def _look(self) -> bool:
        """Evaluate on the held-out samples; whether the run is to stop.

        The first worker looks and decides; the others are told.
        """
        if not self.problem.size("validation"):
            return False
        decided = np.zeros(2)
        if self.leads:
            decided[:] = self._evaluated(), self.state.plateau.factor
        if self.group.workers > 1:
            self.group.sum(decided)
        self.state.plateau.factor = float(decided[1])
        return bool(decided[0])

    def _evaluated(self) -> bool:
        metrics = self.evaluate("validation")
        step = self.state.step
        self.state.evaluations.append({"step": step, **metrics})
        self._metrics(
            time.monotonic(), *self._last, {f"valid_{name}": v for name, v in metrics.items()}
        )
        if self.recipe.schedule.name == "plateau":
            self.state.plateau.seen(metrics["loss"], self.recipe.schedule)
        rule = self.rule
        # Weights from before the last of them is taken out are not those that were asked for.
        if rule is None or (self.pruner is not None and not self.pruner.done(step)):
            return False
        if self.state.watch.seen(metrics, step, rule) and rule.restore_best:
            self.best = self.learner.weights()
        return self.state.watch.over(rule)

    def evaluate(self, split: Split) -> dict[str, float]:
        """Mean loss and the task's metrics over a split."""
        meter, total, weight = self.problem.meter(), 0.0, 0.0
        rows = self.problem.size(split)
        for start in range(0, rows, self.batch):
            part = np.arange(start, min(rows, start + self.batch))
            feed: Feed = self.problem.feed(split, part, epoch=None)
            loss, outputs = self.learner.evaluate(feed)
            meter.add(outputs, feed)
            total, weight = total + loss, weight + feed.weight
        loss = total / weight if weight else math.nan
        return {"loss": loss, **meter.result()}

    def _final(self) -> dict[str, float]:
        splits: dict[Split, str] = {"validation": "valid", "test": "test"}
        return {
            f"{prefix}_{name}": value
            for split, prefix in splits.items()
            if self.problem.size(split)
            for name, value in self.evaluate(split).items()
        }

    def _save(self) -> None:
        step = self.state.step
        if not self.leads or step == self.saved_step:
            return
        try:
            made = checkpoint.write(
                self.folder, self.learner, self.state, self.best, keep=self.recipe.checkpoints.keep
            )
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.say(
                f"No space for the checkpoint of step {step}: {error.strerror}. "
                f"The one of step {self.saved_step} stays.",
                level="warn",
            )
            return
        self.saved_step = step
        last = self.state.evaluations[-1] if self.state.evaluations else {}
        data = {"step": step, "folder": str(made.relative_to(self.folder)), "metrics": last}
        self.say(f"Checkpoint of step {step}.", type="checkpoint", data=data)

    def _metrics(
        self, now: float, epoch: int, loss: float, rate: float, more: dict[str, float]
    ) -> None:
        if self._samples:
            self._samples_per_s = self._samples / max(1e-9, now - self._told)
        data = {
            "step": self.state.step,
            "total_steps": self.total,
            "epoch": epoch + 1,
            "train_loss": loss,
            "learning_rate": rate,
            "samples_per_s": self._samples_per_s,
            **more,
        }
        self._told, self._samples = now, 0
        told = ", ".join(f"{n} {v:.4g}" for n, v in (("loss", loss), *more.items()))
        self.say(f"Step {self.state.step}/{self.total}: {told}", type="metrics", data=data)

    def say(
        self,
        message: str,
        *,
        type: Any = "message",
        level: Any = "info",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Tell an event, if this is the member that does."""
        if self.leads:
            event = JobEvent(
                type=type, level=level, message=message, created_at=time.time(), data=data or {}
            )
            self._tell(event)
