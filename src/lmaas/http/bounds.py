"""Everything that a peer can send or have kept, and how much of it: one table.

Settings bound what is about models: bodies, connections, waiting requests. What one connection can
hold is at most a head, a head's worth of trailers, `body_buffer_bytes` and as much again on its way
through the system, so that `max_connections` of them hold a known part of memory at most.
"""

from typing import Final, NamedTuple


class Bounds(NamedTuple):
    """What is beyond is refused, or not kept."""

    head_bytes: int = 65_536
    """Request line and headers."""
    headers: int = 256
    trailer_bytes: int = 8_192
    """Headers after a body that comes in chunks; they are read and dropped."""
    pipelined: int = 32
    """Requests that wait behind one that is answered; then no more is read."""
    body_buffer_bytes: int = 262_144
    """So much of a body waits for its handler; then the client has to wait too."""
    kept_routes: int = 1_024
    """Paths whose route is remembered."""
    route_chars: int = 256
    """The longest path that is remembered."""
    host_bytes: int = 300
    """The longest Host and Origin: a name has 253 bytes at most."""
    ahead_bytes: int = 65_536
    """What comes after a request to open a WebSocket, before that is answered."""


class SocketBounds(NamedTuple):
    """Of each WebSocket. A peer that is beyond is disconnected, or has to wait."""

    message_bytes: int = 4_194_304
    """The longest message, all its fragments together."""
    waiting_bytes: int = 1_048_576
    """So much of messages waits for its handler; then the peer has to wait too."""
    frames_per_s: int = 1_000
    """Frames that are taken in a second; then the peer has to wait."""
    pause_s: float = 0.1
    """How long it waits then."""
    ping_s: float = 20.0
    """After so long a silence the peer is asked for a sign of life, and has as long to give it."""
    idle_s: float = 300.0
    """How long a peer may send no message."""
    close_s: float = 5.0
    """How long a peer has to answer a goodbye."""


BOUNDS: Final = Bounds()
SOCKET_BOUNDS: Final = SocketBounds()
