"""Answers that can be given again: exact, of one tenant and one version, never an error.

Only deterministic requests are kept (greedy or seeded). In memory by default; in Redis when several
servers share it. A cache that cannot be reached is a miss, and is told in the log.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from lmaas.errors import MissingExtra
from lmaas.generation_types import Delta, Ended, GenerateRequest
from lmaas.types import ModelVersion

log = logging.getLogger(__name__)

KEEP_S: Final = 86_400
REDIS_TIMEOUT_S: Final = 0.25
LARGEST_SHARE: Final = 8
"""An answer that would take more than this part of the cache is not kept."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ended)


def key_of(version: ModelVersion, variant: str, request: GenerateRequest) -> bytes:
    """What tells one answer from another: tenant, version, name of its variant, and the request.

    Whether the answer is streamed makes no difference, nor the order of a schema's fields.
    """
    normal = msgspec.structs.replace(request, stream=False)
    told = (version.tenant, version.ref, version.created_at, variant, normal)
    plain = msgspec.to_builtins(told, str_keys=True, order="sorted")
    return hashlib.sha256(msgspec.json.encode(plain)).digest()


class Store(Protocol):
    """Where answers are kept."""

    async def get(self, key: bytes) -> bytes | None:
        """What was put, or None."""
        ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, at the expense of others."""
        ...

    async def close(self) -> None:
        """Release it."""
        ...


class Memory:
    """The least recently used answers go first."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._held = 0
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    async def get(self, key: bytes) -> bytes | None:
        """What was put, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, at the expense of others."""
        if len(value) > self._size // LARGEST_SHARE:
            return
        before = self._values.pop(key, b"")
        self._values[key] = value
        self._held += len(value) - len(before)
        while self._held > self._size:
            _, gone = self._values.popitem(last=False)
            self._held -= len(gone)

    async def close(self) -> None:
        """Forget all."""
        self._values.clear()
        self._held = 0


class Redis:
    """Answers in a Redis server, for `KEEP_S`; its own memory policy says what goes first."""

    def __init__(self, url: str) -> None:
        try:
            from redis.asyncio import Redis as Client
        except ModuleNotFoundError:
            raise MissingExtra(
                "redis_url is set, but the Redis client is not installed.",
                hint="pip install 'lmaas[redis]'.",
            ) from None
        self._client: Any = Client.from_url(
            url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )

    async def get(self, key: bytes) -> bytes | None:
        """What was put, or None; None too when Redis does not answer in time."""
        from redis import RedisError

        try:
            value = await self._client.get(_name(key))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("The response cache does not answer: %s", error)
            return None
        return None if value is None else bytes(value)

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, if Redis answers."""
        from redis import RedisError

        try:
            await self._client.set(_name(key), value, ex=KEEP_S)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("The response cache does not answer: %s", error)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _name(key: bytes) -> str:
    return f"lmaas:answer:{key.hex()}"


class ResponseCache:
    """Finished answers by request."""

    def __init__(self, size_bytes: int, redis_url: str | None) -> None:
        self._store: Store = Redis(redis_url) if redis_url else Memory(size_bytes)

    async def get(self, key: bytes) -> Ended | None:
        """The answer that was given to the same request before."""
        value = await self._store.get(key)
        if value is None:
            return None
        try:
            return _decoder.decode(value)
        except msgspec.DecodeError:
            return None  # another release's record

    async def put(self, key: bytes, ended: Ended, deltas: Sequence[Delta]) -> None:
        """Keep a complete answer, as one delta a choice."""
        whole = Ended(ended.usage, joined(deltas), ended.prompt_logprobs)
        await self._store.put(key, _encoder.encode(whole))

    async def get_bytes(self, key: bytes) -> bytes | None:
        """An answer as it was given to `put_bytes`."""
        return await self._store.get(key)

    async def put_bytes(self, key: bytes, answer: bytes) -> None:
        """Keep an answer whose form is its maker's own."""
        await self._store.put(key, answer)

    async def close(self) -> None:
        """Release the store."""
        await self._store.close()


def joined(deltas: Sequence[Delta]) -> tuple[Delta, ...]:
    """The deltas of each choice as one."""
    by_choice: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_choice.setdefault(delta.index, []).append(delta)
    return tuple(_join(index, parts) for index, parts in sorted(by_choice.items()))


def _join(index: int, parts: Sequence[Delta]) -> Delta:
    calls: dict[int, Any] = {}
    for piece in (call for part in parts for call in part.calls):
        known = calls.get(piece.position)
        if known is not None:
            piece = type(piece)(
                piece.position, known.id, known.name, known.arguments + piece.arguments
            )
        calls[piece.position] = piece
    return Delta(
        index,
        "".join(part.text for part in parts),
        sum(part.tokens for part in parts),
        parts[-1].finish,
        "".join(part.reasoning for part in parts),
        tuple(calls.values()),
        tuple(score for part in parts for score in part.logprobs),
    )
