"""From logits to the next token of each sequence: penalties, filters, seeded draws, scores.

Pure tensor arithmetic; knows no model, no cache and no grammar. Each sequence draws from a random
generator of its own, so that what else is in the batch changes nothing.

Shapes: B sequences, V tokens in the vocabulary. Logits are float32.
"""

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from lmaas.runtime.language.engine import TokenSampling, TokenScore

BELOW_ONE: Final = 1 - 2.0**-50
"""Keeps a draw, after rounding, below the sum of all probabilities."""
CANDIDATES: Final = 1024
"""Best tokens that top-k and top-p look at before they sort a whole vocabulary."""


class Sampler:
    """How one sequence chooses, and what it has chosen so far."""

    def __init__(self, prompt: Sequence[int], sampling: TokenSampling) -> None:
        import torch

        self.sampling = sampling
        self.made = 0
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._generator = torch.Generator()
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._generator.manual_seed(seed)

    def draw(self) -> float:
        """The next number of this sequence, uniform in [0, 1)."""
        import torch

        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def take(self, token: int) -> None:
        """Note that `token` was chosen."""
        self.made += 1
        self._counts[token] += 1
        if self.sampling.repetition_penalty != 1:
            self._seen.add(token)

    def adjust(self, logits: Any, allowed: Any = None) -> None:
        """Apply penalties, biases and bans to `logits` (V), in place.

        `allowed` (V) of bool is what a grammar lets through. Stop tokens are banned up to
        `min_tokens`, unless nothing else is left. The repetition penalty counts the prompt too
        (Keskar et al. 2019); presence and frequency penalties count what was written (as OpenAI
        defines them).
        """
        import torch

        sampling = self.sampling
        if self._seen:
            seen = torch.tensor(list(self._seen), device=logits.device)
            value, penalty = logits[seen], sampling.repetition_penalty
            logits[seen] = torch.where(value > 0, value / penalty, value * penalty)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens = torch.tensor(list(self._counts), device=logits.device)
            counts = torch.tensor(
                list(self._counts.values()), dtype=logits.dtype, device=logits.device
            )
            logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if sampling.logit_bias:
            tokens = torch.tensor(list(sampling.logit_bias), device=logits.device)
            logits[tokens] += torch.tensor(
                list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device
            )
        if allowed is not None:
            logits[~allowed] = -torch.inf
        if self.made < sampling.min_tokens:
            stops = [token for token in sampling.stop_token_ids if 0 <= token < len(logits)]
            index = torch.tensor(stops, dtype=torch.long, device=logits.device)
            banned = logits.index_fill(0, index, -torch.inf)
            if not bool(banned.isneginf().all()):
                logits.copy_(banned)

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` changes anything now."""
        sampling = self.sampling
        return bool(
            self._seen
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.logit_bias
            or self.made < sampling.min_tokens
        )


def choose(logits: Any, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each sequence, from adjusted `logits` (B, V)."""
    tokens: list[int] = logits.argmax(-1).tolist()
    drawn = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if drawn:
        chosen = [samplers[row] for row in drawn]
        probabilities = distribution(logits[drawn], [sampler.sampling for sampler in chosen])
        picked = pick(probabilities, [sampler.draw() for sampler in chosen])
        for row, token in zip(drawn, picked, strict=True):
            tokens[row] = token
    return tokens


def distribution(logits: Any, samplings: Sequence[TokenSampling]) -> Any:
    """Weights (B, V) of the tokens after temperature, then top-k, top-p and min-p, in this order.

    They are probabilities, but that min-p takes some away and the rest stays as it was.
    """
    import torch

    def column(values: list[float]) -> Any:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    # A temperature next to nothing must not overflow.
    logits = logits - logits.amax(-1, keepdim=True)
    logits = logits / column([max(each.temperature, 1e-5) for each in samplings])
    rows = [row for row, each in enumerate(samplings) if each.top_k or each.top_p < 1]
    if rows:
        filtered = [samplings[row] for row in rows]
        kept = _keep_best(logits[rows], filtered, min(CANDIDATES, logits.shape[-1]))
        if kept is None:
            kept = _keep_best(logits[rows], filtered, logits.shape[-1])
        logits[rows] = kept
    probabilities = logits.softmax(-1)
    if any(each.min_p for each in samplings):
        least = column([each.min_p for each in samplings]) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    return probabilities


def _keep_best(logits: Any, samplings: Sequence[TokenSampling], width: int) -> Any:
    """`logits` (B, V) with -inf at all but the top k, and of them the fewest that make up top p.

    Looks at the `width` best tokens of each row; None where these are too few to tell.
    """
    import torch

    size = logits.shape[-1]
    tops = [min(each.top_k or size, size) for each in samplings]
    if any(width < top < size for top in tops):
        return None
    most = torch.tensor(tops, device=logits.device)[:, None]
    # A top p of 1 keeps all, also where rounding makes the sum reach 1 early.
    mass = torch.tensor(
        [each.top_p if each.top_p < 1 else 2.0 for each in samplings],
        dtype=logits.dtype,
        device=logits.device,
    )[:, None]
    ordered, order = logits.topk(width, dim=-1)
    ordered = ordered.masked_fill(torch.arange(width, device=logits.device) >= most, -torch.inf)
    whole = torch.where(
        most <= width,
        ordered.logsumexp(-1, keepdim=True),
        logits.logsumexp(-1, keepdim=True),
    )
    sums = (ordered - whole).exp().cumsum(-1)
    if width < size and bool(((most > width) & (sums[:, -1:] < mass)).any()):
        return None
    cut = sums - (ordered - whole).exp() >= mass
    cut[:, 0] = False
    ordered = ordered.masked_fill(cut, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(-1, order, ordered)


def pick(probabilities: Any, draws: Sequence[float]) -> list[int]:
    """For each row of `probabilities` (B, V) the token at which their sum passes its draw.

    In the order of the token ids: a probability that is off by rounding seldom changes the token.
    """
    import torch

    sums = probabilities.double().cumsum(-1)
    wanted = torch.tensor(draws, dtype=torch.float64, device=sums.device)[:, None]
    wanted = wanted * sums[:, -1:] * BELOW_ONE
    # Where nothing is a number, the first token is as good as any.
    places = torch.searchsorted(sums, wanted, right=True)[:, 0]
    picked: list[int] = torch.where(places < sums.shape[-1], places, 0).tolist()
    return picked


def scores_of(logits: Any, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenScore]:
    """Log probabilities of `tokens` (B) under `logits` (B, V), and the `tops` best beside each."""
    import torch

    values = logits.log_softmax(-1)
    index = torch.tensor(tokens, device=logits.device)
    own = values.gather(-1, index[:, None])[:, 0].tolist()
    most = min(max(tops, default=0), values.shape[-1])
    if not most:
        return [TokenScore(value) for value in own]
    best, ids = values.topk(most, dim=-1)
    rows = zip(own, ids.tolist(), best.tolist(), tops, strict=True)
    return [
        TokenScore(value, tuple(zip(others[:top], logs[:top], strict=True)))
        for value, others, logs, top in rows
    ]
