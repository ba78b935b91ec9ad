"""Images that a conversation names by URL: fetched from listed hosts, bounded, never decoded.

A name is looked up once, and connected is to the address that was looked at. No redirect is
followed, nothing inside is reached, and no other scheme than https is known, or http where an
operator has listed it. Runs as tasks of the server: neither a worker nor the loop waits.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import SplitResult

import msgspec

from lmaas.errors import ConfigError, InvalidInput, LMaaSError, PayloadTooLarge, TimedOut
from lmaas.generation_types import MAX_FILE_BYTES, ChatMessage, FilePart, GenerateRequest, Part
from lmaas.serving.egress import EgressPolicy
from lmaas.serving.http_client import HttpClient, check_url

MAX_URL_CHARS: Final = 2048
CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 5.0
FETCH_TIMEOUT_S: Final = 20.0
"""For one image, from looking its host up to its last byte."""
MAX_AT_ONCE: Final = 16
"""Of the whole server; others wait."""
OK: Final = 200
SCHEMES: Final = ("http://", "https://")


class Place(NamedTuple):
    """What is asked where; `host` is the listed one."""

    origin: str
    host: str
    target: str


class ImageUrls:
    """Fetches from `hosts`: names (https, port 443), or origins (`http://images.internal:8080`).

    `policy` says which addresses they may lead to. Raises ConfigError for an entry that is neither.
    """

    def __init__(self, hosts: Sequence[str], policy: EgressPolicy) -> None:
        self._origins = {_listed(entry) for entry in hosts}
        self._policy = policy
        self._room = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetched(self, request: GenerateRequest, most_bytes: int) -> GenerateRequest:
        """The request with each image that it names by URL as base64, one after the other.

        All together they have at most `most_bytes`. Raises InvalidInput, PayloadTooLarge, TimedOut
        naming the part.
        """
        if not any(_is_url(file) for file in request.files):
            return request
        left = most_bytes
        known: dict[str, str] = {}
        messages: list[ChatMessage] = []
        for message in request.messages:
            content = message.content
            if isinstance(content, tuple):
                parts: list[Part] = []
                for part in content:
                    if isinstance(part, FilePart) and _is_url(part):
                        if part.data not in known:
                            data = await self._fetch(part, min(MAX_FILE_BYTES, left))
                            left -= len(data)
                            known[part.data] = await asyncio.to_thread(_base64, data)
                        part = msgspec.structs.replace(part, data=known[part.data])
                    parts.append(part)
                message = msgspec.structs.replace(message, content=tuple(parts))
            messages.append(message)
        return msgspec.structs.replace(request, messages=tuple(messages))

    async def _fetch(self, file: FilePart, most_bytes: int) -> bytes:
        place = self._place(file)
        async with self._room:
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    return await self._get(place, most_bytes)
            except TimeoutError:
                raise TimedOut(
                    f"{file.place}: {place.origin} did not send the image within "
                    f"{FETCH_TIMEOUT_S:g} s.",
                    param=file.place,
                ) from None
            except (PayloadTooLarge, TimedOut) as error:
                raise type(error)(f"{file.place}: {error.message}", param=file.place) from None
            except LMaaSError as error:
                raise InvalidInput(
                    f"{file.place} cannot be fetched: {error.message}", param=file.place
                ) from None

    async def _get(self, place: Place, most_bytes: int) -> bytes:
        client = HttpClient(
            place.origin,
            max_connections=1,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            timeout_s=SILENCE_TIMEOUT_S,
            check=self._policy.check(place.host),
        )
        try:
            response = await client.get(place.target)
            if response.status != OK:
                told = "; redirects are not followed" if 300 <= response.status < 400 else ""
                raise InvalidInput(f"{place.origin} answered with status {response.status}{told}.")
            said = response.headers.get(b"content-length", b"0")
            if said.isdigit() and int(said[:20]) > most_bytes:
                raise _too_many(place, most_bytes)
            parts, size = [], 0
            async for part in response.chunks():
                size += len(part)
                if size > most_bytes:
                    raise _too_many(place, most_bytes)
                parts.append(part)
            return b"".join(parts)
        finally:
            client.close()

    def _place(self, file: FilePart) -> Place:
        """What is asked, and where. Raises InvalidInput for what is not listed."""
        try:
            base, mark, query = _bounded(file.data).partition("?")
            parts = check_url(base)
            if "#" in query or any(ord(char) <= 32 or ord(char) > 126 for char in query):
                raise InvalidInput("A URL has no fragment, blanks or such.")
        except InvalidInput as error:
            raise InvalidInput(f"{file.place}: {error.message}", param=file.place) from None
        origin = _origin(parts)
        if origin not in self._origins:
            raise InvalidInput(
                f"{file.place} is a URL of {origin[:300]}, from which no images are fetched here.",
                hint="Send the image as a data: URL, or list the host in the setting image_hosts.",
                param=file.place,
            )
        return Place(origin, str(parts.hostname), f"{parts.path or '/'}{mark}{query}")


def _is_url(file: FilePart) -> bool:
    return file.kind == "image" and file.data[:8].lower().startswith(SCHEMES)


def _bounded(url: str) -> str:
    if len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"A URL has at most {MAX_URL_CHARS} characters.")
    return url


def _origin(parts: SplitResult) -> str:
    """One spelling of scheme, host and port."""
    host = str(parts.hostname)
    shown = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    port = parts.port or default
    return f"{parts.scheme}://{shown}" + ("" if port == default else f":{port}")


def _listed(entry: str) -> str:
    try:
        parts = check_url(entry if "://" in entry else f"https://{entry}")
    except InvalidInput as error:
        raise ConfigError(
            f"image_hosts names hosts (images.example.com) or origins (http://host:8080); "
            f"received {entry!r}: {error.message}",
            param="image_hosts",
        ) from None
    if parts.path not in ("", "/"):
        raise ConfigError(f"image_hosts names hosts, not paths: {entry!r}.", param="image_hosts")
    return _origin(parts)


def _too_many(place: Place, most_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"{place.origin} sends more than {most_bytes} bytes.")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
