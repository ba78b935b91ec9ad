"""`lmaas webhooks add|list|deliveries|rm`."""

import time
from typing import TYPE_CHECKING, Any, cast

import click

from lmaas.cli.output import home_options, json_option, service_of, show, show_table

if TYPE_CHECKING:
    from lmaas.job import WebhookEvent

ENDS = ["succeeded", "failed", "cancelled"]
PREFIXES = ("fine_tuning.job.", "job.")
"""Of training, and of the other kinds of jobs."""


@click.group()
@home_options
def command() -> None:
    """Manage webhooks, which are called when a job ends."""


@command.command()
@click.argument("url")
@click.option("--event", "ends", multiple=True, type=click.Choice(ENDS), default=ENDS,
              help="Events to send. Repeat the option for more.")  # fmt: skip
@json_option
@home_options
@click.pass_obj
def add(flags: dict[str, Any], url: str, ends: tuple[str, ...], as_json: bool) -> None:
    """Call URL when a job ends. The signing secret is shown only once."""
    import msgspec

    from lmaas.types import TENANT

    told = tuple(prefix + end for prefix in PREFIXES for end in ends)
    events = cast("tuple[WebhookEvent, ...]", told)
    with service_of(flags) as service:
        webhook, secret = service.webhooks.add(TENANT, url, events)
    show({**msgspec.to_builtins(webhook), "secret": secret}, as_json, [webhook.id, secret])


@command.command("list")
@json_option
@home_options
@click.pass_obj
def list_(flags: dict[str, Any], as_json: bool) -> None:
    """List the webhooks. Their secrets cannot be shown."""
    from lmaas.types import TENANT

    with service_of(flags) as service:
        found = service.webhooks.list(TENANT)
    rows = [(w.id, w.url, " ".join(w.events)) for w in found]
    show_table(found, as_json, ("id", "url", "events"), rows)


@command.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
@home_options
@click.pass_obj
def deliveries(flags: dict[str, Any], webhook_id: str, limit: int, as_json: bool) -> None:
    """List sent and pending deliveries, newest first."""
    from lmaas.types import TENANT

    with service_of(flags) as service:
        found = service.webhooks.deliveries(TENANT, webhook_id, limit=limit)
    rows = [
        (
            one.id,
            one.type,
            str(one.attempts),
            "delivered"
            if one.delivered_at
            else f"next {_at(one.next_at)}"
            if one.next_at
            else "given up",
            one.error or "",
        )
        for one in found
    ]
    show_table(found, as_json, ("id", "event", "attempts", "state", "error"), rows)


@command.command()
@click.argument("webhook_id", metavar="ID")
@json_option
@home_options
@click.pass_obj
def rm(flags: dict[str, Any], webhook_id: str, as_json: bool) -> None:
    """Remove a webhook and its pending deliveries."""
    from lmaas.types import TENANT

    with service_of(flags) as service:
        gone = service.webhooks.remove(TENANT, webhook_id)
    show(gone, as_json, [f"Removed {gone.id}."])


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
