import math

import pytest

from lmaas.recipe import Schedule
from lmaas.training.schedule import Plateau, factor, warmup_steps

TOTAL = 200


def values(**given: object) -> list[float]:
    schedule = Schedule(**given)  # type: ignore[arg-type]
    return [factor(schedule, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("warm", [0, 20])
@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"name": "constant"}, lambda t, n: 1.0),
        ({"name": "step", "every_steps": 30, "gamma": 0.5}, lambda t, n: 0.5 ** (t // 30)),
        ({"name": "exponential", "every_steps": 30, "gamma": 0.5}, lambda t, n: 0.5 ** (t / 30)),
        ({"name": "polynomial", "power": 2.0, "end": 0.1},
         lambda t, n: 0.1 + 0.9 * (1 - t / n) ** 2),
        ({"name": "cosine", "end": 0.1},
         lambda t, n: 0.1 + 0.45 * (1 + math.cos(math.pi * t / n))),
        ({"name": "cosine", "cycles": 4},
         lambda t, n: 0.5 * (1 + math.cos(math.pi * ((4 * t / n) % 1)))),
        ({"name": "one-cycle", "rise": 0.25, "end": 0.02},
         lambda t, n: 0.52 - 0.48 * math.cos(4 * math.pi * t / n) if t / n < 0.25
         else 0.51 + 0.49 * math.cos(math.pi * (t / n - 0.25) / 0.75)),
        ({"name": "plateau"}, lambda t, n: 1.0),
    ],
)  # fmt: skip
def test_every_step_has_the_closed_forms_value(given: dict, form: object, warm: int) -> None:  # type: ignore[type-arg]
    assert callable(form)
    told = values(**given, warmup=float(warm))
    for step in range(warm):
        assert told[step] == pytest.approx((step + 1) / (warm + 1))
    for step in range(warm, TOTAL):
        assert told[step] == pytest.approx(form(step - warm, TOTAL - warm), abs=1e-12)


@pytest.mark.parametrize("warm", [1, 20, 50])
def test_inverse_square_root_meets_its_warm_up(warm: int) -> None:
    told = values(name="inverse-sqrt", warmup=float(warm) if warm > 1 else 0.0)
    first = warm if warm > 1 else 0
    for step in range(first, TOTAL):
        assert told[step] == pytest.approx(math.sqrt(warm / (warm + step - first)))
    assert told[first] == 1.0


def test_one_cycle_rises_and_falls() -> None:
    told = values(name="one-cycle", rise=0.25, end=0.0)
    assert told[0] == pytest.approx(1 / 25)
    assert max(told) == told[50] == 1.0
    assert told[:51] == sorted(told[:51])
    assert told[50:] == sorted(told[50:], reverse=True)
    assert told[25] == pytest.approx((1 + 1 / 25) / 2)
    assert told[125] == pytest.approx(0.5)


def test_warm_up_below_one_is_a_share() -> None:
    assert warmup_steps(Schedule(warmup=0.1), TOTAL) == 20
    assert warmup_steps(Schedule(warmup=20.0), TOTAL) == 20


def test_plateau_falls_after_patience() -> None:
    schedule = Schedule(name="plateau", gamma=0.5, patience=2, min_delta=0.1)
    plateau = Plateau()
    told = []
    for loss in (1.0, 0.8, 0.75, 0.74, 0.5, 0.45, 0.44, 0.43, 0.42):
        plateau.seen(loss, schedule)
        told.append(plateau.factor)
    assert told == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
