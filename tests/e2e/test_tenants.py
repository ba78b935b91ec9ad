"""Tenants of one server: made by its operator, and apart in all that they have and use."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmaas.accounts.records import Limits
from lmaas.client import Client
from lmaas.errors import Forbidden, NotFound
from lmaas.types import TENANT, ConnectBody, UpstreamSpec
from servers import Running, give, serving

ACME = "acme"
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello world"}],
    "max_tokens": 4,
    "temperature": 0,
    "cache": True,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, language_home: Path) -> Iterator[Running]:
    """A server whose model `tiny` both tenants have."""
    home = Path(shutil.copytree(language_home, tmp_path_factory.mktemp("tenants") / "home"))
    give(home, "tiny", ACME)
    with serving(home) as running:
        yield running


def keys(server: Running, *words: str) -> "subprocess.CompletedProcess[str]":
    """`lmaas keys` in the server's home, beside it."""
    argv = [sys.executable, "-m", "lmaas", "--home", str(server.home), "keys", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def made(server: Running, *scopes: str) -> str:
    """A new key of the second tenant."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    done = keys(server, "create", "--tenant", ACME, "--name", "its", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(server: Running, key: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=ASKED | more, headers=headers, timeout=60)


def test_kept_answers_and_usage_are_apart(server: Running) -> None:
    key = made(server, "admin")
    told = [ask(server, k).headers["x-lmaas-cache"] for k in (server.key, server.key, key, key)]
    assert told == ["miss", "hit", "miss", "hit"]
    with Client(server.url, server.key) as own, Client(server.url, key) as other:
        before = own.usage(by=("model",))
        mine = other.usage(by=("model",)).data
        assert [(row.model, row.requests) for row in mine] == [("tiny", 2)]
        assert ask(server, key, cache=False).status_code == 200
        assert own.usage(by=("model",)) == before
        assert other.usage(by=("model",)).data[0].requests == 3


def test_models_keys_files_and_jobs_are_apart(server: Running, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("a,b\n1,2\n")
    with Client(server.url, server.key) as own, Client(server.url, made(server, "admin")) as other:
        other.set_alias("tiny", "theirs", 1)
        assert own.model("tiny").aliases == ()
        with pytest.raises(NotFound):
            own.model("tiny@theirs")
        mine, theirs = ({key.id for key in client.list_keys()} for client in (own, other))
        assert mine
        assert theirs
        assert not mine & theirs
        with pytest.raises(NotFound):
            other.revoke_key(min(mine))
        assert {row.tenant for row in other.ps()} <= {ACME}
        assert {row.tenant for row in own.ps()} <= {TENANT}
        url, headers = f"{server.url}/v1/files", {"authorization": f"Bearer {server.key}"}
        form = {"file": ("rows.csv", data.read_bytes())}
        purpose = {"purpose": "fine-tune"}
        assert httpx.post(url, files=form, data=purpose, headers=headers).status_code == 200
        assert httpx.get(url, headers=headers).json()["data"]
        theirs_too = {"authorization": f"Bearer {made(server, 'admin')}"}
        assert httpx.get(url, headers=theirs_too).json()["data"] == []
        assert other.jobs() == []


def test_limits_bind_one_tenant(server: Running) -> None:
    key = made(server, "call")
    assert keys(server, "limits", "--tenant", ACME, "--rpm", "1").returncode == 0
    with Client(server.url, server.key) as own:
        assert own.limits(None) == Limits()
    codes = [ask(server, key, cache=False).status_code for _ in range(2)]
    assert codes[-1] == 429
    assert ask(server, server.key, cache=False).status_code == 200
    assert keys(server, "limits", "--tenant", ACME, "--clear").returncode == 0
    assert ask(server, key, cache=False).status_code == 200


def test_what_is_the_operators_is_refused(server: Running) -> None:
    key = made(server, "admin")
    headers = {"authorization": f"Bearer {key}"}
    refused = httpx.get(f"{server.url}/metrics", headers=headers)
    assert refused.status_code == 403
    spec = UpstreamSpec(url="https://example.com/v1", model="m", key_env="OPENAI_API_KEY")
    with Client(server.url, key) as other, pytest.raises(Forbidden):
        other.connect_upstream(ConnectBody(name="far", upstream=spec))
    recipe = {
        "task": "tabular",
        "name": "spy",
        "model": {"architecture": "mlp"},
        "data": {"train": "/etc/passwd"},
    }
    refused = httpx.post(f"{server.url}/api/jobs", json={"recipe": recipe}, headers=headers)
    assert refused.status_code == 403, refused.text
    assert refused.json()["param"] == "data.train"


def test_only_the_home_itself_makes_tenants(server: Running) -> None:
    remote = ("--url", server.url, "--key", server.key)
    done = keys(server, "create", "--tenant", "new", "--name", "x", *remote)
    assert done.returncode == 1
    assert "--tenant is not for --url" in done.stderr
    headers, body = server.admin, {"name": "x", "tenant": "new"}
    refused = httpx.post(f"{server.url}/api/keys", json=body, headers=headers)
    assert refused.status_code == 400
    bad = keys(server, "create", "--tenant", "../new", "--name", "x")
    assert bad.returncode == 1
    assert "cannot be a tenant name" in bad.stderr


def test_the_operator_ends_a_tenants_key(server: Running) -> None:
    key = made(server, "call")
    listed = keys(server, "list", "--tenant", ACME).stdout
    record = key.split("-")[2]
    assert record in listed
    assert record not in keys(server, "list").stdout
    assert keys(server, "revoke", "--tenant", ACME, record).returncode == 0
    assert ask(server, key).status_code == 401
