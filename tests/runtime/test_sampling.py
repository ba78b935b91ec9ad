"""Penalties, filters, draws and scores against their closed forms."""

import math
from typing import Any

import pytest

from lmaas.runtime.language.engine import TokenSampling
from lmaas.runtime.language.sampling import Sampler, choose, distribution, pick, scores_of

torch = pytest.importorskip("torch")
LOGITS = torch.tensor([[math.log(p) for p in (0.5, 0.25, 0.15, 0.1)]])


def sampler(prompt: tuple[int, ...] = (), made: tuple[int, ...] = (), **fields: Any) -> Sampler:
    one = Sampler(prompt, TokenSampling(max_tokens=99, **fields))
    for token in made:
        one.take(token)
    return one


def adjusted(one: Sampler, logits: list[float], allowed: Any = None) -> list[float]:
    row = torch.tensor(logits)
    one.adjust(row, allowed)
    result: list[float] = row.tolist()
    return result


def test_penalties() -> None:
    both = sampler((3,), (0, 0, 1), presence_penalty=0.5, frequency_penalty=0.25)
    assert adjusted(both, [1.0, 1.0, 1.0, 1.0]) == [0.0, 0.25, 1.0, 1.0]
    repeated = sampler((3,), (0,), repetition_penalty=2.0)
    assert adjusted(repeated, [1.0, 1.0, 1.0, -1.0]) == [0.5, 1.0, 1.0, -2.0]


def test_bias_and_bans() -> None:
    biased = sampler(logit_bias={1: 5.0, 2: -100.0})
    assert adjusted(biased, [0.0, 0.0, 0.0]) == [0.0, 5.0, -100.0]
    short = sampler((), (0,), min_tokens=2, stop_token_ids=(2, 77))
    assert adjusted(short, [0.0, 0.0, 9.0]) == [0.0, 0.0, -math.inf]
    short.take(0)
    assert adjusted(short, [0.0, 0.0, 9.0]) == [0.0, 0.0, 9.0]
    assert not short.adjusts


def test_a_grammar_goes_before_min_tokens() -> None:
    short = sampler(min_tokens=2, stop_token_ids=(2,))
    only_stop = torch.tensor([False, False, True])
    assert adjusted(short, [5.0, 1.0, 3.0], only_stop) == [-math.inf, -math.inf, 3.0]
    open_ = torch.tensor([False, True, True])
    assert adjusted(short, [5.0, 1.0, 3.0], open_) == [-math.inf, 1.0, -math.inf]


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, (0.5, 0.25, 0.15, 0.1)),
        ({"temperature": 0.5}, tuple(p * p / 0.345 for p in (0.5, 0.25, 0.15, 0.1))),
        ({"top_k": 2}, (2 / 3, 1 / 3, 0, 0)),
        ({"top_k": 99}, (0.5, 0.25, 0.15, 0.1)),
        ({"top_p": 0.7}, (2 / 3, 1 / 3, 0, 0)),
        ({"top_p": 0.8}, (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0)),
        ({"top_p": 1e-9}, (1, 0, 0, 0)),
        ({"top_k": 3, "top_p": 0.8}, (2 / 3, 1 / 3, 0, 0)),
        ({"min_p": 0.4}, (0.5, 0.25, 0, 0)),
        ({"min_p": 1.0}, (0.5, 0, 0, 0)),
        ({"temperature": 1e-9}, (1, 0, 0, 0)),
    ],
)
def test_distribution(fields: dict[str, Any], want: tuple[float, ...]) -> None:
    sampling = TokenSampling(max_tokens=1, **fields)
    # Beside a row without filters, and in another order of the tokens.
    logits = torch.cat([LOGITS, LOGITS.flip(-1)])
    got = distribution(logits, [sampling, TokenSampling(max_tokens=1)])
    torch.testing.assert_close(got[0], torch.tensor(want, dtype=torch.float32))
    torch.testing.assert_close(got[1], LOGITS.exp()[0].flip(-1))
    torch.testing.assert_close(
        distribution(LOGITS.flip(-1), [sampling])[0].flip(-1), torch.tensor(want).float()
    )


@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0], ids=["flat", "middle", "sharp"])
def test_a_large_vocabulary(scale: float) -> None:
    logits = scale * torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    samplings = [
        TokenSampling(max_tokens=1, top_p=0.9),
        TokenSampling(max_tokens=1, top_k=2000, top_p=0.5),
        TokenSampling(max_tokens=1, top_k=40),
    ]
    for row, sampling in zip(logits, samplings, strict=True):
        ordered, order = row.softmax(-1).sort(descending=True)
        top = sampling.top_k or 5000
        ordered = ordered[:top] / ordered[:top].sum()
        count = min(top, int((ordered.cumsum(-1) < sampling.top_p).sum()) + 1)
        want = torch.zeros(5000)
        want[order[:count]] = ordered[:count] / ordered[:count].sum()
        torch.testing.assert_close(distribution(row[None], [sampling])[0], want)
    together = distribution(logits, samplings)
    alone = [distribution(row[None], [one])[0] for row, one in zip(logits, samplings, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))


def test_pick_follows_the_distribution() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25, 0.0]])
    for draw, token in ((0.0, 1), (0.49, 1), (0.51, 3), (0.76, 4), (1 - 2**-53, 4)):
        assert pick(probabilities, [draw]) == [token]
    draws = [(index + 0.5) / 1000 for index in range(1000)]
    picked = torch.bincount(torch.tensor(pick(LOGITS.exp().repeat(1000, 1), draws)))
    assert picked.tolist() == [500, 250, 150, 100]


def test_not_a_number_is_no_crash() -> None:
    logits = torch.full((1, 4), math.nan)
    assert choose(logits, [sampler(temperature=1.0)])[0] in range(4)


def test_a_sequence_draws_for_itself() -> None:
    def drawn(neighbours: int, seed: int | None) -> list[int]:
        one = [sampler(seed=seed)] + [sampler(seed=5) for _ in range(neighbours)]
        greedy = sampler(temperature=0.0)
        logits = torch.zeros(neighbours + 2, 1000)
        return [choose(logits, [*one, greedy])[0] for _ in range(20)]

    assert drawn(0, 7) == drawn(3, 7)
    assert drawn(0, -7) == drawn(1, -7)
    assert drawn(0, 7) != drawn(0, 8)
    assert drawn(0, None) != drawn(0, None)


def test_scores() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    total = math.log(sum(map(math.exp, (2.0, 1.0, 0.0))))
    first, second = scores_of(logits, [1, 1], [2, 0])
    assert first.logprob == pytest.approx(1 - total)
    assert [token for token, _ in first.top] == [0, 1]
    assert [value for _, value in first.top] == pytest.approx([2 - total, 1 - total])
    assert second.top == ()
    assert scores_of(logits, [0, 1], [0, 0])[0].logprob == pytest.approx(2 - total)
