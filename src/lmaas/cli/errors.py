"""How a command fails: the text or JSON on stderr, and the exit code."""

import json
import os
import traceback

import click

from lmaas.errors import (
    ConfigError,
    Forbidden,
    InsufficientQuota,
    LMaaSError,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RateLimited,
    StorageFull,
    TimedOut,
    Unauthorized,
    Unavailable,
)

FAILED = 1
INTERRUPTED = 130
EXIT_CODES: list[tuple[type[LMaaSError], int]] = [
    (ConfigError, 2),
    (NotFound, 3),
    (Unauthorized, 4),
    (Forbidden, 4),
    (QueueFull, 5),
    (RateLimited, 5),
    (InsufficientQuota, 5),
    (PayloadTooLarge, 5),
    (StorageFull, 5),
    (Unavailable, 6),
    (TimedOut, 6),
]
"""The first that fits; every other error is 1."""

EXIT_CODES_TEXT = (
    "Exit codes: 0 success; 1 failure, or a check found a problem; 2 invalid usage or settings; "
    "3 no such model, version or key; 4 the key is missing, wrong or not permitted; "
    "5 over a limit (queue, rate, budget, size or disk); 6 no server, not ready, or out of time; "
    "130 interrupted."
)


def exit_code_of(error: LMaaSError) -> int:
    """The exit code of a command that ends with `error`."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


def report(error: Exception, *, as_json: bool) -> int:
    """Say on stderr what is wrong and what to do next; the exit code."""
    if isinstance(error, click.ClickException):
        if not as_json:
            error.show()
        else:
            _show("usage", error.format_message(), "See `lmaas --help`.", as_json)
        return error.exit_code
    if isinstance(error, LMaaSError):
        _show(error.code, error.message, error.hint, as_json)
        return exit_code_of(error)
    if os.environ.get("LMAAS_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    hint = "LMAAS_LOG_LEVEL=debug shows where it happened."
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        _show("system_error", f"{place}{error.strerror}.", hint, as_json)
    else:
        _show("internal_error", f"{type(error).__name__}: {error}", hint, as_json)
    return FAILED


def _show(code: str, message: str, hint: str | None, as_json: bool) -> None:
    if as_json:
        told = {"error": {"code": code, "message": message, "hint": hint}}
        click.echo(json.dumps(told, ensure_ascii=False), err=True)
        return
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"Next: {hint}", err=True)
