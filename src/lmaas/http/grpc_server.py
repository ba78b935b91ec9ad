"""The Open Inference Protocol over gRPC: keys in the metadata, the same service, the same answers.

A caller is known before a byte of its message is read. Needs the extra `grpc`.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import grpc
import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from lmaas.config import Settings
from lmaas.errors import AlreadyRunning, InvalidInput, LMaaSError, ModelNotFound
from lmaas.http import errors, grpc_messages, oip_models
from lmaas.http.auth import identify
from lmaas.http.grpc_infer import payload_of, response_of
from lmaas.http.route import Access
from lmaas.service import Service
from lmaas.types import KeyRecord

log = logging.getLogger(__name__)

INLINE_BYTES: Final = 1 << 20
"""A larger message is read and written in a thread."""
MAX_METADATA_BYTES: Final = 16_384
MAX_STREAMS: Final = 128
"""So many calls one connection may have at once."""
WINDOW: Final = 16
"""So many requests of one stream run at once; their answers come in order."""
IDLE_MS: Final = 300_000
PING_MS: Final = 60_000
MAX_TOLD: Final = 2000
STREAM: Final = "ModelStreamInfer"
METHODS: Final[dict[str, Access]] = {
    "ServerLive": "open",
    "ServerReady": "open",
    "ServerMetadata": "call",
    "ModelReady": "call",
    "ModelMetadata": "call",
    "ModelConfig": "call",
    "ModelStatistics": "call",
    "ModelInfer": "call",
    STREAM: "call",
    "RepositoryIndex": "call",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}
"""All methods that are served, and what each asks of a key."""
CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""gRPC's word for an HTTP status; INTERNAL for all others."""

_PREFIX = f"grpc-{secrets.token_hex(6)}"
_numbers = itertools.count()


class Call(NamedTuple):
    """What a method is told: who asks, the request's id, the message, where headers go."""

    key: KeyRecord | None
    id: str
    request: Any
    headers: list[tuple[str, str]]

    @property
    def tenant(self) -> str:
        """The tenant that asks."""
        assert self.key is not None
        return self.key.tenant


class Methods:
    """The protocol's methods, each from its request to its response, as records."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, call: Call) -> Any:
        """The process answers."""
        return {"live": True}

    async def ServerReady(self, call: Call) -> Any:
        """Whether new requests are accepted."""
        return {"ready": self._service.ready()}

    async def ModelReady(self, call: Call) -> Any:
        """Whether the model exists: it loads on its first call."""
        try:
            await self._service.find(call.tenant, _ref(call.request))
        except ModelNotFound:
            return {"ready": False}
        return {"ready": True}

    async def ServerMetadata(self, call: Call) -> Any:
        """Name, version and extensions of this server."""
        return oip_models.server_metadata()

    async def ModelMetadata(self, call: Call) -> Any:
        """A model's versions, inputs and outputs."""
        return await oip_models.metadata(self._service, call.tenant, _ref(call.request))

    async def ModelConfig(self, call: Call) -> Any:
        """How a model is served."""
        return {"config": await oip_models.config(self._service, call.tenant, _ref(call.request))}

    async def ModelStatistics(self, call: Call) -> Any:
        """What one version did, or the latest of each model."""
        ref = _ref(call.request) or None
        return await oip_models.statistics(self._service, call.tenant, ref)

    async def RepositoryIndex(self, call: Call) -> Any:
        """The latest version of each model."""
        body = oip_models.IndexBody(
            ready=call.request.ready, repository_name=call.request.repository_name
        )
        return {"models": await oip_models.index(self._service, call.tenant, body)}

    async def RepositoryModelLoad(self, call: Call) -> Any:
        """Load a model now."""
        _check_control(call.request)
        await self._service.load_model(call.tenant, call.request.model_name)
        return {}

    async def RepositoryModelUnload(self, call: Call) -> Any:
        """Unload a model after its running requests."""
        _check_control(call.request)
        await self._service.stop_model(call.tenant, call.request.model_name)
        return {}

    async def ModelInfer(self, call: Call) -> Any:
        """Run raw tensors."""
        assert call.key is not None
        request = call.request
        payload = await _apart(request.ByteSize(), payload_of, request)
        ref = oip_models.ref_of(request.model_name, request.model_version)
        version, answer, headers = await self._service.calls.predict(
            call.key, ref, payload, endpoint="infer", request_id=call.id
        )
        call.headers.append(("x-lmaas-model", version.ref))
        call.headers.extend((name.decode(), value.decode()) for name, value in headers)
        return await _apart(len(answer.body), response_of, answer)


class Door:
    """The server: listens from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        self._methods = Methods(service)
        self._server = grpc.aio.server(
            interceptors=(Guard(service),),
            maximum_concurrent_rpcs=settings.max_connections,
            options=_options(settings),
        )
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name))
            for name in METHODS
            if name != STREAM
        }
        handlers[STREAM] = grpc.stream_stream_rpc_method_handler(self._stream)
        handler = grpc.method_handlers_generic_handler(grpc_messages.SERVICE, handlers)
        self._server.add_generic_rpc_handlers((handler,))

    async def start(self) -> str:
        """Listen; the address. Raises AlreadyRunning when the port is taken."""
        settings = self._service.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise AlreadyRunning(
                f"Cannot listen on {host}:{settings.grpc_port}: {error}.",
                hint="Choose another grpc_port (0 takes a free one).",
            ) from None
        await self._server.start()
        return f"{host}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, and end what is left after `grace_s`."""
        await self._server.stop(grace_s)

    def _unary(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(raw: bytes, context: Any) -> bytes:
            headers: list[tuple[str, str]] = []
            try:
                told = await self._run(name, raw, context, headers)
            except LMaaSError as error:
                await _abort(context, error, headers)
                raise AssertionError("abort raises") from None
            context.set_trailing_metadata(tuple(headers))
            return told

        return answer

    async def _run(
        self, name: str, raw: bytes, context: Any, headers: list[tuple[str, str]]
    ) -> bytes:
        """One message in, one out. Raises LMaaSError, and nothing else for what a caller sends."""
        start, status, id_ = time.perf_counter(), 500, f"{_PREFIX}{next(_numbers):010x}"
        headers.append(("x-request-id", id_))
        try:
            key = await who(self._service, context.invocation_metadata(), name)
            request = await _apart(len(raw), _read, f"{name}Request", raw)
            told = await getattr(self._methods, name)(Call(key, id_, request, headers))
            message = told if hasattr(told, "SerializeToString") else _write(name, told)
            out: bytes = await _apart(message.ByteSize(), message.SerializeToString)
            status = 200
            return out
        except LMaaSError as error:
            status = errors.status_of(error)
            raise
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception:
            log.exception("%s %s failed", name, id_)
            raise LMaaSError("Internal error.", hint=f"Request {id_}.") from None
        finally:
            model = next((value for key, value in headers if key == "x-lmaas-model"), "")
            seconds = time.perf_counter() - start
            self._service.metrics.request(model, f"grpc {name}", status, seconds)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answers in the order of their requests; what goes wrong with one is its answer."""
        waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(WINDOW)
        running: set[asyncio.Task[bytes]] = set()

        async def one(raw: bytes) -> bytes:
            response = grpc_messages.of("ModelStreamInferResponse")()
            try:
                told = await self._run("ModelInfer", raw, context, [])
                return bytes(await _apart(len(told), _wrap, response, told))
            except LMaaSError as error:
                response.error_message = str(error)[:MAX_TOLD]
                return bytes(response.SerializeToString())

        async def pump() -> None:
            async for raw in requests:
                task = asyncio.create_task(one(raw))
                running.add(task)
                task.add_done_callback(running.discard)
                await waiting.put(task)
            await waiting.put(None)

        pumping = asyncio.create_task(pump())
        try:
            while (task := await waiting.get()) is not None:
                yield await task
        finally:
            for each in (pumping, *running):
                each.cancel()
            await asyncio.gather(pumping, *running, return_exceptions=True)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Turns away who has no key, before the message is read: it may be large."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The method's own handler, or one that reads nothing and refuses."""
        name = details.method.rpartition("/")[2]
        try:
            await who(self._service, details.invocation_metadata, name)
        except LMaaSError as error:
            refusal = error

            async def refuse(requests: Any, context: Any) -> AsyncIterator[bytes]:
                await _abort(context, refusal, [])
                yield b""

            return grpc.stream_stream_rpc_method_handler(refuse)
        return await continuation(details)


async def who(service: Service, metadata: Any, name: str) -> KeyRecord | None:
    """The key of a call; None for the open methods. Raises Unauthorized, Forbidden.

    A method that is none is told only to who has a key.
    """
    access = METHODS.get(name, "call")
    if access == "open":
        return None
    pairs = [
        (key.encode(), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for key, value in metadata or ()
    ]
    return await identify(service, pairs, "POST", access)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.so_reuseport", 0),
    ]


def _ref(request: Any) -> str:
    return oip_models.ref_of(request.name, request.version)


def _check_control(request: Any) -> None:
    for name, value in request.parameters.items():
        if name != "unload_dependents" or value.bool_param:
            raise InvalidInput(f"The parameter {name[:100]!r} is not supported.", param=name)
    if request.repository_name:
        raise InvalidInput("There is one repository, without a name.", param="repository_name")


def _read(name: str, raw: bytes) -> Any:
    try:
        return grpc_messages.of(name).FromString(raw)
    except DecodeError:
        raise InvalidInput(f"The message is no {name}.") from None


def _write(name: str, told: Any) -> Any:
    """A record as the method's response: their fields have the same names."""
    return json_format.ParseDict(
        msgspec.to_builtins(told),
        grpc_messages.of(f"{name}Response")(),
        ignore_unknown_fields=False,
    )


def _wrap(response: Any, told: bytes) -> bytes:
    response.infer_response.MergeFromString(told)
    return bytes(response.SerializeToString())


async def _apart(size: int, work: Callable[..., Any], *given: Any) -> Any:
    """`work`, in a thread where it is about much."""
    if size <= INLINE_BYTES:
        return work(*given)
    return await asyncio.to_thread(work, *given)


async def _abort(context: Any, error: LMaaSError, headers: list[tuple[str, str]]) -> None:
    code = CODES.get(errors.status_of(error), grpc.StatusCode.INTERNAL)
    told = [(name.decode(), value.decode()) for name, value in errors.headers_of(error)]
    metadata = (*headers, *told, ("x-lmaas-code", error.code))
    await context.abort(code, str(error)[:MAX_TOLD].encode("ascii", "backslashreplace").decode(),
                        metadata)  # fmt: skip
