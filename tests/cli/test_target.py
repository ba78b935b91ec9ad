"""Commands call the same verbs whether a server is named or this home does the work."""

import asyncio
import inspect
from typing import Any

import pytest

from lmaas.cli.target import Home
from lmaas.client import AsyncClient, Client
from lmaas.client.calls import Calls
from lmaas.client.operation import operation
from servers import Running

OPERATIONS = {name: each for name, each in vars(Calls).items() if isinstance(each, operation)}
LOCAL = [name for name in vars(Home) if not name.startswith("_")]


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    given = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in given]


@pytest.mark.parametrize("name", LOCAL)
def test_a_home_takes_what_a_client_takes(name: str) -> None:
    client = Client("http://127.0.0.1:1", None)
    assert shape(getattr(client, name)) == shape(getattr(Home(None, ""), name))  # type: ignore[arg-type] # not called


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_clients_show_an_operation_as_its_own_method(name: str) -> None:
    for client in (Client("http://127.0.0.1:1", None), AsyncClient("http://127.0.0.1:1", None)):
        method = getattr(client, name)
        shown = inspect.signature(method)
        assert "self" not in shown.parameters
        assert "Generator" not in str(shown.return_annotation)
        assert method.__name__ == name
        assert inspect.getdoc(method) == inspect.getdoc(getattr(type(client), name))
        assert name in dir(client)


def test_one_returns_and_the_other_is_awaited(server: Running) -> None:
    with Client(server.url, server.key) as client:
        names: list[str] = client.models()

    async def ask() -> list[str]:
        async with AsyncClient(server.url, server.key) as waiting:
            return await waiting.models()

    assert asyncio.run(ask()) == names
