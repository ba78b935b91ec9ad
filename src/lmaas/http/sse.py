"""Server-sent events: framing, and one way to send a generation as a stream.

Knows no protocol: a door says what a delta becomes, what comes last, and how it tells a failure.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, GenerateRequest, Usage
from lmaas.http import errors
from lmaas.http.exchange import EVENTS, Exchange
from lmaas.service import Service
from lmaas.serving.generation import Generation

DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode


class Deltas(Protocol):
    """What is sent: a generation, or several as one."""

    @property
    def usage(self) -> Usage:
        """What it used; complete after the last delta."""

    def close(self) -> None:
        """Stop it unless it is over."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        """Its deltas, as they come."""


class Writer(Protocol):
    """What a door makes of a generation. Each piece is whole events, or empty."""

    def begin(self) -> bytes:
        """What comes before the first delta."""

    def piece(self, delta: Delta) -> bytes:
        """A delta."""

    def end(self, usage: Usage) -> bytes:
        """What comes last."""

    def failed(self, error: LMaaSError) -> bytes:
        """The end of a stream that failed: an error event, and nothing that says all is well."""


async def begin(
    service: Service,
    exchange: Exchange,
    ref: str,
    request: GenerateRequest,
    endpoint: str,
    cache: bool | None,
) -> Generation:
    """Start a request to a model and note in the exchange who answers."""
    assert exchange.key is not None
    generation = await service.calls.generate(
        exchange.key, ref, request, endpoint=endpoint, request_id=exchange.id, cache=cache
    )
    name(exchange, generation)
    return generation


def name(exchange: Exchange, generation: Generation) -> None:
    """Tell in the answer's headers which version answers."""
    exchange.model = generation.version.ref
    exchange.extra += generation.headers
    exchange.extra.append((b"x-lmaas-model", generation.version.ref.encode()))


async def send(
    exchange: Exchange, generation: Deltas, writer: Writer, kind: bytes = EVENTS
) -> None:
    """Send a whole generation. When it fails midway, its caller is told in the stream."""
    exchange.start(kind=kind)
    flowing = exchange.flowing

    def push(data: bytes) -> None:
        exchange.push(unbroken(data))

    first = writer.begin()
    if first:
        push(first)
    try:
        async for delta in generation:
            data = writer.piece(delta)
            if data:
                push(data)
                await flowing()
        push(writer.end(generation.usage))
    except LMaaSError as error:
        push(writer.failed(error))
    finally:
        generation.close()
    exchange.finish()


def unbroken(data: bytes) -> bytes:
    """Events in which JSON text has no character that some clients take for the end of a line.

    JSON needs no escapes for these three, and the standard of events ends no line there, but
    Python's `str.splitlines` does, and with it clients that are written so.
    """
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for character in ("\u2028", "\u2029", "\x85"):
            data = data.replace(character.encode(), b"\\u%04x" % ord(character))
    return data


def event(kind: str, value: Any) -> bytes:
    """A named event with a JSON body."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(value))


def error_data(error: LMaaSError, path: str) -> bytes:
    """An unnamed event with the error's body in the shape of `path`'s protocol."""
    return b"data: %b\n\n" % errors.body_of(error, path)[0]
