"""The application: key, route, answer; every failure in the shape of its protocol."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import NoReturn

from lmaas.errors import LMaaSError, MethodNotAllowed, NotFound
from lmaas.http import cors, errors
from lmaas.http.auth import check_host, identify
from lmaas.http.bounds import BOUNDS
from lmaas.http.connection import App
from lmaas.http.doors import door_of, hint_for
from lmaas.http.exchange import Exchange
from lmaas.http.route import Access, Route
from lmaas.http.routes import ROUTES
from lmaas.service import Service
from lmaas.types import Scope

log = logging.getLogger(__name__)


def create_app(service: Service) -> App:
    """The application of one service."""
    find, scope_of_unknown = _finder(), _scopes_by_folder()
    settings = service.settings

    async def app(exchange: Exchange) -> None:
        start = time.perf_counter()
        try:
            path = exchange.path
            found = find(path)
            access: Access = scope_of_unknown(path) if found is None else found[0].access
            if access != "open":
                check_host(settings, exchange.pairs)
            if b"origin" in exchange.headers:
                cors.admit(settings, exchange, open_to_all=access == "open")
                if cors.asks_first(exchange):
                    cors.answer(exchange, (found or _refuse(exchange))[0])
                    return
            if access != "open":
                pairs = exchange.pairs
                if found is not None and found[0].find_key is not None:
                    pairs = [*pairs, *await found[0].find_key(service, exchange)]
                exchange.key = await identify(service, pairs, exchange.method, access)
            # A path that is no route is told only to who has a key.
            route, given = found or _refuse(exchange)
            exchange.route = route.path
            method = "GET" if exchange.method == "HEAD" else exchange.method
            operation = route.operations.get(method)
            if operation is None:
                allowed = ", ".join(route.operations)
                exchange.extra.append((b"allow", allowed.encode()))
                raise MethodNotAllowed(
                    f"{route.path} takes {allowed}.", hint=f"Send it with {allowed}."
                )
            if route.path.startswith("/v1/") and _is_anthropics(exchange):
                exchange.extra.append((b"request-id", exchange.id.encode()))
            await operation.handler(service, exchange, given)
        except LMaaSError as error:
            _fail(exchange, error)
        except asyncio.CancelledError:
            # The caller is gone, or the drain is over: nobody reads an answer.
            raise
        except RecursionError:
            _fail(exchange, LMaaSError("The request is nested too deeply."))
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.id)
            _fail(exchange, LMaaSError("Internal error.", hint=f"Request {exchange.id}."))
        finally:
            service.metrics.request(
                exchange.model, exchange.route, exchange.status, time.perf_counter() - start
            )

    return app


def _finder() -> Callable[[str], tuple[Route, dict[str, str]] | None]:
    table = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in ROUTES
    ]
    known: dict[str, tuple[Route, dict[str, str]]] = {}

    def find(path: str) -> tuple[Route, dict[str, str]] | None:
        found = known.get(path)
        if found is not None:
            return found
        for pattern, route in table:
            match = pattern.fullmatch(path)
            if match:
                if len(known) >= BOUNDS.kept_routes:
                    known.clear()
                if len(path) <= BOUNDS.route_chars:
                    known[path] = route, match.groupdict()
                return route, match.groupdict()
        return None

    return find


def _scopes_by_folder() -> Callable[[str], Scope]:
    """What a path that is no route needs: admin below /api/, and where all routes beside it do."""
    folders: dict[str, Scope] = {}
    for route in ROUTES:
        for at in [match.start() for match in re.finditer("/", route.path + "/")]:
            folder = route.path[:at]
            if route.access != "admin":
                folders[folder] = "call"
            else:
                folders.setdefault(folder, "admin")
    deepest = max(folder.count("/") for folder in folders)

    def scope_of(path: str) -> Scope:
        if path.startswith("/api/"):
            return "admin"
        parts = path.split("/", deepest + 1)[: deepest + 1]
        while (scope := folders.get("/".join(parts))) is None:
            parts.pop()
        return scope

    return scope_of


def _refuse(exchange: Exchange) -> NoReturn:
    path = exchange.path
    hint = hint_for(path, door_of(path, exchange.headers), [route.path for route in ROUTES])
    raise NotFound("There is no such route.", hint=hint)


def _is_anthropics(exchange: Exchange) -> bool:
    return door_of(exchange.path, exchange.headers) == "anthropic"


def _fail(exchange: Exchange, error: LMaaSError) -> None:
    if exchange.started:
        exchange.break_off()
        return
    body, kind = errors.body_of(error, exchange.path, exchange.headers, exchange.id)
    exchange.extra += errors.headers_of(error)
    exchange.send(body, status=errors.status_of(error), kind=kind)
