"""The conversations of a worker's requests, and the sequences that each has in the engine.

Turns what the engine says into what the conversations are told, and what they ask for into
sequences. Knows no sockets and no threads; one thread uses it.
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Final

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Ended, Usage
from lmaas.runtime.sequence.calls import (
    Conversation,
    SequenceCall,
    SequencePiece,
    SequenceResult,
    Turn,
)
from lmaas.runtime.sequence.engine import Output, SequenceEngine
from lmaas.types import Answer

MOST_EMPTY_TURNS: Final = 100_000
"""A conversation that asks for nothing, and says so this often, does not end."""


class Request(msgspec.Struct, kw_only=True, eq=False):
    """One request: what it says, and which of its sequences are not complete."""

    id: int
    conversation: Conversation
    calls: dict[int, SequenceCall] = msgspec.field(default_factory=dict)
    begun: bool = False
    tokens: int = 0
    new_tokens: int = 0


class Told(msgspec.Struct, kw_only=True):
    """What one step of all requests brought: messages to be sent, in this order."""

    began: list[tuple[int, int]] = []
    parts: list[tuple[int, Delta]] = []
    done: list[tuple[int, Answer]] = []
    failed: list[tuple[int, BaseException]] = []


class Session:
    """All requests whose first turn is there, and the engine that writes for them."""

    def __init__(self, engine: SequenceEngine) -> None:
        self._engine = engine
        self._requests: dict[int, Request] = {}
        self._owners: dict[int, Request] = {}
        self._numbers = itertools.count()
        self._told = Told()

    def __len__(self) -> int:
        """How many requests are not answered."""
        return len(self._requests)

    def ids(self) -> list[int]:
        """Their ids."""
        return list(self._requests)

    def busy(self) -> bool:
        """Whether a step would do anything."""
        return self._engine.busy()

    def begin(self, id_: int, conversation: Conversation, turn: Turn) -> Told:
        """Take a request with its first turn."""
        request = self._requests[id_] = Request(id=id_, conversation=conversation)
        self._follow(request, turn)
        return self._take()

    def step(self) -> Told:
        """One step of the engine, and what the conversations say to it."""
        for output in self._engine.step():
            request = self._owners.get(output.sequence)
            if request is None:
                continue  # its conversation failed or ended with it unread
            self._hear(request, output)
        return self._take()

    def cancel(self, id_: int) -> Ended | None:
        """Drop a request; what it has used. None where it is not known."""
        request = self._requests.get(id_)
        if request is None:
            return None
        self._drop(request)
        return Ended(usage=Usage(request.tokens, request.new_tokens))

    def _take(self) -> Told:
        told, self._told = self._told, Told()
        return told

    def _hear(self, request: Request, output: Output) -> None:
        call = request.calls[output.sequence]
        self._begun(request)
        if output.tokens:
            request.new_tokens += len(output.tokens)
            self._tell(
                request,
                SequencePiece(tag=call.tag, tokens=output.tokens, scores=output.scores),
            )
        result = output.result
        if result is None or request.id not in self._requests:
            return
        del request.calls[output.sequence], self._owners[output.sequence]
        request.tokens += result.source_tokens
        if not call.stream:
            request.new_tokens += sum(len(each.tokens) for each in result.candidates)
        self._tell(request, result)

    def _begun(self, request: Request) -> None:
        if not request.begun:
            request.begun = True
            self._told.began.append((request.id, request.tokens))

    def _tell(self, request: Request, event: SequenceResult | SequencePiece) -> None:
        turn = self._ask(request, lambda: request.conversation.send(event))
        if turn is not None:
            self._follow(request, turn)

    def _follow(self, request: Request, turn: Turn) -> None:
        """Do what a turn says; where it leaves nothing to wait for, the conversation goes on."""
        for _ in range(MOST_EMPTY_TURNS):
            for piece in turn.pieces:
                self._begun(request)
                self._told.parts.append((request.id, piece))
            try:
                for call in turn.calls:
                    number = next(self._numbers)
                    self._engine.add(number, call)
                    request.calls[number], self._owners[number] = call, request
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
                self._fail(request, error)
                return
            if request.calls:
                return
            following = self._ask(request, lambda: next(request.conversation))
            if following is None:
                return
            turn = following
        self._fail(request, LMaaSError("The task asks for nothing and does not end."))

    def _ask(self, request: Request, go_on: Callable[[], Turn]) -> Turn | None:
        """The next turn; None where the request is over, with its answer or in an error."""
        try:
            return go_on()
        except StopIteration as end:
            self._drop(request)
            self._told.done.append((request.id, end.value))
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self._fail(request, error)
        return None

    def _fail(self, request: Request, error: BaseException) -> None:
        self._drop(request)
        self._told.failed.append((request.id, error))

    def _drop(self, request: Request) -> None:
        self._requests.pop(request.id, None)
        for number in request.calls:
            self._owners.pop(number, None)
            self._engine.cancel(number)
        request.calls.clear()
        with contextlib.suppress(Exception):
            request.conversation.close()
