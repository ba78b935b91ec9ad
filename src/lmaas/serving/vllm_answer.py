"""What vLLM answers to one request, as messages of a worker: reasoning told apart by our own rules.

vLLM is asked to stream where that loses nothing, also for answers that are wanted whole: so their
first token is known, and what a cancelled one had used.
"""

from collections.abc import Callable

import msgspec

from lmaas.generation_types import Delta, Ended, GenerateRequest, TokenLogprob, Usage
from lmaas.runtime.language.text import Reader
from lmaas.runtime.messages import AnyMessage, Began, Parts
from lmaas.serving.vllm_request import Requests


def as_asked(request: GenerateRequest) -> GenerateRequest:
    """The request as vLLM gets it: streamed unless calls or an echo are wanted whole."""
    stream = request.stream or not (request.tools or request.echo)
    return msgspec.structs.replace(request, stream=stream)


class Choice:
    """One of a request's answers: its reader, and what is made but not yet told."""

    def __init__(self, *, reasoning: bool, thinking: bool) -> None:
        self.reasoned = 0
        self._reader = Reader(reasoning=reasoning, thinking=thinking)
        self._called = False
        self._tokens = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def read(self, delta: Delta) -> Delta | None:
        """The delta with its reasoning told apart; None while all of it is held back."""
        if self._reader.reasons:
            self.reasoned += delta.tokens
        self._reader.feed(delta.text)
        if delta.finish is not None:
            self._reader.end()
        self._called |= bool(delta.calls)
        text, reasoning, _ = self._reader.take()
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        if not (text or reasoning or delta.reasoning or delta.calls or delta.finish):
            return None
        told = msgspec.structs.replace(
            delta,
            # vLLM says "stop" after a call that was asked for by name.
            finish="tool_calls" if self._called and delta.finish == "stop" else delta.finish,
            text=text,
            reasoning=delta.reasoning + reasoning,
            tokens=self._tokens,
            logprobs=self._logprobs,
        )
        self._tokens, self._logprobs = 0, ()
        return told


class Heard:
    """A receiver that tells a worker's messages about request `id_`.

    `usage` is what a cancelled request had used. Tokens of reasoning are counted in what is
    streamed; of calls that are wanted whole they are not known.
    """

    def __init__(
        self,
        id_: int,
        request: GenerateRequest,
        requests: Requests,
        tell: Callable[[AnyMessage], None],
    ) -> None:
        self.usage: Usage | None = None
        self._id = id_
        self._stream = request.stream
        self._tell = tell
        reasoning, thinking = requests.reasons(request), requests.thinks(request)
        self._choices = [
            Choice(reasoning=reasoning, thinking=thinking) for _ in range(request.choices)
        ]
        self._kept: list[Delta] = []

    def began(self, prompt_tokens: int) -> None:
        """The first token is there."""
        self._tell(Began(id=self._id, prompt=prompt_tokens))

    def part(self, delta: Delta) -> None:
        """A piece: told at once where it is to be streamed."""
        read = self._choices[delta.index].read(delta)
        if read is None:
            return
        if self._stream:
            self._tell(Parts(items=((self._id, read),)))
        else:
            self._kept.append(read)

    def used(self, usage: Usage) -> None:
        """The request was cancelled, after using this."""
        self.usage = usage

    def ended(self, ended: Ended) -> Ended:
        """The end as whoever asked gets it."""
        for delta in ended.deltas:
            self.part(delta)
        usage = msgspec.structs.replace(
            ended.usage, reasoning=sum(choice.reasoned for choice in self._choices)
        )
        return Ended(usage, tuple(self._kept), ended.prompt_logprobs)
