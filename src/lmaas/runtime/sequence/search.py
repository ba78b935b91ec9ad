"""How one sequence is written: greedily, by chance, or by a search over beams.

A search knows no model: it is given rows of logits or the best candidates of its rows, and says
which tokens are read next and which row each goes on from.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from lmaas.runtime.sequence.calls import Decoding, Written

LOW: Final = -1.0e9
"""The score of what is none; as in transformers."""
CHUNK: Final = 128
MOST_SORTED: Final = 256


class Node(NamedTuple):
    """A token and what stands before it: beams share their beginnings."""

    before: "Node | None"
    token: int
    logprob: float


def line(node: Node | None) -> list[Node]:
    """The tokens up to `node`, from the first on."""
    nodes: list[Node] = []
    while node is not None:
        nodes.append(node)
        node = node.before
    return nodes[::-1]


class Next(NamedTuple):
    """What the rows of a sequence read next, and which of its rows each goes on from."""

    tokens: Sequence[int]
    parents: Sequence[int]


class Sampled:
    """Rows that go on by themselves: one greedy row, or as many drawn ones as are returned."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.width = decoding.returned if decoding.temperature else 1
        self._stops = frozenset(decoding.stop_token_ids)
        self.rows: list[list[int]] = [[] for _ in range(self.width)]
        self.scores: list[list[float]] = [[] for _ in range(self.width)]
        self._sums = [0.0] * self.width
        self.finish: list[str | None] = [None] * self.width
        seeds = np.random.SeedSequence(decoding.seed).spawn(self.width)
        self._draws = [np.random.default_rng(seed) for seed in seeds]

    @property
    def over(self) -> bool:
        """Whether every row is complete."""
        return None not in self.finish

    def draw(self, row: int, logits: np.ndarray) -> int:
        """A token by chance, from what the rules left of the logits (V,)."""
        return draw(logits, self.decoding, self._draws[row])

    def take(self, row: int, token: int, logprob: float) -> None:
        """Go on with `token`."""
        if self.finish[row] is not None:
            return
        self._sums[row] += logprob
        if token in self._stops:
            self.finish[row] = "stop"
            return
        self.rows[row].append(token)
        self.scores[row].append(logprob)
        if len(self.rows[row]) + len(self.decoding.prompt) >= self.decoding.max_tokens:
            self.finish[row] = "length"

    def written(self) -> tuple[Written, ...]:
        """The complete candidates."""
        return tuple(
            Written(
                tokens=tuple(tokens),
                finish=finish,  # type: ignore[arg-type]
                logprob=total,
                scores=tuple(scores) if self.decoding.scores else (),
            )
            for tokens, finish, total, scores in zip(
                self.rows, self.finish, self._sums, self.scores, strict=True
            )
        )


class Finished(msgspec.Struct, kw_only=True):
    """A place among the complete beams. Until something takes it, it is none."""

    score: float = LOW
    node: Node | None = None
    total: float = 0.0
    done: bool = False


class Beams:
    """Beam search as transformers 5.5.4 does it, `early_stopping` True or False."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.width = decoding.beams
        self.kept = max(2, 1 + len(decoding.stop_token_ids)) * decoding.beams
        self._stops = frozenset(decoding.stop_token_ids)
        self.nodes: list[Node | None] = [None] * self.width
        self.totals = np.array([0.0] + [LOW] * (self.width - 1), np.float32)
        self._finished = [Finished() for _ in range(self.width)]
        self.length = len(decoding.prompt)
        self._improves = True
        self.over = False

    def history(self, row: int) -> list[int]:
        """The tokens of a beam, without the prompt."""
        return [node.token for node in line(self.nodes[row])]

    def take(self, scores: np.ndarray, rows: np.ndarray, tokens: np.ndarray) -> Next:
        """Go on with the best `kept` candidates, from the best on: sums of log probabilities, the
        beam that each continues, its token."""
        d, width = self.decoding, self.width
        begin = len(d.prompt) - d.counted
        length = self.length + 1
        full = length >= d.max_tokens
        nodes = [
            Node(self.nodes[row], token, float(score - self.totals[row]))
            for score, row, token in zip(
                scores.tolist(), rows.tolist(), tokens.tolist(), strict=True
            )
        ]
        hits = [full or node.token in self._stops for node in nodes]
        lowered = scores + np.array(hits, np.float32) * np.float32(LOW)
        order = np.argsort(-lowered, kind="stable")[:width]
        self._complete(nodes, scores, hits, float((length - begin) ** d.length_penalty))
        self.length = length
        parents = [int(rows[i]) for i in order]
        self.nodes = [nodes[i] for i in order]
        self.totals = lowered[order]
        best = float(self.totals[0]) / (length - begin) ** d.length_penalty
        worst = min(each.score for each in self._finished)
        done = [each.done for each in self._finished]
        self._improves = self._improves and any(best > (worst if each else LOW) for each in done)
        self.over = not self._improves or (all(done) and d.early_stop) or all(hits)
        return Next([node.token for node in self.nodes if node is not None], parents)

    def _complete(
        self, nodes: list[Node], scores: np.ndarray, hits: list[bool], share: float
    ) -> None:
        """Take the beams that have just ended among the complete ones, if they are better."""
        barred = not self._improves or (
            self.decoding.early_stop and all(each.done for each in self._finished)
        )
        if barred:
            return
        new = [
            Finished(score=float(scores[i]) / share, node=nodes[i], total=float(scores[i]),
                     done=True)
            for i in range(self.width)
            if hits[i]
        ]  # fmt: skip
        if new:
            merged = sorted((*self._finished, *new), key=lambda each: -each.score)
            self._finished = merged[: self.width]

    def written(self) -> tuple[Written, ...]:
        """The best candidates."""
        return tuple(self._written(each) for each in self._finished[: self.decoding.returned]
                     if each.done)  # fmt: skip

    def _written(self, finished: Finished) -> Written:
        nodes = line(finished.node)
        stopped = bool(nodes) and nodes[-1].token in self._stops
        told = nodes[:-1] if stopped else nodes
        return Written(
            tokens=tuple(node.token for node in told),
            finish="stop" if stopped else "length",
            logprob=finished.total,
            scores=tuple(node.logprob for node in told) if self.decoding.scores else (),
        )


def draw(logits: np.ndarray, decoding: Decoding, chance: np.random.Generator) -> int:
    """A token by chance: temperature, then the `top_k` best, then those of the mass `top_p`."""
    values = logits.astype(np.float64) / decoding.temperature
    ids: np.ndarray | None = None
    if 0 < decoding.top_k < len(values):
        kept = np.argpartition(-values, decoding.top_k - 1)[: decoding.top_k]
        ids, values = kept, values[kept]
    shares = np.exp(values - values.max())
    shares /= shares.sum()
    if decoding.top_p < 1:
        order = _sorted_mass(shares, decoding.top_p)
        ids = order if ids is None else ids[order]
        shares = shares[order]
    edges = np.cumsum(shares)
    place = int(np.searchsorted(edges, chance.random() * edges[-1], side="right"))
    place = min(place, len(edges) - 1)
    return place if ids is None else int(ids[place])


def _sorted_mass(shares: np.ndarray, mass: float) -> np.ndarray:
    """The most probable places that together have at least `mass`, from the best on."""
    if len(shares) > MOST_SORTED:
        some = np.argpartition(-shares, MOST_SORTED)[:MOST_SORTED]
        if shares[some].sum() > mass:
            order = some[np.argsort(-shares[some], kind="stable")]
            return order[: _count(shares[order], mass)]
    order = np.argsort(-shares, kind="stable")
    return order[: _count(shares[order], mass)]


def _count(ordered: np.ndarray, mass: float) -> int:
    before = np.cumsum(ordered) - ordered
    return max(1, int(np.count_nonzero(before < mass)))


def best(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the `count` largest of each row (R, V), in no order.

    The best of each chunk are looked at first, so that all are read once and few are sorted.
    """
    many, size = rows.shape
    count = min(count, size)
    chunks = size // CHUNK
    if chunks < 2 * count:
        places = np.argpartition(-rows, count - 1, axis=1)[:, :count]
        return places, np.take_along_axis(rows, places, 1)
    whole = rows[:, : chunks * CHUNK].reshape(many, chunks, CHUNK)
    first = np.argpartition(-whole.max(2), count - 1, axis=1)[:, :count]
    found = np.take_along_axis(whole, first[:, :, None], 1).reshape(many, count * CHUNK)
    numbers = (first[:, :, None] * CHUNK + np.arange(CHUNK)).reshape(many, count * CHUNK)
    if chunks * CHUNK < size:
        rest = np.arange(chunks * CHUNK, size)
        found = np.concatenate([found, rows[:, chunks * CHUNK :]], 1)
        numbers = np.concatenate([numbers, np.broadcast_to(rest, (many, len(rest)))], 1)
    places = np.argpartition(-found, count - 1, axis=1)[:, :count]
    return np.take_along_axis(numbers, places, 1), np.take_along_axis(found, places, 1)


def candidates(
    logits: np.ndarray, normalizers: np.ndarray, searches: Sequence[Beams]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each search its best candidates, from the best on, of rows (searches x width, V)."""
    width = searches[0].width
    most = max(search.kept for search in searches)
    tokens, values = best(logits, most)
    per_row = tokens.shape[1]
    totals = np.concatenate([search.totals for search in searches])
    scores = ((values - normalizers) + totals[:, None]).astype(np.float32)
    scores = scores.reshape(len(searches), width * per_row)
    tokens = tokens.reshape(len(searches), width * per_row)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    for number, search in enumerate(searches):
        chosen = order[number, : search.kept]
        yield scores[number, chosen], chosen // per_row, tokens[number, chosen]


def share_of(logits: np.ndarray, normalizer: float, watched: Sequence[int]) -> tuple[float, ...]:
    """Probabilities of the tokens `watched`, by a row of logits (V,)."""
    return tuple(math.exp(float(logits[token]) - normalizer) for token in watched)
