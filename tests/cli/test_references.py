"""Every command that takes a model takes each form of reference that makes sense for it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lmaas.cli import COMMANDS, cli, main
from lmaas.cli.references import EXAMPLES, FORMS, ModelReference
from lmaas.client import Client
from servers import Running, png, serving

Way = tuple[str, ...]
TAKING: dict[tuple[Way, str], Way] = {
    (("chat",), "name"): ("REF", "-m", "hello"),
    (("compress",), "name"): ("REF", "--to", "int8"),
    (("models", "alias"), "ref"): ("REF", "other"),
    (("models", "card"), "ref"): ("REF",),
    (("models", "connect"), "name"): (
        "REF", "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--key-env", "NO",
    ),
    (("models", "rm"), "ref"): ("REF", "--yes"),
    (("models", "show"), "ref"): ("REF",),
    (("pipeline",), "name"): ("REF", "--task", "tabular", "--part", "detector=digits"),
    (("predict",), "name"): ("REF", "digit.png"),
    (("prices", "set"), "model"): ("REF", "--request", "0.1"),
    (("push",), "base"): ("no-such-folder", "--name", "x", "--base", "REF"),
    (("stop",), "name"): ("REF",),
    (("train",), "base"): (
        "--task", "image-classification", "--data", "no-such-folder", "--base", "REF", "--detach",
    ),
}  # fmt: skip
"""For each command and the parameter that is a model, how it is called."""
REFS = {"name": "digits", "version": "digits:1", "alias": "digits@prod"}


def walked(group: click.Group, way: Way = ()) -> Iterator[tuple[Way, click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from walked(command, (*way, name))
            else:
                yield (*way, name), command


def taking() -> dict[tuple[Way, str], ModelReference]:
    assert isinstance(cli, click.Group)
    return {
        (way, str(parameter.name)): parameter.type
        for way, command in walked(cli)
        for parameter in command.params
        if isinstance(parameter.type, ModelReference)
    }


def test_no_command_takes_a_model_as_a_mere_text() -> None:
    assert isinstance(cli, click.Group)
    commands = dict(walked(cli))
    assert {way[0] for way in commands} == set(COMMANDS)
    mere = {
        (way, parameter.name)
        for way, command in commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Argument)
        and parameter.name in ("name", "ref", "model")
        and not isinstance(parameter.type, ModelReference)
    }
    assert mere == set()
    assert set(taking()) == set(TAKING)


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, digits_home: Path
) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("references")
    (folder / "digit.png").write_bytes(png())
    shutil.copytree(digits_home, folder / "home")
    with serving(folder / "home", max_running_jobs=0) as running:
        with Client(running.url, running.key) as client:
            client.set_alias("digits", "prod", 1)
        yield running, folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("taken", TAKING, ids=lambda taken: " ".join((*taken[0], taken[1])))
def test_every_form_is_taken_or_refused_by_name(
    own: tuple[Running, Path],
    taken: tuple[Way, str],
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running, folder = own
    monkeypatch.chdir(folder)
    for name in ("LMAAS_URL", "LMAAS_KEY", "LMAAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    arguments = [REFS[form] if each == "REF" else each for each in TAKING[taken]]
    with pytest.raises(SystemExit) as ended:
        main(["--url", running.url, "--key", running.key, *taken[0], *arguments])
    told = capsys.readouterr().err
    code = ended.value.code
    if form in taking()[taken].forms:
        # What else a command finds wrong is not about the reference.
        assert code in (0, 1) or "is not loaded" in told, told
        assert not re.search(r"cannot be a|does not name|no model|No such model", told), told
    else:
        assert code == 2
        assert "is one version" in told
        assert EXAMPLES["name"] in told


def test_show_and_alias_by_reference(
    own: tuple[Running, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    running, _ = own

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--url", running.url, "--key", running.key, "models", *arguments])
        told = capsys.readouterr()
        return int(str(ended.value.code)), told.out + told.err

    assert "digits:1" in run("show", "digits@prod")[1]
    assert run("show", "digits:9")[0] == 3
    for ref in ("digits", "digits:1", "digits@prod"):
        assert run("alias", ref, "best") == (0, "digits@best is digits:1.\n")
    assert run("alias", "digits", "best", "1") == (0, "digits@best is digits:1.\n")
    code, told = run("alias", "digits:1", "best", "1")
    assert code == 2
    assert "already names a version" in told
