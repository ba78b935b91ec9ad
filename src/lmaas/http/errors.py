"""Which HTTP status an error has, and how each protocol's clients expect to read it."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lmaas import errors
from lmaas.http.doors import door_of

STATUS: dict[type[errors.LMaaSError], int] = {
    errors.HeadTooLarge: 431,
    errors.PayloadTooLarge: 413,
    errors.TooSlow: 408,
    errors.MethodNotAllowed: 405,
    errors.UpgradeRequired: 426,
    errors.InvalidInput: 400,
    errors.ParityFailed: 422,
    errors.NotFound: 404,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.Conflict: 409,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.InsufficientQuota: 429,
    errors.Quarantined: 422,
    errors.StorageFull: 507,
    errors.CorruptBlob: 500,
    errors.DoesNotFit: 503,
    errors.MissingExtra: 501,
    errors.Unavailable: 503,
    errors.BadGateway: 502,
    errors.TimedOut: 504,
    errors.Cancelled: 499,
}
"""Looked up along the class hierarchy, nearest first; 500 for anything else."""

TYPES: Final = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip
"""OpenAI's and Anthropic's types; other refusals are `invalid_request_error`."""
ANTHROPIC_TYPES: Final = TYPES | {
    413: "request_too_large", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip

COMPREFACE_CODES: Final[dict[type[errors.LMaaSError], int]] = {
    errors.NoFace: 28,
    errors.SeveralFaces: 31,
    errors.NotFound: 11,
    errors.InvalidInput: 26,
}
"""CompreFace's numbers; 0 for anything else."""


def status_of(error: errors.LMaaSError) -> int:
    """The status of an error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def headers_of(error: errors.LMaaSError) -> list[tuple[bytes, bytes]]:
    """Headers that go with an error: when to retry, what limits leave, how to authenticate."""
    match error:
        case errors.QueueFull():
            return [(b"retry-after", str(max(1, error.retry_after_s)).encode())]
        case errors.RateLimited():
            wait = [(b"retry-after", str(max(1, error.retry_after_s)).encode()), *error.headers]
            return [*wait, (b"x-should-retry", b"false")] if error.never else wait
        case errors.InsufficientQuota():
            return [(b"x-should-retry", b"false"), *error.headers]
        case errors.Unavailable() | errors.DoesNotFit():
            return [(b"retry-after", b"1")]
        case errors.Unauthorized():
            return [(b"www-authenticate", b'Bearer, Basic realm="lmaas"')]
        case errors.UpgradeRequired():
            return [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
        case _:
            return []


def body_of(
    error: errors.LMaaSError, path: str, headers: Mapping[bytes, bytes] | None = None, id: str = ""
) -> tuple[bytes, bytes]:
    """Body and content type in the shape that the clients of `path` read.

    `headers` are the request's, `id` its name.
    """
    status = status_of(error)
    door = door_of(path, headers)
    if door == "own":
        problem: dict[str, Any] = {
            "type": "about:blank",
            "title": error.code,
            "status": status,
            "detail": error.message,
            "code": error.code,
            "hint": error.hint,
            "param": error.param,
        }
        return msgspec.json.encode(problem), b"application/problem+json"
    body: dict[str, Any] = {"error": str(error)}
    if door == "anthropic":
        told = {
            "type": ANTHROPIC_TYPES.get(status, _other(status, "api_error")),
            "message": str(error),
            "details": {"error_code": error.code},
        }
        body = {"type": "error", "error": told} | ({"request_id": id} if id else {})
    elif door == "huggingface":
        body |= {"error_type": _generation_type(status), "code": error.code}
    elif door == "compreface":
        kinds = type(error).__mro__
        number = next((COMPREFACE_CODES[kind] for kind in kinds if kind in COMPREFACE_CODES), 0)
        body = {"message": str(error), "code": number, "error_code": error.code}
    elif door == "openai":
        body = {"error": openai_error(error)}
    return msgspec.json.encode(body), b"application/json"


def openai_error(error: errors.LMaaSError) -> dict[str, Any]:
    """The error in OpenAI's words."""
    status = status_of(error)
    kind = TYPES.get(status, _other(status, "server_error"))
    if isinstance(error, errors.InsufficientQuota):
        kind = error.code
    return {"message": str(error), "type": kind, "param": error.param, "code": error.code}


def _other(status: int, ours: str) -> str:
    return "invalid_request_error" if status < 500 else ours


def _generation_type(status: int) -> str:
    """What Hugging Face's clients make an exception of."""
    if status in (429, 503):
        return "overloaded"
    return "validation" if status < 500 else "generation"
