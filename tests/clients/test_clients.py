"""The clients that fit the main environment; `make clients` runs all of them."""

import pytest

from clients.table import CLIENTS, FOLDER, JAVASCRIPT, PACKAGES, Client, run
from servers import Running

HERE = [client for client in CLIENTS if not client.environment and "vectors" not in client.models]


@pytest.mark.parametrize("client", HERE, ids=lambda client: client.script)
def test_a_stock_client(request: pytest.FixtureRequest, client: Client) -> None:
    fixture = "language" if "tiny" in client.models else "server"
    server: Running = request.getfixturevalue(fixture)
    done = run(client, server.url, server.call_key)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_script_is_in_the_table() -> None:
    ours = {"__init__", "__main__", "table", "test_clients"}
    scripts = {path.stem for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*.mjs"))} - ours
    assert scripts == {client.script for client in CLIENTS}
    assert {client.environment for client in CLIENTS} - {""} == {*PACKAGES, JAVASCRIPT}
