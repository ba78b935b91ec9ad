"""Who is asking: the key and the Host of a request. Deny by default; Origins are `http.cors`'s.

Decides on the raw path, never on a URL built from headers.
"""

import base64
import binascii
import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from lmaas.config import Settings
from lmaas.errors import Forbidden, InvalidInput, Unauthorized
from lmaas.http.bounds import BOUNDS
from lmaas.service import Service
from lmaas.types import KeyRecord, Scope

Headers = list[tuple[bytes, bytes]]
SUBPROTOCOL: Final = "openai-insecure-api-key."
"""How OpenAI's client in a browser, where a WebSocket has no headers, sends its key."""
HINT = "Send `Authorization: Bearer sk-lmaas-…`; `lmaas keys create` makes a key."


async def identify(service: Service, headers: Headers, method: str, needed: Scope) -> KeyRecord:
    """The one key that `headers` have, if it may do what is `needed`.

    Raises Unauthorized, Forbidden.
    """
    given = set(_keys(headers, method))
    if len(given) != 1:
        problem = "Two different API keys were sent." if given else "No API key was sent."
        raise Unauthorized(problem, hint=HINT)
    record = await service.authenticate(given.pop())
    if needed not in record.scopes and "admin" not in record.scopes:
        raise Forbidden(
            f"The key {record.id} lacks the scope {needed}.",
            hint=f"Make one with `lmaas keys create --scope {needed}`.",
        )
    return record


def _keys(headers: Headers, method: str) -> Iterable[str]:
    """Keys from what may carry them: Bearer, x-api-key, a browser's Basic or subprotocol."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.decode("latin-1").strip()
        elif name == b"sec-websocket-protocol" and method == "GET":
            for offered in value.decode("latin-1").split(","):
                if offered.strip().startswith(SUBPROTOCOL):
                    yield offered.strip().removeprefix(SUBPROTOCOL)
        elif name == b"authorization":
            kind, _, rest = value.decode("latin-1").strip().partition(" ")
            if kind.lower() == "bearer":
                yield rest.strip()
            elif kind.lower() == "basic" and method in ("GET", "HEAD"):
                try:
                    pair = base64.b64decode(rest, validate=True).decode("latin-1")
                except (binascii.Error, ValueError):
                    raise Unauthorized("The Basic credentials are not base64.", hint=HINT) from None
                yield pair.partition(":")[2]


def check_host(settings: Settings, headers: Headers) -> None:
    """Refuse a foreign Host: a web page that rebinds its name to us has one."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise InvalidInput(f"A request needs one Host header; received {len(hosts)}.")
    if len(hosts[0]) > BOUNDS.host_bytes or not _is_ours(
        _host_name(hosts[0]), settings.host, settings.allowed_hosts
    ):
        raise Forbidden(
            "This Host is not served here.", hint="Add it to the setting allowed_hosts."
        )


@lru_cache(maxsize=256)
def _host_name(host: bytes) -> str:
    try:
        parts = urlsplit(f"//{host.decode('latin-1')}")
        valid = not (parts.path or parts.query or parts.fragment or parts.username)
        return (parts.hostname or "") if valid else ""
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def _is_ours(host: str, bound: str, allowed: tuple[str, ...]) -> bool:
    if host in ("localhost", bound, *allowed):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
