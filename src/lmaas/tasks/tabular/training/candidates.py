"""The kinds of models that a stack of a table is chosen from: how one of each is fitted.

Each is fitted on some rows and stops where it is best on others. Knows arrays, no problem and no
files. The same rows and seed give the same model.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lmaas.frameworks.lightgbm import text_of
from lmaas.frameworks.stack import Dense, Layer, SubModel, Trees
from lmaas.runtime import cpu
from lmaas.tasks.base import softmax
from lmaas.tasks.tabular.training.dense_net import Net

Kind = Literal["trees", "random-trees", "linear", "net"]
LEAST_ROUNDS, MOST_ROUNDS, ROUND_CELLS = 200, 1500, 200_000_000
"""How many rounds trees have at most: so many cells are gone through, once for each class."""
SLOW, FAST, SLOW_FROM = 0.05, 0.1, 1000
"""Learning rates, and from how many rounds on the slower one has its time."""
DRAWN: Final = 0.15
"""The learning rate of trees with drawn thresholds, which need more of them."""
PATIENCE_ROUNDS: Final = 30
CELLS_A_THREAD: Final = 100_000
"""With fewer cells threads wait for each other longer than they work."""
PENALTIES: Final = (0.3, 3.0, 30.0, 300.0)
"""Of a linear model's squared weights, beside the sum of the losses."""
LINEAR_CELLS: Final = 1_000_000
"""A linear model learns from so many cells at most, counted once for each class."""
NET_STEPS, NET_EPOCHS, NET_LOOKS, NET_PATIENCE = 1500, 60, 24, 5
NET_RATE: Final = 2e-3
LEAST_BATCH, MOST_BATCH = 16, 256


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Samples as both kinds of features, (N, T) with NaN where missing and (N, D), float32.

    `targets` (N,) are class numbers, or values at mean 0 and deviation 1 where `classes` is 0.
    `categorical` are columns of the former.
    """

    trees: np.ndarray
    dense: np.ndarray
    targets: np.ndarray
    classes: int
    categorical: list[int]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of the samples."""
        return msgspec.structs.replace(
            self, trees=self.trees[rows], dense=self.dense[rows], targets=self.targets[rows]
        )


def loss(told: np.ndarray, rows: Rows) -> np.ndarray:
    """Of each sample, (N,): the negative logarithm of its class's probability in `told` (N, C), or
    the square of what the number (N, 1) is off by.
    """
    if rows.classes:
        own = told[np.arange(len(told)), rows.targets]
        return np.asarray(-np.log(np.maximum(own, 1e-7)))
    return np.asarray((told[:, 0] - rows.targets) ** 2)


def answers(part: SubModel, rows: Rows) -> np.ndarray:
    """What a model tells of samples: probabilities (N, C), or numbers (N, 1), float64."""
    scores = part.run(rows.trees if isinstance(part, Trees) else rows.dense)
    return (softmax(scores) if rows.classes else scores).astype(np.float64)


def trees(fit: Rows, held: Rows, seed: int) -> Trees:
    """Boosted trees, as many rounds as are best for `held`."""
    return _boosted(fit, held, seed, {})


def random_trees(fit: Rows, held: Rows, seed: int) -> Trees:
    """Boosted trees whose thresholds are drawn (Geurts et al., 2006), of some columns each."""
    return _boosted(fit, held, seed, {"extra_trees": True, "learning_rate": DRAWN})


def _boosted(fit: Rows, held: Rows, seed: int, more: dict[str, Any]) -> Trees:
    import lightgbm

    cells = fit.trees.size
    each = cells * (fit.classes if fit.classes > 2 else 1)
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, ROUND_CELLS // max(1, each)))
    parameters: dict[str, Any] = {
        **_objective(fit.classes),
        "learning_rate": SLOW if rounds >= SLOW_FROM else FAST,
        "num_leaves": 31 if len(fit) > 2000 else 15,
        "min_data_in_leaf": max(2, min(20, len(fit) // 100)),
        "cat_smooth": 10.0,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.8,
        "num_threads": max(1, min(cpu.threads(), cells // CELLS_A_THREAD)),
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
        **more,
    }
    data = lightgbm.Dataset(
        fit.trees, fit.targets, categorical_feature=fit.categorical, params=parameters
    )
    check = lightgbm.Dataset(held.trees, held.targets, reference=data, params=parameters)
    stop = lightgbm.early_stopping(PATIENCE_ROUNDS, verbose=False)
    booster = lightgbm.train(parameters, data, rounds, valid_sets=[check], callbacks=[stop])
    return Trees(text=text_of(booster, booster.best_iteration or None))


def _objective(classes: int) -> dict[str, Any]:
    if classes == 2:
        return {"objective": "binary", "metric": "binary_logloss"}
    if classes:
        return {"objective": "multiclass", "metric": "multi_logloss", "num_class": classes}
    return {"objective": "regression", "metric": "l2"}


def linear(fit: Rows, held: Rows, seed: int) -> Dense:
    """Logistic or ridge regression with the penalty that is best for `held`."""
    most = max(1000, LINEAR_CELLS // (fit.dense.shape[1] * max(1, fit.classes)))
    if len(fit) > most:
        fit = fit.take(np.random.default_rng([seed, 0x11]).permutation(len(fit))[:most])
    layers = _logistic(fit) if fit.classes else _ridge(fit)
    found = [Dense(layers=[each]) for each in layers]
    return min(found, key=lambda each: float(loss(answers(each, held), held).mean()))


def _logistic(fit: Rows) -> list[Layer]:
    from scipy.optimize import minimize

    x = np.concatenate([fit.dense.astype(np.float64), np.ones((len(fit), 1))], axis=1)
    outputs = fit.classes
    wanted = np.zeros((len(fit), outputs))
    wanted[np.arange(len(fit)), fit.targets] = 1
    shape = (x.shape[1], outputs)
    at = np.zeros(shape)
    at[-1] = np.log(wanted.mean(0) + 1e-3)
    layers = []
    for penalty in reversed(PENALTIES):

        def summed(flat: np.ndarray, penalty: float = penalty) -> tuple[float, np.ndarray]:
            weights = flat.reshape(shape)
            scores = x @ weights
            scores -= scores.max(1, keepdims=True)
            shares = np.exp(scores)
            sums = shares.sum(1, keepdims=True)
            shares /= sums
            value = float((np.log(sums[:, 0]) - (scores * wanted).sum(1)).sum())
            slope = x.T @ (shares - wanted)
            slope[:-1] += penalty * weights[:-1]
            return value + penalty * float((weights[:-1] ** 2).sum()) / 2, slope.ravel()

        # From the heavier penalty's weights on, so that each takes few steps.
        found = minimize(summed, at.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 40})
        at = found.x.reshape(shape)
        layers.append((at[:-1].astype(np.float32), at[-1].astype(np.float32)))
    return layers


def _ridge(fit: Rows) -> list[Layer]:
    x, y = fit.dense.astype(np.float64), fit.targets
    middle, mean = x.mean(0), float(y.mean())
    values, vectors = np.linalg.eigh((x - middle).T @ (x - middle))
    turned = vectors.T @ ((x - middle).T @ (y - mean))
    layers = []
    for penalty in PENALTIES:
        weights = vectors @ (turned / (np.maximum(values, 0) + penalty))
        bias = np.array([mean - middle @ weights], np.float32)
        layers.append((weights[:, None].astype(np.float32), bias))
    return layers


def net(fit: Rows, held: Rows, seed: int) -> Dense:
    """Two hidden layers, trained to the weights that are best for `held`."""
    hidden = (128, 64) if len(fit) > 1000 else (64, 32)
    learning = Net((fit.dense.shape[1], *hidden, fit.classes or 1), fit.classes, seed)
    bent = Dense(layers=[], bends=True).run(fit.dense)
    batch = min(MOST_BATCH, max(LEAST_BATCH, len(fit) // 32))
    batch = min(batch, len(fit))
    per_epoch = len(fit) // batch
    total = min(NET_STEPS, NET_EPOCHS * per_epoch)
    look = max(per_epoch // 2, total // NET_LOOKS, 1)
    best, lowest, waited = Dense(layers=learning.layers(), bends=True), float("inf"), 0
    order = np.arange(0)
    for step in range(total):
        epoch, at = divmod(step, per_epoch)
        if not at:
            order = np.random.default_rng([seed, epoch]).permutation(len(fit))
        rows = order[at * batch : (at + 1) * batch]
        rate = NET_RATE * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * (1 - step / total))
        learning.step(bent[rows], fit.targets[rows], rate)
        if (step + 1) % look and step + 1 < total:
            continue
        now = Dense(layers=learning.layers(), bends=True)
        found = float(loss(answers(now, held), held).mean())
        if found < lowest:
            best, lowest, waited = now, found, 0
        elif (waited := waited + 1) >= NET_PATIENCE:
            break
    return best


FITS: Final[dict[Kind, Callable[[Rows, Rows, int], SubModel]]] = {
    "trees": trees,
    "random-trees": random_trees,
    "linear": linear,
    "net": net,
}
"""How each kind is fitted: on the first rows, best for the second."""
