"""Web pages: which origins may call, what their browsers ask first, and what they may read.

A page sends its key itself, never a cookie: so no answer allows credentials, and an origin that is
not named in `allowed_origins` gets nothing.
"""

import re
from typing import Final

from lmaas.config import Settings
from lmaas.errors import Forbidden, InvalidInput
from lmaas.http.exchange import Exchange
from lmaas.http.route import Route

ANY: Final = "*"
METHOD: Final = b"access-control-request-method"
HEADERS: Final = b"access-control-request-headers"
NETWORK: Final = b"access-control-request-private-network"
MAX_HEADERS: Final = 4096
KEPT_S: Final = 600
"""So long a browser keeps what it was answered."""
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")


def admit(settings: Settings, exchange: Exchange, *, open_to_all: bool) -> None:
    """Let the page's browser show it the answer. Raises Forbidden for a page of another origin.

    What is `open_to_all` is answered to everyone; whose page it is then only says who may read it.
    """
    host = exchange.headers.get(b"host", b"").decode("latin-1")
    origins = {value for name, value in exchange.pairs if name == b"origin"}
    own = (f"http://{host}", f"https://{host}")
    allowed = settings.allowed_origins
    if (
        not all(
            ANY in allowed or origin.decode("latin-1") in (*own, *allowed) for origin in origins
        )
        or len(origins) != 1
    ):
        if open_to_all:
            return
        raise Forbidden(
            "Web pages of this origin may not call.", hint="Add it to the setting allowed_origins."
        )
    exchange.extra += [
        (b"access-control-allow-origin", origins.pop()),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"origin"),
    ]


def asks_first(exchange: Exchange) -> bool:
    """Whether a browser asks if it may send a request."""
    return exchange.method == "OPTIONS" and METHOD in exchange.headers


def answer(exchange: Exchange, route: Route) -> None:
    """What a page may send to a route. Needs no key: a browser asks without one."""
    named = exchange.headers.get(HEADERS, b"")
    if len(named) > MAX_HEADERS or not _NAMES.fullmatch(named):
        raise InvalidInput("Access-Control-Request-Headers is no list of names.")
    exchange.route = route.path
    exchange.extra += [
        (b"access-control-allow-methods", ", ".join(route.operations).encode()),
        (b"access-control-allow-headers", named or b"authorization, content-type"),
        (b"access-control-max-age", b"%d" % KEPT_S),
    ]
    if NETWORK in exchange.headers:
        exchange.extra.append((b"access-control-allow-private-network", b"true"))
    exchange.send(b"", status=204)
