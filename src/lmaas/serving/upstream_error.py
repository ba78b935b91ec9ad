"""What an upstream's refusal means here: whose fault it is, and never its key."""

import email.utils
import re
import time
from typing import Any, Final

import msgspec

from lmaas.errors import (
    ContextLengthExceeded,
    InvalidInput,
    LMaaSError,
    PayloadTooLarge,
    QueueFull,
    Unavailable,
)
from lmaas.types import UNREADABLE

MAX_TOLD_CHARS: Final = 500
LONGEST_RETRY_S: Final = 3600
TOO_LONG: Final = re.compile(r"maximum context length|greater than max_model_len")
"""How servers that have no code for it say that a request needs more tokens than there are."""
OPERATOR: Final = "Only the operator of this server can change that."


def error_of(
    status: int, headers: dict[bytes, bytes], body: bytes, origin: str, key: str | None
) -> LMaaSError:
    """The error for an answer with this status (not 200)."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        value = body.decode("utf-8", "replace")
    message, code, param = told_of(value, key)
    if status == 429 and code != "insufficient_quota":
        return QueueFull(
            f"{origin} takes no more requests now: {message}",
            retry_after_s=retry_after_s(headers),
            hint="Send it again after the time in Retry-After.",
        )
    if status in (401, 403):
        return Unavailable(
            f"{origin} refuses this server's key (status {status}).",
            hint="The operator's upstream key is missing or not valid: the variable that key_env "
            "names has to hold one that is.",
        )
    if status in (402, 404, 405, 429) or status < 400:
        return Unavailable(f"{origin} cannot be used (status {status}): {message}", hint=OPERATOR)
    if status in (408, 409, 425) or status >= 500:
        return Unavailable(f"{origin} failed with status {status}: {message}")
    told = f"{origin}: {message}"
    if code == ContextLengthExceeded.code or TOO_LONG.search(message):
        return ContextLengthExceeded(told, param=param)
    return PayloadTooLarge(told) if status == 413 else InvalidInput(told, param=param)


def broken_off(value: Any, origin: str, key: str | None) -> LMaaSError:
    """The error for what came within an answer that had begun well; its code may be a status."""
    status = value.get("code") if isinstance(value, dict) else None
    if isinstance(status, int) and 400 <= status < 500:
        return error_of(status, {}, msgspec.json.encode({"error": value}), origin, key)
    return Unavailable(f"{origin} failed: {told_of(value, key)[0]}")


def told_of(value: Any, key: str | None) -> tuple[str, str | None, str | None]:
    """Message (bounded, without the key), code and field of what an error's body holds."""
    code = param = None
    if isinstance(value, dict) and "error" in value:
        value = value["error"]
    if isinstance(value, dict):
        code, param = _text(value.get("code")), _text(value.get("param"))
        value = value.get("message") or value.get("detail")
    text = value if isinstance(value, str) else "" if value is None else repr(value)
    if key:
        text = text.replace(key, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:4096]).split())
    if len(text) > MAX_TOLD_CHARS:
        text = f"{text[:MAX_TOLD_CHARS]}…"
    return text or "it did not say why.", code, param


def retry_after_s(headers: dict[bytes, bytes]) -> int:
    """Seconds to wait, from a number or a date; 1 where nothing is told."""
    told = headers.get(b"retry-after", b"").decode("latin-1").strip()
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            seconds = 1.0
    return int(min(max(seconds, 1.0), LONGEST_RETRY_S) + 0.999) if seconds == seconds else 1


def _text(value: Any) -> str | None:
    return value[:128] if isinstance(value, str) else None
