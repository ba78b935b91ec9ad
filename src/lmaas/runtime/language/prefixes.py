"""Which prompts had better wait a moment, since another one is computing what they begin with.

A paged cache shares the blocks of a prefix that was computed before a prompt is begun. Prompts
begun in the same step each compute it. So of those that begin alike one goes first, and the others
follow as soon as the blocks that they have in common are there.

What the engine has computed is estimated, by the order in which it takes prompts. An estimate that
is wrong costs time, and changes no answer.
"""

import msgspec
import numpy as np
import numpy.typing as npt


class Prompt(msgspec.Struct, eq=False):
    """A prompt by the hashes of its whole blocks, each with all before it. The first `known` are
    computed; `computed` counts tokens, once it is begun."""

    blocks: list[int]
    tokens: int
    known: int = 0
    computed: int = 0


class Prefixes:
    """The prompts of one engine. `capacity`: how many blocks of `block_tokens` its cache has."""

    def __init__(self, block_tokens: int, capacity: int) -> None:
        self._block_tokens = block_tokens
        self._capacity = capacity
        self._cached: dict[int, None] = {}
        """Blocks in the cache; those used last are last."""
        self._coming: dict[int, int] = {}
        """Blocks that are being computed, and for which sequence."""
        self._waiting: dict[int, Prompt] = {}
        self._begun: dict[int, Prompt] = {}

    def __len__(self) -> int:
        """How many prompts are begun and not computed yet."""
        return len(self._begun)

    def add(self, sequence: int, ids: npt.ArrayLike) -> None:
        """A prompt that waits to be begun."""
        data = np.asarray(ids, np.int64)
        blocks: list[int] = []
        before = 0
        for end in range(self._block_tokens, len(data) + 1, self._block_tokens):
            before = hash((before, data[end - self._block_tokens : end].tobytes()))
            blocks.append(before)
        self._waiting[sequence] = Prompt(blocks, len(data))

    def ready(self, sequence: int) -> bool:
        """Whether no other sequence is computing the next block that this one needs."""
        prompt = self._waiting[sequence]
        while prompt.known < len(prompt.blocks) and prompt.blocks[prompt.known] in self._cached:
            self._keep(prompt.blocks[prompt.known])
            prompt.known += 1
        return prompt.known == len(prompt.blocks) or (
            prompt.blocks[prompt.known] not in self._coming
        )

    def begin(self, sequence: int) -> None:
        """The engine has this prompt now."""
        prompt = self._begun[sequence] = self._waiting.pop(sequence)
        prompt.computed = prompt.known * self._block_tokens
        for block in prompt.blocks[prompt.known :]:
            self._coming.setdefault(block, sequence)

    def step(self, room: int) -> None:
        """The engine has run once, with room for this many tokens of prompts."""
        for sequence, prompt in self._begun.items():
            if room <= 0:
                return
            taken = min(room, prompt.tokens - prompt.computed)
            room -= taken
            self._compute(sequence, prompt, prompt.computed + taken)

    def end(self, sequence: int, *, computed: bool) -> None:
        """The prompt is computed, or it never will be. Nothing happens the second time."""
        self._waiting.pop(sequence, None)
        prompt = self._begun.pop(sequence, None)
        if prompt is None:
            return
        if computed:
            self._compute(sequence, prompt, prompt.tokens)
        for block in prompt.blocks:
            if self._coming.get(block) == sequence:
                del self._coming[block]

    def _compute(self, sequence: int, prompt: Prompt, tokens: int) -> None:
        """`tokens` of the prompt are computed."""
        prompt.computed = tokens
        while prompt.known < tokens // self._block_tokens:
            block = prompt.blocks[prompt.known]
            prompt.known += 1
            self._keep(block)
            if self._coming.get(block) == sequence:
                del self._coming[block]

    def _keep(self, block: int) -> None:
        self._cached.pop(block, None)
        self._cached[block] = None
        while len(self._cached) > self._capacity:
            del self._cached[next(iter(self._cached))]
