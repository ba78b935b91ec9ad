"""`lmaas prices set|list`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show, show_table
from lmaas.cli.references import ModelReference
from lmaas.cli.target import operator_of

ALL_VERSIONS = ModelReference(("name",), "All versions of a model cost the same.")


@click.group()
def command() -> None:
    """Set and list the prices of models, which budgets are charged with."""


@command.command("set")
@click.argument("model", type=ALL_VERSIONS)
@click.option("--prompt", default="0", metavar="MONEY", help="Price of a million prompt tokens.")
@click.option(
    "--completion", default="0", metavar="MONEY", help="Price of a million completion tokens."
)
@click.option("--request", default="0", metavar="MONEY", help="Price of each request.")
@click.option(
    "--audio-minute", default="0", metavar="MONEY", help="Price of a minute of sound that is heard."
)
@json_option
@home_options
@server_options
@click.pass_obj
def set_(
    flags: dict[str, Any],
    model: str,
    prompt: str,
    completion: str,
    request: str,
    audio_minute: str,
    as_json: bool,
) -> None:
    """Set the price of all versions of MODEL. Without options, MODEL is free."""
    from lmaas.accounts.records import Price, to_micro

    price = Price(
        prompt_micro=to_micro(prompt, "--prompt"),
        completion_micro=to_micro(completion, "--completion"),
        request_micro=to_micro(request, "--request"),
        audio_minute_micro=to_micro(audio_minute, "--audio-minute"),
    )
    with operator_of(flags) as operator:
        told = operator.set_price(model, price)
    show(told, as_json, [f"{told.model} has its price."])


@command.command("list")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], as_json: bool) -> None:
    """List the prices. A model without a price is free."""
    from lmaas.accounts.records import to_money

    with operator_of(flags) as operator:
        told = operator.prices()
    rows = [
        (
            item.model,
            to_money(item.price.prompt_micro),
            to_money(item.price.completion_micro),
            to_money(item.price.request_micro),
            to_money(item.price.audio_minute_micro),
        )
        for item in told
    ]
    columns = (
        "model",
        "prompt tokens (million)",
        "answer tokens (million)",
        "request",
        "audio minute",
    )
    show_table(told, as_json, columns, rows)
