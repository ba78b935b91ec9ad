"""The Python client: one description of each call, driven synchronously or asynchronously."""

from lmaas.client.answers import ChatPiece
from lmaas.client.clients import AsyncClient, Client, connect, connect_async
from lmaas.client.payloads import read_answer, to_payload

__all__ = [
    "AsyncClient",
    "ChatPiece",
    "Client",
    "connect",
    "connect_async",
    "read_answer",
    "to_payload",
]
