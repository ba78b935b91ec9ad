"""One OpenAI-compatible service: asks it, reads what it answers, and counts.

Knows no pool: whoever holds an `Api` bounds how much is asked of it.
"""

import asyncio
import logging
from typing import Final

import msgspec

from lmaas.errors import TimedOut, Unavailable
from lmaas.generation_types import Delta, Ended, GenerateRequest, Usage
from lmaas.serving import upstream_vectors as vectors
from lmaas.serving.generation import Receiver
from lmaas.serving.http_client import HttpClient, Response
from lmaas.serving.upstream_answer import (
    BROKEN_OFF,
    Events,
    Message,
    decode,
    delta_of,
    usage_of,
    whole,
)
from lmaas.serving.upstream_body import body_of, estimated_tokens, tokens_of
from lmaas.serving.upstream_error import broken_off, error_of
from lmaas.types import Answer, TextsCall, UpstreamSpec

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 256 << 20
MAX_ERROR_BYTES: Final = 1 << 20
EVENTS: Final = b"text/event-stream"


class TokensBody(msgspec.Struct):
    """How many tokens a prompt has."""

    count: int


class Api:
    """A service at `spec.url`, asked with `key`.

    With `socket_path` it is a server of our own on that unix socket, and `spec.url` its root.
    """

    def __init__(
        self, spec: UpstreamSpec, key: str | None, *, socket_path: str | None = None
    ) -> None:
        self._spec = spec
        self._key = key
        self._headers = b"content-type: application/json\r\n"
        if key is not None:
            self._headers += b"authorization: Bearer %b\r\n" % key.encode()
        self.client = HttpClient(
            spec.url,
            max_connections=spec.max_connections,
            connect_timeout_s=spec.connect_timeout_s,
            timeout_s=spec.timeout_s,
            socket_path=socket_path,
        )
        self._base = "" if socket_path is None else "/v1"
        self.estimated = 0
        """Answers that came without a usage, so that their tokens are estimated."""

    async def generate(
        self, request: GenerateRequest, receiver: Receiver, grammar: str | None = None
    ) -> Ended:
        """The answer. Cancelling closes the connection, so that the service stops.

        With `grammar`, which only vLLM takes, a chat keeps to that instead of its format. Tokens
        that the service does not tell are estimated: of the prompt by its bytes, of the answer by
        its chunks, or by its bytes where it came whole. Raises InvalidInput,
        ContextLengthExceeded, QueueFull, TimedOut, Unavailable.
        """
        path, body = body_of(request, self._spec, grammar)
        sent = Sent(request)
        try:
            response = await self._post(self._base + path, body)
            try:
                if request.stream:
                    return await self._stream(response, sent, receiver)
                answer = await response.read(MAX_ANSWER_BYTES)
            finally:
                response.close()
        except asyncio.CancelledError:
            receiver.used(sent.usage())
            raise
        return self._whole(answer, sent)

    async def embed(self, call: TextsCall) -> Answer:
        """The texts' vectors as float32, row after row. Raises as `generate` does."""
        answer = await self._ask(self._base + "/embeddings", vectors.body_of(call, self._spec))
        message = vectors.decode(answer, self.client.origin)
        if message.error is not None:
            raise broken_off(message.error, self.client.origin, self._key)
        rows = vectors.rows_of(message, len(call.texts), self.client.origin)
        if message.usage is not None:
            tokens = max(0, message.usage.prompt_tokens)
        else:
            tokens = self._estimate(Usage(vectors.estimated_tokens(call))).prompt
        return Answer(body=rows.tobytes(), tokens=tokens)

    async def count(self, request: GenerateRequest) -> int:
        """Tokens of the prompt, as a vLLM server counts whose root `spec.url` is."""
        if isinstance(request.prompt, tuple):
            return len(request.prompt)
        _, body = body_of(request, self._spec)
        return msgspec.json.decode(await self._ask("/tokenize", body), type=TokensBody).count

    async def read(self, path: str) -> bytes | None:
        """What the service shows at `path`; None unless it answers well."""
        try:
            response = await self.client.get(path)
            shown = await response.read(MAX_ERROR_BYTES)
        except (Unavailable, TimedOut):
            return None
        return shown if response.status == 200 else None

    async def _ask(self, path: str, body: bytes) -> bytes:
        """The whole answer."""
        response = await self._post(path, body)
        try:
            return await response.read(MAX_ANSWER_BYTES)
        finally:
            response.close()

    async def _post(self, path: str, body: bytes) -> Response:
        response = await self.client.post(path, self._headers, body)
        if response.status == 200 and b"content-encoding" not in response.headers:
            return response
        try:
            if response.status == 200:
                raise Unavailable(f"{self.client.origin} compresses answers though asked not to.")
            answer = await response.read(MAX_ERROR_BYTES)
        finally:
            response.close()
        raise error_of(response.status, response.headers, answer, self.client.origin, self._key)

    async def _stream(self, response: Response, sent: "Sent", receiver: Receiver) -> Ended:
        if not response.headers.get(b"content-type", b"").startswith(EVENTS):
            raise Unavailable(f"{self.client.origin} does not stream, though asked to.")
        events = Events(self.client.origin)
        request = sent.request
        usage: Usage | None = None
        done = False
        unfinished = set(range(request.choices))
        async for data in response.chunks():
            for event in events.feed(data):
                if event == b"[DONE]":
                    done = True
                    continue
                message = decode(event, self.client.origin)
                self._check(message, request)
                if message.usage is not None:
                    usage = usage_of(message.usage)
                    if message.choices and self._spec.dialect == "vllm":
                        sent.tell(message.choices[0].index, usage)
                        usage = None
                for choice in message.choices:
                    if not sent.began:
                        sent.began = True
                        receiver.began(sent.prompt)
                    delta = delta_of(choice)
                    if delta.tokens or delta.finish is not None:
                        receiver.part(sent.counted(delta))
                    if delta.finish is not None:
                        unfinished.discard(delta.index)
        if unfinished and not done:
            raise Unavailable(f"{self.client.origin} ended its answer too early.")
        return Ended(usage or self._estimate(sent.usage()))

    def _whole(self, answer: bytes, sent: "Sent") -> Ended:
        message = decode(answer, self.client.origin)
        self._check(message, sent.request)
        if len(message.choices) != sent.request.choices:
            raise Unavailable(
                f"{self.client.origin} gave {len(message.choices)} choices; "
                f"{sent.request.choices} were asked for."
            )
        if message.usage is not None:
            usage = usage_of(message.usage)
        else:
            deltas = [delta_of(choice) for choice in message.choices]
            sent.tokens = sum(tokens_of(delta.text + delta.reasoning) for delta in deltas)
            usage = self._estimate(sent.usage())
        return whole(message, sent.request, usage)

    def _check(self, message: Message, request: GenerateRequest) -> None:
        """Raises what an error says; Unavailable for a choice nobody asked for, or broken off."""
        if message.error is not None:
            raise broken_off(message.error, self.client.origin, self._key)
        if any(not 0 <= choice.index < request.choices for choice in message.choices):
            raise Unavailable(f"{self.client.origin} gave a choice that was not asked for.")
        if any(choice.finish_reason in BROKEN_OFF for choice in message.choices):
            raise Unavailable(f"{self.client.origin} broke off its answer.")

    def _estimate(self, usage: Usage) -> Usage:
        if not self.estimated:
            log.warning("%s tells no usage: its tokens are estimated.", self.client.origin)
        self.estimated += 1
        return usage


class Sent:
    """A request on its way: what it is known to use so far, told or estimated."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.began = False
        self.tokens = 0
        self._prompt: int | None = None
        self._told: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    @property
    def prompt(self) -> int:
        """How many tokens the prompt has, or about how many."""
        return estimated_tokens(self.request) if self._prompt is None else self._prompt

    def tell(self, index: int, usage: Usage) -> None:
        """So far choice `index` has used this: vLLM says so with every chunk."""
        self._prompt = usage.prompt
        self._told[index] = usage.completion

    def counted(self, delta: Delta) -> Delta:
        """The delta with the tokens told since the last one; unchanged where none are told."""
        told = self._told.get(delta.index)
        if told is not None:
            made = max(0, told - self._counted.get(delta.index, 0))
            self._counted[delta.index] = told
            delta = msgspec.structs.replace(delta, tokens=made)
        self.tokens += delta.tokens
        return delta

    def usage(self) -> Usage:
        """What it used so far."""
        return Usage(self.prompt, max(self.tokens, sum(self._told.values())))
