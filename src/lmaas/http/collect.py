"""A generation's deltas put together again: one whole choice each."""

import msgspec

from lmaas.generation_types import Delta, Finish, TokenLogprob
from lmaas.http.sse import Deltas


class CollectedCall(msgspec.Struct):
    """A tool call that grows."""

    id: str
    name: str
    arguments: str = ""


class Collected(msgspec.Struct):
    """One choice: its parts so far, its calls by position, why it ended."""

    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, CollectedCall] = {}
    logprobs: list[TokenLogprob] = []
    finish: Finish | None = None
    stop: str = ""

    def add(self, delta: Delta) -> None:
        """Take in what the choice gained."""
        if delta.text:
            self.text.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        if delta.logprobs:
            self.logprobs += delta.logprobs
        for call in delta.calls:
            known = self.calls.get(call.position)
            if known is None:
                known = self.calls[call.position] = CollectedCall(id=call.id, name=call.name)
            known.arguments += call.arguments
        if delta.finish is not None:
            self.finish, self.stop = delta.finish, delta.stop


async def collect(generation: Deltas, choices: int = 1) -> list[Collected]:
    """All choices of a generation, in order."""
    collected = [Collected() for _ in range(choices)]
    try:
        async for delta in generation:
            collected[delta.index].add(delta)
    finally:
        generation.close()
    return collected
