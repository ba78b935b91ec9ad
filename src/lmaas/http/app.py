"""The application: key, route, answer; every failure in the shape of its protocol."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from lmaas.errors import LMaaSError, MethodNotAllowed, NotFound
from lmaas.http import admin, errors, health, huggingface, oip, openai
from lmaas.http.auth import authorize
from lmaas.http.connection import App
from lmaas.http.exchange import Exchange
from lmaas.service import Service

log = logging.getLogger(__name__)
Handler = Callable[[Service, Exchange, dict[str, str]], Awaitable[None]]
KNOWN_PATHS = 4096
"""So many paths have their route remembered."""


class Route(NamedTuple):
    """A path and what answers it by method. `{ref}` is `name`, `name:3` or `name@alias`."""

    path: str
    handlers: dict[str, Handler]


ROUTES = [
    Route("/models/{ref}", {"POST": huggingface.infer}),
    Route("/v2/models/{ref}/infer", {"POST": oip.infer}),
    Route("/v2/models/{ref}/versions/{version}/infer", {"POST": oip.infer}),
    Route("/v1/models", {"GET": openai.models}),
    Route("/v1/models/{ref}", {"GET": openai.model}),
    Route("/v2", {"GET": oip.server}),
    Route("/v2/health/live", {"GET": health.live}),
    Route("/v2/health/ready", {"GET": health.ready}),
    Route("/v2/models/{ref}", {"GET": oip.model}),
    Route("/v2/models/{ref}/ready", {"GET": oip.model_ready}),
    Route("/v2/models/{ref}/versions/{version}", {"GET": oip.model}),
    Route("/v2/models/{ref}/versions/{version}/ready", {"GET": oip.model_ready}),
    Route("/health/live", {"GET": health.live}),
    Route("/health/ready", {"GET": health.ready}),
    Route("/metrics", {"GET": health.metrics}),
    Route("/api/ps", {"GET": admin.ps}),
    Route("/api/whoami", {"GET": admin.whoami}),
    Route("/api/models/{ref}", {"GET": admin.model, "DELETE": admin.remove}),
    Route("/api/models/{ref}/load", {"POST": admin.load}),
    Route("/api/models/{ref}/stop", {"POST": admin.stop}),
]


def create_app(service: Service) -> App:
    """The application of one service."""
    find = _finder()

    async def app(exchange: Exchange) -> None:
        start = time.perf_counter()
        try:
            exchange.key = authorize(service, exchange)
            route, path = find(exchange.path)
            exchange.route = route.path
            handler = route.handlers.get("GET" if exchange.method == "HEAD" else exchange.method)
            if handler is None:
                allowed = ", ".join(route.handlers)
                exchange.extra.append((b"allow", allowed.encode()))
                raise MethodNotAllowed(f"{route.path} takes {allowed}.")
            await handler(service, exchange, path)
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


def _finder() -> Callable[[str], tuple[Route, dict[str, str]]]:
    table = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in ROUTES
    ]
    known: dict[str, tuple[Route, dict[str, str]]] = {}

    def find(path: str) -> tuple[Route, dict[str, str]]:
        found = known.get(path)
        if found is not None:
            return found
        for pattern, route in table:
            match = pattern.fullmatch(path)
            if match:
                if len(known) >= KNOWN_PATHS:
                    known.clear()
                known[path] = route, match.groupdict()
                return known[path]
        raise NotFound("There is no such route.", hint="GET /v1/models lists the models.")

    return find


def _fail(exchange: Exchange, error: LMaaSError) -> None:
    if exchange.started:
        return
    body, kind = errors.body_of(error, exchange.path)
    exchange.extra += errors.headers_of(error)
    exchange.send(body, status=errors.status_of(error), kind=kind)
