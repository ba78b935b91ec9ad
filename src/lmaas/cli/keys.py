"""`lmaas keys create|list|limits|revoke`."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from lmaas.cli.output import home_options, json_option, server_options, show, show_table
from lmaas.cli.target import operator_of

if TYPE_CHECKING:
    from lmaas.accounts.records import Limits
    from lmaas.types import Scope

F = TypeVar("F", bound=Callable[..., Any])
PERIODS = ("none", "day", "month")
LIMITS = {
    "--rpm": ("requests_per_minute", "Maximum requests per minute."),
    "--tpm": ("tokens_per_minute", "Maximum tokens per minute, prompts and answers together."),
    "--concurrent": ("concurrent", "Maximum concurrent requests."),
}
BUDGETS = {
    "--budget": ("budget_micro", "Maximum cost per period, such as 12.50."),
    "--soft-budget": ("soft_budget_micro", "Cost at which answers and the log carry a warning."),
}


tenant_option = click.option(
    "--tenant",
    metavar="NAME",
    help="Tenant that owns the keys. Works in this home only, not with --url.",
)


def limit_options(command: F) -> F:
    """An option for each limit."""
    period = click.option(
        "--period", type=click.Choice(PERIODS), help="Period after which budgets reset (UTC)."
    )
    command = period(command)
    for option, (name, text) in reversed(BUDGETS.items()):
        command = click.option(option, name, metavar="MONEY", help=text)(command)
    for option, (name, text) in reversed(LIMITS.items()):
        command = click.option(option, name, type=click.IntRange(1), help=text)(command)
    return command


@click.group()
def command() -> None:
    """Create, list and revoke API keys."""


@command.command()
@click.option("--name", required=True, help="Name that says what the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["admin", "call"]),
              default=("call",), help="Scope of the key. Repeat the option for both.")  # fmt: skip
@limit_options
@tenant_option
@json_option
@home_options
@server_options
@click.pass_obj
def create(
    flags: dict[str, Any],
    /,
    name: str,
    scopes: tuple[str, ...],
    tenant: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a key. Its text is shown only once.

    The first key of a --tenant makes it. Models, jobs, files, usage, limits and kept answers of
    tenants are apart; a key with the scope admin manages those of its own tenant.
    """
    import msgspec

    from lmaas.accounts.records import NO_LIMITS

    limits = changed(NO_LIMITS, given)
    with operator_of(flags, tenant) as operator:
        record, text = operator.create_key(name, cast("tuple[Scope, ...]", scopes), limits)
    show({**msgspec.to_builtins(record), "key": text}, as_json, [text])


@command.command("list")
@click.option("--all", "revoked", is_flag=True, help="Include revoked keys.")
@tenant_option
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], revoked: bool, tenant: str | None, as_json: bool) -> None:
    """List active keys. Their secrets cannot be shown."""
    with operator_of(flags, tenant) as operator:
        records = [r for r in operator.list_keys() if revoked or r.revoked_at is None]
    rows = [
        (
            r.id,
            r.name,
            ", ".join(r.scopes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(r.created_at)),
            *([("yes" if r.revoked_at else "no")] if revoked else []),
        )
        for r in records
    ]
    columns = ("id", "name", "scopes", "made", *(["revoked"] if revoked else []))
    show_table(records, as_json, columns, rows)


@command.command()
@click.argument("key_id")
@tenant_option
@json_option
@home_options
@server_options
@click.pass_obj
def revoke(flags: dict[str, Any], key_id: str, tenant: str | None, as_json: bool) -> None:
    """Revoke a key immediately."""
    with operator_of(flags, tenant) as operator:
        record = operator.revoke_key(key_id)
    show(record, as_json, [f"Revoked {record.id}."])


@command.command("limits")
@click.argument("key_id", required=False)
@limit_options
@click.option("--clear", is_flag=True, help="Remove all limits that are not given.")
@tenant_option
@json_option
@home_options
@server_options
@click.pass_obj
def limits_(
    flags: dict[str, Any],
    /,
    key_id: str | None,
    clear: bool,
    tenant: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show or change the limits of KEY_ID, or of all keys together."""
    import msgspec

    from lmaas.accounts.records import NO_LIMITS, to_money

    with operator_of(flags, tenant) as operator:
        limits = operator.limits(key_id)
        if clear or any(value is not None for value in given.values()):
            limits = operator.set_limits(key_id, changed(NO_LIMITS if clear else limits, given))
    rows = [
        (name.removesuffix("_micro"), to_money(value) if name.endswith("_micro") else value)
        for name, value in msgspec.structs.asdict(limits).items()
        if value is not None
    ]
    show_table(limits, as_json, ("limit", "value"), rows)


def changed(limits: "Limits", given: dict[str, Any]) -> "Limits":
    """`limits` with those that are given. Raises InvalidInput for what cannot be one."""
    import msgspec

    from lmaas.accounts.records import Limits, to_micro
    from lmaas.errors import InvalidInput

    values = {name: value for name, value in given.items() if value is not None}
    for option, (name, _) in BUDGETS.items():
        if name in values:
            values[name] = to_micro(values[name], option)
    try:
        return msgspec.convert(msgspec.structs.asdict(limits) | values, Limits)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"This cannot be a limit: {error}.") from None
