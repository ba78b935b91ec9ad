"""Every error a user can meet, as one tree. No HTTP status here: `lmaas.http.errors` decides those.

LMaaSError
├── InvalidInput          the request or argument is wrong
│   ├── PayloadTooLarge   more bytes, pixels or elements than the limit
│   │   └── HeadTooLarge  a request's target and headers are too long
│   ├── ThreadUnsupported  the server keeps no conversation between turns
│   ├── ContextLengthExceeded  a text has more tokens than the model accepts
│   ├── TooSlow           the client sends its request too slowly
│   ├── MethodNotAllowed  the route exists, but not for this HTTP method
│   ├── UpgradeRequired   the route is a WebSocket, which the request does not open
│   ├── NoFace            the image shows no face
│   ├── SeveralFaces      the image shows several faces, where one is expected
│   ├── ConfigError       a setting is unknown or has a bad value
│   └── ModelRefused      the model file is unsafe or of a kind that is not accepted
├── ParityFailed          compiled outputs differ from the source's
├── NotFound              no such model, version, alias, key or route
├── Unauthorized          no key, or not a valid one
├── Forbidden             a valid key without the scope, or a foreign Host or Origin
├── Conflict              the resource already exists, or is in use
│   └── AlreadyRunning    another server holds this LMAAS_HOME, or the port
├── QueueFull             too many requests wait for this model; `retry_after_s` says when to retry
├── RateLimited           over a limit of the key or tenant; `retry_after_s` says when to retry
├── InsufficientQuota     the budget of the key or tenant is spent
├── Quarantined           this request killed two workers and is not run again
├── StorageFull           no space left on the device
├── CorruptBlob           a stored file does not match its digest
├── DoesNotFit            the model cannot be loaded within the memory budget
├── MissingExtra          an optional dependency is not installed
├── Unavailable           the worker or server cannot answer now
│   └── BadGateway        the hub returned inconsistent data
├── TimedOut              a bounded operation ran out of time
└── Cancelled             the caller went away
"""

import errno
from collections.abc import Sequence

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a system says when a device, a quota or a file's bound is full."""


class LMaaSError(Exception):
    """Base of all errors for users.

    `message` says what is wrong, what was expected and what was received; `hint` says what to do
    next; `param` names the offending field. `code` is the stable machine-readable name.
    """

    code = "internal_error"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidInput(LMaaSError):
    """The request or argument is wrong."""

    code = "invalid_input"


class ThreadUnsupported(InvalidInput):
    """The client asks for a conversation that the server keeps, which is not supported."""

    code = "thread_unsupported_request"


class PayloadTooLarge(InvalidInput):
    """More bytes, pixels or elements than the limit allows."""

    code = "payload_too_large"


class HeadTooLarge(PayloadTooLarge):
    """A request's target and headers are too long."""

    code = "head_too_large"


class ContextLengthExceeded(InvalidInput):
    """A text has more tokens than the model accepts. It is never truncated."""

    code = "context_length_exceeded"


class TooSlow(InvalidInput):
    """The client sends its request too slowly."""

    code = "request_too_slow"


class MethodNotAllowed(InvalidInput):
    """The route exists, but not for this HTTP method."""

    code = "method_not_allowed"


class UpgradeRequired(InvalidInput):
    """The route is a WebSocket, which the request does not open."""

    code = "upgrade_required"


class NoFace(InvalidInput):
    """The image shows no face, or none that is large enough."""

    code = "no_face"


class SeveralFaces(InvalidInput):
    """The image shows several faces, where one is expected."""

    code = "several_faces"


class ConfigError(InvalidInput):
    """A setting is unknown or has a bad value."""

    code = "config_error"


class ModelRefused(InvalidInput):
    """The model file is unsafe or of a kind that is not accepted."""

    code = "model_refused"


class ParityFailed(LMaaSError):
    """The compiled model does not give the source model's outputs."""

    code = "parity_failed"


class NotFound(LMaaSError):
    """No such model, version, alias, key or route."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No model, version or alias of this name."""

    code = "model_not_found"


class Unauthorized(LMaaSError):
    """No key, or not a valid one."""

    code = "invalid_api_key"


class Forbidden(LMaaSError):
    """A valid key without the needed scope, or a foreign Host or Origin."""

    code = "forbidden"


class Conflict(LMaaSError):
    """The resource already exists, or is in use."""

    code = "conflict"


class AlreadyRunning(Conflict):
    """Another server holds this LMAAS_HOME, or the port."""

    code = "already_running"


class QueueFull(LMaaSError):
    """Too many requests wait for this model."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class RateLimited(LMaaSError):
    """Over a limit of the key or its tenant. `never`: no waiting helps, the request is too big.

    `headers` tell what is left of the limits, as they do where a request is admitted.
    """

    code = "rate_limit_exceeded"
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int = 1,
        never: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.never = never


class InsufficientQuota(LMaaSError):
    """The budget of the key or its tenant does not cover the request; retrying does not help.

    `headers` tell what is left of the other limits.
    """

    code = "insufficient_quota"
    headers: Sequence[tuple[bytes, bytes]] = ()


class Quarantined(LMaaSError):
    """This request killed two workers and is not run again."""

    code = "request_quarantined"


class StorageFull(LMaaSError):
    """No space is left on the device that holds LMAAS_HOME."""

    code = "storage_full"


class CorruptBlob(LMaaSError):
    """A stored file does not match its digest."""

    code = "corrupt_blob"


class DoesNotFit(LMaaSError):
    """The model cannot be loaded within the memory budget."""

    code = "does_not_fit"


class MissingExtra(LMaaSError):
    """An optional dependency is not installed."""

    code = "missing_extra"


class Unavailable(LMaaSError):
    """The worker or server, or the hub that it asks, cannot answer now."""

    code = "unavailable"


class BadGateway(Unavailable):
    """The hub returned inconsistent data: a file does not match its digest."""

    code = "bad_gateway"


class TimedOut(LMaaSError):
    """A bounded operation ran out of time."""

    code = "timed_out"


class Cancelled(LMaaSError):
    """The caller went away before the answer."""

    code = "cancelled"


BY_CODE: dict[str, type[LMaaSError]] = {
    cls.code: cls
    for cls in (
        LMaaSError, InvalidInput, ThreadUnsupported, PayloadTooLarge, HeadTooLarge,
        ContextLengthExceeded, NoFace, SeveralFaces, TooSlow, MethodNotAllowed, ConfigError,
        ModelRefused, ParityFailed, NotFound, ModelNotFound,
        UpgradeRequired, Unauthorized, Forbidden, Conflict, AlreadyRunning, QueueFull, RateLimited,
        InsufficientQuota, Quarantined, StorageFull,
        CorruptBlob, DoesNotFit, MissingExtra, Unavailable, BadGateway, TimedOut, Cancelled,
    )
}  # fmt: skip
"""The error classes by their stable code: how an error crosses a process or the network."""
