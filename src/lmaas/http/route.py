"""What a route is: a path, and for each method a handler with what it takes and gives."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lmaas.http.exchange import Exchange
from lmaas.service import Service

Handler = Callable[[Service, Exchange, dict[str, str]], Awaitable[None]]


class Operation(NamedTuple):
    """One method of a path. The handler's docstring says what it does.

    `body` and `answer` are types (JSON) or media types (anything else); `query` names the query
    parameters that are read: others change nothing, since stock clients send some of their own.
    """

    handler: Handler
    body: tuple[Any, ...] = ()
    answer: tuple[Any, ...] = ()
    query: tuple[str, ...] = ()
    status: int = 200


class Route(NamedTuple):
    """A path and what answers it by method. `{ref}` is `name`, `name:3` or `name@alias`."""

    path: str
    operations: dict[str, Operation]
