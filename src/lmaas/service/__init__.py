"""Every use case once, in plain Python. HTTP, CLI and the Python client are doors to it.

Knows registry, accounts, pool and sandbox; knows no transport. Async verbs run in the server's
event loop, or in a loop of their own where there is no server.
"""

from lmaas.service.calls import Predicted
from lmaas.service.service import Service

__all__ = ["Predicted", "Service"]
