"""A loaded language model whose form changes: nobody notices but by the speed, no answer is old."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from lmaas.cli import cli
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, CompressOptions, VariantName, VariantReport
from servers import Running, serving

TEXT = "hello world, how are you today? i am fine, thank you. " * 20
LONG = {"n": 128, "max_tokens": 440, "temperature": 1}
WITHIN_S = 60.0
FORMS: tuple[VariantName, ...] = ("int8", "int4")


@pytest.fixture(scope="module")
def forms(
    tmp_path_factory: pytest.TempPathFactory, language_home: Path
) -> dict[str, tuple[VariantReport, Path]]:
    """Compressed forms of `tiny`, each with its files."""
    folder = tmp_path_factory.mktemp("forms")
    home = Path(shutil.copytree(language_home, folder / "home"))
    with closing(Service(Settings(home=str(home)))) as service:
        for to in FORMS:
            asyncio.run(
                service.compressor.compress(TENANT, "tiny", CompressOptions(to=to, text=TEXT))
            )
        version = service.catalog.get(TENANT, "tiny")
        service.registry.unpack(version, folder, ("variant",))
        return {v.name: (v.report, folder / "variants" / v.name) for v in version.variants}


@pytest.fixture
def server(tmp_path: Path, language_home: Path) -> Iterator[Running]:
    """A server with `tiny` as it was pushed."""
    home = Path(shutil.copytree(language_home, tmp_path / "home"))
    with serving(home) as running:
        yield running


def register(server: Running, name: VariantName, form: tuple[VariantReport, Path]) -> None:
    """As `lmaas compress` does beside a server."""
    with closing(Service(Settings(home=str(server.home)))) as service:
        service.registry.add_variant(service.catalog.get(TENANT, "tiny"), name, *form)


def ask(server: Running, **more: Any) -> httpx.Response:
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello world"}],
        "max_tokens": 24,
        "temperature": 0,
        "ignore_eos": True,
    }
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body | more, headers=server.caller, timeout=WITHIN_S)


def written(answer: httpx.Response) -> int:
    """How many tokens an answer has."""
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["completion_tokens"])


def rows(server: Running) -> list[dict[str, Any]]:
    return list(httpx.get(f"{server.url}/api/workers", headers=server.admin).json())


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`; a bound, not a measurement."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(server: Running) -> list[tuple[int, str | None]]:
    return [(row["pid"], row["variant"]) for row in rows(server) if row["state"] == "ready"]


def taken_over(server: Running, before: list[tuple[int, str | None]]) -> str | None:
    """The form that is served once what was there `before` is gone."""
    until(lambda: len(rows(server)) == 1 and not {*ready(server)} & {*before})
    until(lambda: bool(ready(server)))
    return ready(server)[0][1]


def test_a_loaded_model_takes_its_new_form_and_loses_no_request(
    server: Running, forms: dict[str, tuple[VariantReport, Path]]
) -> None:
    assert ask(server).status_code == 200
    ((before, variant),) = ready(server)
    assert variant is None
    with ThreadPoolExecutor(64) as threads:
        long = [threads.submit(ask, server, **LONG) for _ in range(3)]
        until(lambda: any(row["queued"] for row in rows(server)))
        register(server, "int8", forms["int8"])
        beside = [threads.submit(ask, server)]
        while "int8" not in [variant for _, variant in ready(server)]:
            beside.append(threads.submit(ask, server))
            if sum(not one.done() for one in long) < 2:  # So that the old one is not done first.
                long.append(threads.submit(ask, server, **LONG))
            time.sleep(0.1)
        draining = [row for row in rows(server) if row["state"] == "draining"]
        assert [row["pid"] for row in draining] == [before]
        os.kill(before, signal.SIGKILL)  # what it had is still answered
        beside.append(threads.submit(ask, server))
        assert [written(one.result()) for one in long] == [128 * 440] * len(long)
        assert {written(one.result()) for one in beside} == {24}
    assert taken_over(server, [(before, None)]) == "int8"
    eight = ready(server)
    register(server, "int4", forms["int4"])
    assert taken_over(server, eight) == "int4"
    shown = CliRunner().invoke(cli, ["--home", str(server.home), "ps"]).stdout
    assert "int4 weights: fewest bytes that passed its gate" in shown
    assert shown.splitlines()[1].split()[3] == "int4"


def test_what_is_kept_is_kept_for_the_form_that_answered(
    server: Running, forms: dict[str, tuple[VariantReport, Path]]
) -> None:
    def asked() -> list[str]:
        """What the cache says to the same request twice; the answer is that of what is loaded."""
        told = [ask(server, cache=True, logprobs=True) for _ in range(2)]
        fresh = ask(server, logprobs=True).json()["choices"]
        assert [answer.json()["choices"] for answer in told] == [fresh, fresh]
        return [answer.headers["x-lmaas-cache"] for answer in told]

    assert asked() == ["miss", "hit"]
    for form in FORMS:
        # The second is registered under the first one's name.
        before = ready(server)
        register(server, "int8", forms[form])
        assert ask(server, cache=True, logprobs=True).status_code == 200
        assert taken_over(server, before) == "int8"
        assert asked() == ["miss", "hit"]
