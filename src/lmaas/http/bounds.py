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


BOUNDS: Final = Bounds()
