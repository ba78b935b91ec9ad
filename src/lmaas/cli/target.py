"""Where a command's call goes: the server it names, or the live server of this home."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmaas.cli.output import service_of
from lmaas.errors import Unavailable

if TYPE_CHECKING:
    from lmaas.client import Client

KEY_NAME = "lmaas command line"
"""The name of keys that live as long as one command; `lmaas keys list` hides revoked keys."""


@contextmanager
def server_or_none(flags: dict[str, Any]) -> "Iterator[Client | None]":
    """A client of the server to talk to; None when none is named and none of this home lives.

    Whoever can write the home can make keys in it, so its own server needs none to be given:
    the command makes one and revokes it at its end.
    """
    from lmaas.client import Client
    from lmaas.config import load_settings
    from lmaas.registry.lock import HomeLock
    from lmaas.types import TENANT

    settings = load_settings(flags)
    live = HomeLock.read(settings.home_path) or {}
    url = settings.url or live.get("url")
    if url is None:
        yield None
    elif settings.url or settings.key:
        with Client(url, settings.key) as client:
            yield client
    else:
        with service_of(flags) as service:
            record, key = service.create_key(TENANT, KEY_NAME, ("admin", "call"))
            try:
                with Client(url, key) as client:
                    yield client
            finally:
                service.revoke_key(TENANT, record.id)


@contextmanager
def server_of(flags: dict[str, Any]) -> "Iterator[Client]":
    """A client of the server to talk to. Raises Unavailable when there is none."""
    with server_or_none(flags) as client:
        if client is None:
            raise Unavailable(
                "No server of this home runs.",
                hint="Start one with `lmaas serve`, or name one with --url.",
            )
        yield client
