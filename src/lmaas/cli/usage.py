"""`lmaas usage`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show_table
from lmaas.cli.target import operator_of

SUMS = ("requests", "failed", "cancelled", "prompt_tokens", "completion_tokens", "audio_s")


@click.command()
@click.option(
    "--by",
    default="model",
    show_default=True,
    metavar="GROUPS",
    help="Group by key, model and day, in any combination; empty for one total.",
)
@click.option("--start", metavar="DAY", help="First day (UTC). Default: the first of this month.")
@click.option("--end", metavar="DAY", help="Last day (UTC). Default: today.")
@click.option("--of", "key_id", metavar="KEY_ID", help="Only this key.")
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    by: str,
    start: str | None,
    end: str | None,
    key_id: str | None,
    as_json: bool,
) -> None:
    """Show requests, tokens and cost.

    Without --url, the last few seconds of a running server are missing.
    """
    from lmaas.accounts.records import to_money

    groups = [group.strip() for group in by.split(",") if group.strip()]
    with operator_of(flags) as operator:
        told = operator.usage(start=start, end=end, by=groups, key_id=key_id)
    shown = [group for group in ("key", "model", "day") if group in groups]
    rows = [
        (
            *(getattr(row, group) for group in shown),
            *(getattr(row, name) for name in SUMS),
            to_money(row.cost_micro),
        )
        for row in told.data
    ]
    columns = (*shown, *(name.replace("_", " ") for name in SUMS), "cost")
    show_table(told, as_json, columns, rows)
