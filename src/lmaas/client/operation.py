"""One description of a call, a method of both clients."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, get_args, overload

import httpx

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Call = Generator[httpx.Request, httpx.Response, T]
"""Yields requests, is sent their responses, and returns what the call is for."""


class Sending(Protocol):
    """A client whose calls return."""

    def _run(self, call: Call[T]) -> T: ...


class Awaiting(Protocol):
    """A client whose calls are awaited."""

    def _run(self, call: Call[T]) -> Coroutine[Any, Any, T]: ...


class operation(Generic[P, R]):
    """Makes one call a method of both clients: it returns at `Client`, and at `AsyncClient` it is
    awaited."""

    def __init__(self, call: Callable[Concatenate[Any, P], Call[R]]) -> None:
        self.call = call
        self.__name__, self.__doc__ = call.__name__, call.__doc__
        shown = inspect.signature(call)
        self._shown = shown.replace(
            parameters=list(shown.parameters.values())[1:],
            return_annotation=get_args(shown.return_annotation)[2],
        )

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...

    @overload
    def __get__(self, client: Sending, owner: type) -> Callable[P, R]: ...

    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._run(self.call(client, *args, **kwargs))

        functools.update_wrapper(method, self.call)
        method.__signature__ = self._shown  # type: ignore[attr-defined] # as `inspect` reads it
        return method
