"""The ASGI application: key, route, answer; every failure in the shape of its protocol."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lmaas.errors import LMaaSError, NotFound
from lmaas.http import admin, errors, health, huggingface, oip, openai
from lmaas.http.auth import authorize
from lmaas.http.exchange import Exchange, Receive, Send
from lmaas.service import Service

log = logging.getLogger(__name__)
Handler = Callable[[Service, Exchange, dict[str, str]], Awaitable[None]]
REF = r"(?P<ref>[^/]+)"


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


def create_app(service: Service) -> Callable[[dict[str, Any], Receive, Send], Awaitable[None]]:
    """The application of one service."""
    table = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in ROUTES
    ]

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        exchange = Exchange(scope, receive, send)
        start = time.perf_counter()
        try:
            exchange.key = authorize(service, scope)
            await _dispatch(service, exchange, table)
        except LMaaSError as error:
            await _fail(exchange, error)
        except RecursionError:
            await _fail(exchange, LMaaSError("The request is nested too deeply."))
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.id)
            await _fail(exchange, LMaaSError("Internal error.", hint=f"Request {exchange.id}."))
        service.metrics.request(
            exchange.model, exchange.route, exchange.status, time.perf_counter() - start
        )

    return app


async def _dispatch(
    service: Service, exchange: Exchange, table: list[tuple[re.Pattern[str], Route]]
) -> None:
    for pattern, route in table:
        match = pattern.fullmatch(exchange.path)
        if match:
            method = "GET" if exchange.method == "HEAD" else exchange.method
            handler = route.handlers.get(method)
            if handler is None:
                exchange.extra.append((b"allow", ", ".join(route.handlers).encode()))
                await exchange.send_json({"error": "Method not allowed."}, status=405)
                return
            exchange.route = route.path
            await handler(service, exchange, match.groupdict())
            return
    raise NotFound("There is no such route.", hint="GET /v1/models lists the models.")


async def _fail(exchange: Exchange, error: LMaaSError) -> None:
    if exchange.started:
        return
    body, kind = errors.body_of(error, exchange.path)
    exchange.extra += errors.headers_of(error)
    await exchange.send(body, status=errors.status_of(error), kind=kind)
