"""When a run has learned what it can: patience, min_delta, mode, and which weights were best."""

import math
from typing import Final, Literal

import msgspec

from lmaas.errors import InvalidInput
from lmaas.recipe import EarlyStopping

FALLING = ("loss", "perplexity", "rmse", "mae", "log_loss", "wer", "cer", "eer")


LEAST_WATCHED: Final = 20
"""With fewer held-out samples their loss is chance, and stops nothing by itself."""


def chosen(
    rule: EarlyStopping | Literal["auto"] | None, held: int, patience: int
) -> EarlyStopping | None:
    """The rule of a run with so many `held` out samples; `patience` is that of "auto"."""
    if rule != "auto":
        return rule
    return EarlyStopping(patience=patience) if held >= LEAST_WATCHED else None


def mode_of(rule: EarlyStopping) -> Literal["min", "max"]:
    """Whether less or more of the metric is better; "auto" goes by its name."""
    if rule.mode != "auto":
        return rule.mode
    return "min" if rule.metric in FALLING else "max"


class Watch(msgspec.Struct, kw_only=True):
    """The evaluations so far: the best one, and how many came since without a gain."""

    best: float | None = None
    best_step: int = 0
    waited: int = 0

    def seen(self, metrics: dict[str, float], step: int, rule: EarlyStopping) -> bool:
        """Take in an evaluation; whether it is the best so far.

        A gain must be larger than `min_delta`. A value that is no number is never a gain. Raises
        InvalidInput when there is no such metric.
        """
        if rule.metric not in metrics:
            raise InvalidInput(
                f"early_stopping watches {rule.metric!r}; evaluated are "
                f"{', '.join(sorted(metrics))}.",
                param="early_stopping.metric",
            )
        value = metrics[rule.metric]
        sign = 1 if mode_of(rule) == "max" else -1
        better = self.best is None or sign * (value - self.best) > rule.min_delta
        if better and not math.isnan(value):
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    def over(self, rule: EarlyStopping) -> bool:
        """Whether patience has run out."""
        return self.waited >= rule.patience
