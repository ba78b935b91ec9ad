"""Rows of requests that have ended: one for each, or one for many that were only counted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lmaas.accounts.call_counters import STATUSES, read_tally
from lmaas.accounts.journal import Begun, UsageEntry
from lmaas.accounts.records import Status
from lmaas.generation_types import Usage

SERVER_ENDED: Final = "server_ended"
"""The error of requests that ran when the server was killed."""


def split_name(model: str) -> tuple[str, int | None]:
    """The model's name, and its version where `model` names one."""
    name, _, number = model.partition(":")
    return name.partition("@")[0], int(number) if number.isdigit() else None


def row_of(
    begun: Begun,
    duration_ms: float,
    usage: Usage,
    cost_micro: int,
    status: Status,
    error_code: str | None,
) -> UsageEntry:
    """The row of one request that has ended."""
    name, version = split_name(begun.model)
    return UsageEntry(
        begun.request_id, begun.tenant, begun.key_id, name, version, begun.endpoint, 1,
        begun.started_at, duration_ms, usage.prompt, usage.completion, usage.reasoning,
        usage.cached, cost_micro, status, error_code, usage.audio_ms,
    )  # fmt: skip


def sums_of(tallies: Iterable[Path], *, ended: bool) -> list[UsageEntry]:
    """The rows of counted calls; `ended`: also of those that ran when the server did not go on."""
    rows = []
    for one in (one for path in tallies for one in read_tally(path)):
        name, version = split_name(one.place.model)
        counts: list[tuple[Status, int, str | None]] = [
            (status, count, None) for status, count in zip(STATUSES, one.ended, strict=True)
        ]
        if ended:
            counts.append(("failed", one.running, SERVER_ENDED))
        total = max(1, sum(one.ended))
        for status, count, error_code in counts:
            if count:
                ms = one.ns / 1e6 * count / total if error_code is None else 0.0
                rows.append(UsageEntry(
                    f"{one.id}-{error_code or status}", one.place.tenant, one.place.key_id, name,
                    version, one.place.endpoint, count, one.place.started_at, ms, 0, 0, 0, 0, 0,
                    status, error_code,
                ))  # fmt: skip
    return rows
