"""Learning rates in closed form: a pure function of the step, the same in every framework.

Sources: cosine with restarts, Loshchilov and Hutter 2017; inverse square root, Vaswani et al. 2017;
one-cycle, Smith and Topin 2018 (cosine form, first momentum fixed).
"""

import math

import msgspec

from lmaas.recipe import Schedule

ONE_CYCLE_START = 1 / 25


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Steps of warm-up: `warmup` below 1 is a share of the run."""
    warmup = schedule.warmup
    return round(warmup * total_steps) if warmup < 1 else min(total_steps, round(warmup))


def factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """The share of the peak learning rate at `step` (0 to total_steps - 1).

    During warm-up it rises in a line, reaching 1 at the step after it. "plateau" is 1 after
    warm-up: `Plateau` multiplies it.
    """
    warm = warmup_steps(schedule, total_steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    after, span = step - warm, max(1, total_steps - warm)
    at = min(1.0, after / span)
    end = schedule.end
    match schedule.name:
        case "constant" | "plateau":
            return 1.0
        case "step":
            return float(schedule.gamma ** (after // schedule.every_steps))
        case "exponential":
            return float(schedule.gamma ** (after / schedule.every_steps))
        case "polynomial":
            return float(end + (1 - end) * (1 - at) ** schedule.power)
        case "cosine":
            part = 1.0 if at >= 1 else at * schedule.cycles % 1
            return end + (1 - end) * (1 + math.cos(math.pi * part)) / 2
        case "inverse-sqrt":
            base = max(1, warm)
            return math.sqrt(base / (base + after))
        case "one-cycle":
            if at < schedule.rise:
                return _cosine(ONE_CYCLE_START, 1.0, at / schedule.rise)
            return _cosine(1.0, end, (at - schedule.rise) / (1 - schedule.rise))


def _cosine(start: float, end: float, at: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * at)) / 2


class Plateau(msgspec.Struct, kw_only=True):
    """What "plateau" has seen: a factor that falls when the evaluated loss no longer does."""

    factor: float = 1.0
    best: float | None = None
    waited: int = 0

    def seen(self, loss: float, schedule: Schedule) -> None:
        """Take in an evaluation."""
        if self.best is None or loss < self.best - schedule.min_delta:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= schedule.patience:
            self.factor, self.waited = self.factor * schedule.gamma, 0
