"""The server process: bind, lock, first key, serve, drain."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import uvloop

from lmaas.aside import guard_this_thread
from lmaas.config import Settings
from lmaas.errors import AlreadyRunning, ConfigError, MissingExtra
from lmaas.http.app import create_app
from lmaas.http.connections import Connections
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT

if TYPE_CHECKING:
    from lmaas.http.grpc_server import Door

BACKLOG = 1024
LAST_WORDS_S: Final = 2.0


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises AlreadyRunning, ConfigError."""
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # It logs each address that it asks, and those of downloads may be signed.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # A home's tables are made and brought up to date without a word, unless something is wrong.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with HomeLock(settings.home_path) as lock, contextlib.closing(Service(settings)) as service:
        _check_bind(settings, service)
        listener = bind(settings)
        url = f"http://{_show(settings.host)}:{listener.getsockname()[1]}"
        if not service.keys.any():
            _, text = service.create_key(TENANT, "first admin key", ("admin", "call"))
            sys.stderr.write(f"Admin key (shown this once): {text}\n")
        lock.write({"url": url})
        sys.stderr.write(f"Serving on {url}\n")
        sys.stderr.flush()

        def told(grpc: str) -> None:
            lock.write({"url": url, "grpc": grpc})
            sys.stderr.write(f"Serving gRPC on {grpc}\n")
            sys.stderr.flush()

        uvloop.run(serve(service, listener, told))
    return 0


async def serve(
    service: Service, listener: socket.socket, told: Callable[[str], None] = lambda _: None
) -> None:
    """Answer on `listener` until a signal, then drain; a second signal ends everything at once.

    `told` hears where gRPC is served, if it is.
    """
    loop = asyncio.get_running_loop()
    stop, force = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (force if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    connections = Connections(create_app(service), service.settings)
    guard_this_thread()
    await service.check_isolation()
    await service.start()
    await service.start_jobs()
    server = await loop.create_server(connections.make, sock=listener, backlog=BACKLOG)
    watch = service.supervisor.keep("connections", connections.watch)
    door = await _start_grpc(service, told)
    # What lives from now on lives as long as the server: a full collection would stop every
    # request to look at it.
    gc.collect()
    gc.freeze()
    await stop.wait()
    draining = asyncio.ensure_future(_drain(service, connections, door))
    forced = asyncio.ensure_future(force.wait())
    await asyncio.wait((draining, forced), return_when=asyncio.FIRST_COMPLETED)
    for task in (watch, draining, forced):
        task.cancel()
    server.close()
    await connections.drain(0)


async def _start_grpc(service: Service, told: Callable[[str], None]) -> "Door | None":
    if service.settings.grpc_port is None:
        return None
    # Workers are other programs, started by exec: gRPC has nothing to do when this one forks.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from lmaas.http.grpc_server import Door
    except ImportError:
        raise MissingExtra(
            "The setting grpc_port needs gRPC.", hint="pip install 'lmaas[grpc]'."
        ) from None
    door = Door(service)
    told(await door.start())
    return door


async def _drain(service: Service, connections: Connections, door: "Door | None") -> None:
    """One deadline for requests and workers; until it, health says that nothing new is taken.

    What the deadline ends is told so: its connection has a moment more for that.
    """
    timeout_s = service.settings.drain_timeout_s
    ending = [service.drain(timeout_s), connections.drain(timeout_s + LAST_WORDS_S)]
    if door is not None:
        ending.append(door.stop(timeout_s + LAST_WORDS_S))
    await asyncio.gather(*ending)


def bind(settings: Settings) -> socket.socket:
    """A listening socket. Raises AlreadyRunning when the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for a socket that says it is TCP; with it on, an
    # answer sent in two parts waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        # Whoever reads the address from the lock may connect at once, and waits in the backlog.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AlreadyRunning(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.",
            hint="Stop what uses the port, or choose another with --port (0 takes a free one).",
        ) from None
    return listener


def _check_bind(settings: Settings, service: Service) -> None:
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not loopback and not service.keys.any():
        raise ConfigError(
            f"{settings.host} is reachable from other machines and no key exists yet.",
            hint="Make a key first: lmaas keys create --name admin --scope admin.",
            param="host",
        )


def _show(host: str) -> str:
    return f"[{host}]" if ":" in host else host
