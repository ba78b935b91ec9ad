"""`lmaas chat NAME`: talk to a language model, its answer shown as it is written."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import home_options, json_option, printable, progress, server_options
from lmaas.cli.references import MODEL
from lmaas.cli.target import server_or_none
from lmaas.errors import InvalidInput

if TYPE_CHECKING:
    from lmaas.client import Client

Turns = list[dict[str, str]]
COMMANDS = {
    "/reset": "forget what was said",
    "/system TEXT": "say what the model should be; alone: nothing",
    "/save FILE": "write the conversation as JSON",
    "/help": "this",
    "/exit": "leave (or Ctrl-D)",
}


@click.command()
@click.argument("name", type=MODEL)
@click.option("--message", "-m", help="Send one message and exit.")
@click.option("--system", help="System message: how the model should behave.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    help="Randomness of the answer; 0 = greedy decoding.",
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True))
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum number of tokens in an answer.")
@click.option("--seed", type=int, help="Random seed: the same seed gives the same answer.")
@click.option("--no-stream", is_flag=True, help="Show each answer when it is complete.")
@json_option
@home_options
@server_options
@click.pass_obj
def command(
    flags: dict[str, Any],
    name: str,
    message: str | None,
    system: str | None,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    seed: int | None,
    no_stream: bool,
    as_json: bool,
) -> None:
    """Chat with the language model NAME. Each message is sent with the conversation so far.

    Ctrl-C stops the answer that is being written, a second one leaves. Where standard input is no
    terminal, all of it is one question, and only the answer goes to standard output.
    """
    options = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    given = {option: value for option, value in options.items() if value is not None}
    turns: Turns = [{"role": "system", "content": system}] if system else []
    with _client(flags) as client:
        if message is None and not sys.stdin.isatty():
            message = sys.stdin.read().strip()
            if not message:
                raise InvalidInput("Standard input is empty: it must contain the message.")
        if message is not None:
            turns.append({"role": "user", "content": message})
            _answer(client, name, turns, given, stream=not no_stream, as_json=as_json)
            return
        _talk(client, name, turns, given, stream=not no_stream, as_json=as_json)


@contextmanager
def _client(flags: dict[str, Any]) -> "Iterator[Client]":
    with server_or_none(flags) as client:
        if client is not None:
            yield client
            return
    from lmaas.config import load_settings
    from lmaas.own_server import local

    progress("This home has no running server: starting one for this conversation.")
    with local(load_settings(flags).home_path) as client:
        yield client


def _talk(
    client: "Client", name: str, turns: Turns, given: dict[str, Any], *, stream: bool, as_json: bool
) -> None:
    progress("/help shows what can be done beside talking.")
    while True:
        try:
            line = click.prompt("", prompt_suffix="> ", err=True, show_default=False).strip()
        except click.Abort:
            click.echo(err=True)
            return
        if line.startswith("/"):
            if _obey(line, turns):
                return
            continue
        if not line:
            continue
        turns.append({"role": "user", "content": line})
        try:
            _answer(client, name, turns, given, stream=stream, as_json=as_json)
        except KeyboardInterrupt:
            click.echo(err=True)
            progress("Stopped. Ctrl-C once more leaves.")
            turns.pop()


def _obey(line: str, turns: Turns) -> bool:
    """Do what a command says; whether to leave."""
    word, _, rest = line.partition(" ")
    if word == "/exit":
        return True
    if word == "/reset":
        turns[:] = [turn for turn in turns if turn["role"] == "system"]
    elif word == "/system":
        turns[:] = [turn for turn in turns if turn["role"] != "system"]
        if rest:
            turns.insert(0, {"role": "system", "content": rest})
    elif word == "/save" and rest:
        try:
            Path(rest).write_text(json.dumps(turns, ensure_ascii=False, indent=2) + "\n", "utf-8")
        except OSError as error:
            click.echo(f"Not saved: {error.strerror}.", err=True)
    else:
        if word != "/help":
            click.echo(f"There is no command {printable(word)}.", err=True)
        for known, meaning in COMMANDS.items():
            click.echo(f"  {known:14} {meaning}", err=True)
    return False


def _answer(
    client: "Client", name: str, turns: Turns, given: dict[str, Any], *, stream: bool, as_json: bool
) -> None:
    """Ask, show the answer and add it to the conversation."""
    said: list[str] = []
    reasoned: list[str] = []
    finish: str | None = None
    usage: dict[str, Any] | None = None
    pieces = client.chat(name, turns, stream=stream, **given)
    try:
        for piece in pieces:
            said.append(piece.text)
            reasoned.append(piece.reasoning)
            finish, usage = piece.finish or finish, piece.usage or usage
            if as_json:
                continue
            if piece.reasoning and sys.stdout.isatty():
                click.echo(click.style(printable(piece.reasoning), dim=True), nl=False)
            if piece.text:
                click.echo(printable(piece.text), nl=False)
    finally:
        pieces.close()
    text = "".join(said)
    turns.append({"role": "assistant", "content": text})
    if as_json:
        told: dict[str, Any] = {"content": text, "finish_reason": finish}
        if any(reasoned):
            told["reasoning_content"] = "".join(reasoned)
        if usage is not None:
            told["usage"] = usage
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        click.echo()
