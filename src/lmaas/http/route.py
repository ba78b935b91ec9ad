"""What a route is: a path, who may ask, and for each method a handler, what it takes and gives."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

from lmaas.http.exchange import Exchange
from lmaas.service import Service

Access = Literal["open", "call", "admin"]
"""The scope that a key needs, for all methods of a route. "open": no key is asked for, and any Host
is served, since a probe knows an address and not a name."""
Handler = Callable[[Service, Exchange, dict[str, str]], Awaitable[None]]
FindKey = Callable[[Service, Exchange], Awaitable[list[tuple[bytes, bytes]]]]
"""What looks for a key elsewhere than in the headers, and gives it as one."""


class Operation(NamedTuple):
    """One method of a path. The handler's docstring says what it does.

    `body` and `answer` are types (JSON) or media types (anything else); `query` names the query
    parameters that are read: others change nothing, since stock clients send some of their own.
    One with the status 101 opens a WebSocket.
    What it `queues` is a job: it is waited for, or with wait=false answered at once, with 202.
    """

    handler: Handler
    body: tuple[Any, ...] = ()
    answer: tuple[Any, ...] = ()
    query: tuple[str, ...] = ()
    status: int = 200
    queues: bool = False


class Route(NamedTuple):
    """A path and what answers it by method. `{ref}` is `name`, `name:3` or `name@alias`.

    `find_key` is that of protocols whose clients send a key in the body.
    """

    path: str
    access: Access
    operations: dict[str, Operation]
    find_key: FindKey | None = None
