"""The application: key, route, answer; every failure in the shape of its protocol."""

import asyncio
import logging
import re
import time
from collections.abc import Callable

from lmaas.errors import LMaaSError, MethodNotAllowed, NotFound
from lmaas.http import cors, errors
from lmaas.http.auth import OPEN, authorize, check_host
from lmaas.http.bounds import BOUNDS
from lmaas.http.connection import App
from lmaas.http.doors import door_of, hint_for
from lmaas.http.exchange import Exchange
from lmaas.http.route import Route
from lmaas.http.routes import ROUTES
from lmaas.service import Service

log = logging.getLogger(__name__)


def create_app(service: Service) -> App:
    """The application of one service."""
    find = _finder()
    settings = service.settings

    async def app(exchange: Exchange) -> None:
        start = time.perf_counter()
        try:
            path = exchange.path
            if path not in OPEN:
                check_host(settings, exchange.pairs)
            if b"origin" in exchange.headers:
                cors.admit(settings, exchange, open_to_all=path in OPEN)
                if cors.asks_first(exchange):
                    cors.answer(exchange, find(path, exchange)[0])
                    return
            exchange.key = await authorize(service, exchange)
            route, given = find(path, exchange)
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


def _finder() -> Callable[[str, Exchange], tuple[Route, dict[str, str]]]:
    table = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in ROUTES
    ]
    known: dict[str, tuple[Route, dict[str, str]]] = {}

    def find(path: str, exchange: Exchange) -> tuple[Route, dict[str, str]]:
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
        hint = hint_for(path, door_of(path, exchange.headers), [route.path for route in ROUTES])
        raise NotFound("There is no such route.", hint=hint)

    return find


def _is_anthropics(exchange: Exchange) -> bool:
    return door_of(exchange.path, exchange.headers) == "anthropic"


def _fail(exchange: Exchange, error: LMaaSError) -> None:
    if exchange.started:
        exchange.break_off()
        return
    body, kind = errors.body_of(error, exchange.path, exchange.headers, exchange.id)
    exchange.extra += errors.headers_of(error)
    exchange.send(body, status=errors.status_of(error), kind=kind)
