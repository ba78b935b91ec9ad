"""Webhooks: signed, sent at least once, and never to where only this machine may go."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmaas.errors import ConfigError, Conflict, InvalidInput, NotFound, StorageFull
from lmaas.job import KINDS, JobError, JobKind, Webhook, WebhookDelivery
from lmaas.jobs.claims import Claims
from lmaas.jobs.delivery import Deliverer
from lmaas.jobs.rows import message
from lmaas.jobs.store import Jobs
from lmaas.jobs.webhooks import MAX_WEBHOOKS, Webhooks
from lmaas.registry.database import Database
from lmaas.serving.egress import EgressPolicy, is_public
from lmaas.supervision import Supervisor
from receiver import Receiver, receiving

PATIENCE_S = 60.0


class Home:
    """A queue, its webhooks, and one that sends."""

    def __init__(
        self, folder: Path, *, allow: tuple[str, ...] = ("127.0.0.1",), http: bool = True,
        delays_s: tuple[float, ...] = (0.05, 0.05),
    ) -> None:  # fmt: skip
        self.database = Database(folder)
        self.jobs = Jobs(self.database)
        self.claims = Claims(self.database)
        outside = EgressPolicy(allow)
        self.webhooks = Webhooks(self.database, outside, http=http)
        self.deliverer = Deliverer(self.database, outside, http=http, delays_s=delays_s)

    def job(self, tenant: str = "t") -> str:
        return self.jobs.add(tenant, "key", "train", "a", {}).id

    def cancelled(self, tenant: str = "t") -> str:
        return self.jobs.cancel(tenant, self.job(tenant)).id

    def only(self, webhook: Webhook) -> WebhookDelivery:
        (delivery,) = self.webhooks.deliveries("t", webhook.id)
        return delivery

    async def until(self, true: Callable[[], object]) -> None:
        """Send until something is so."""
        self.deliverer.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not true():
                    await asyncio.sleep(0.02)
        finally:
            await self.deliverer.close()

    def send_until(self, true: Callable[[], object]) -> None:
        work: Awaitable[None] = self.until(true)

        async def main() -> None:
            await work

        asyncio.run(main())

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def verified(secret: str, received: Receiver, number: int = 0) -> dict[str, Any]:
    """The message, once the stock client has checked its signature."""
    import openai

    got = received.messages[number]
    client = openai.OpenAI(api_key="unused", webhook_secret=secret)
    client.webhooks.verify_signature(got.body.decode(), got.headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(got.body.decode() + " ", got.headers)
    value: dict[str, Any] = json.loads(got.body)
    return value


def test_every_end_of_a_job_is_told_and_signed(home: Home) -> None:
    with receiving() as receiver:
        webhook, secret = home.webhooks.add("t", f"{receiver.url}/hook/?who=me")
        ids = {"cancelled": home.cancelled()}
        for state in ("succeeded", "failed"):
            ids[state] = home.job()
            taken = home.claims.claim("me", 9)
            assert taken is not None
            if state == "failed":
                home.claims.fail(taken[0], JobError(code="invalid_input", message="no"))
            else:
                with home.database.write() as connection:
                    home.claims.succeed(connection, taken[0], "a:1")
        home.send_until(lambda: len(receiver.messages) == 3)
        told = [verified(secret, receiver, number) for number in range(3)]
        assert {one["type"]: one["data"]["id"] for one in told} == {
            f"fine_tuning.job.{state}": job for state, job in ids.items()
        }
        for one, got in zip(told, receiver.messages, strict=True):
            assert one["object"] == "event"
            assert one["id"] == got.headers["webhook-id"]
            assert abs(one["created_at"] - time.time()) < PATIENCE_S
            assert got.path == "/hook/?who=me"
        import openai

        stock = openai.OpenAI(api_key="unused", webhook_secret=secret)
        got = receiver.messages[0]
        event = stock.webhooks.unwrap(got.body.decode(), got.headers)
        assert event.type == "fine_tuning.job.cancelled"
        assert event.data.id == ids["cancelled"]
        home.send_until(
            lambda: all(d.delivered_at for d in home.webhooks.deliveries("t", webhook.id))
        )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "train"])
def test_ends_of_other_kinds_say_what_they_were(home: Home, kind: JobKind) -> None:
    with receiving() as receiver:
        _, secret = home.webhooks.add("t", receiver.url)
        training, _ = home.webhooks.add("t", receiver.url, ["fine_tuning.job.cancelled"])
        job = home.jobs.add("t", "key", kind, "a", {}).id
        home.jobs.cancel("t", job)
        home.send_until(lambda: receiver.messages)
        told = verified(secret, receiver, 0)
        assert told["type"] == "job.cancelled"
        assert told["data"] == {"id": job, "kind": kind, "name": "a"}
        assert home.webhooks.deliveries("t", training.id) == []


def test_a_job_that_is_paused_or_queued_again_has_not_ended(home: Home) -> None:
    webhook, _ = home.webhooks.add("t", "https://example.com")
    home.jobs.pause("t", home.job())
    home.job()
    taken = home.claims.claim("me", 9)
    assert taken is not None
    home.claims.release(taken[0], "queued", message("again"))
    assert home.webhooks.deliveries("t", webhook.id) == []


def test_one_hears_what_it_wants_of_its_own_tenant(home: Home) -> None:
    failures, _ = home.webhooks.add("t", "https://a.example", ["fine_tuning.job.failed"])
    other, _ = home.webhooks.add("u", "https://b.example")
    both, _ = home.webhooks.add("t", "https://c.example")
    home.cancelled()
    assert home.webhooks.deliveries("t", failures.id) == []
    assert home.webhooks.deliveries("u", other.id) == []
    assert home.only(both).type == "fine_tuning.job.cancelled"
    with pytest.raises(NotFound):
        home.webhooks.deliveries("t", other.id)
    with pytest.raises(NotFound):
        home.webhooks.remove("t", other.id)
    assert [each.id for each in home.webhooks.list("t")] == [failures.id, both.id]


def test_it_is_sent_again_after_a_failure_under_the_same_id(home: Home) -> None:
    with receiving(500, 503, 204) as receiver:
        webhook, secret = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.send_until(lambda: home.only(webhook).delivered_at)
        assert len(receiver.messages) == home.only(webhook).attempts == 3
        assert len({got.headers["webhook-id"] for got in receiver.messages}) == 1
        for number in range(3):
            verified(secret, receiver, number)
        assert home.only(webhook).error is None


def test_it_is_given_up_in_the_end(home: Home) -> None:
    with receiving(500) as receiver:
        webhook, _ = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.send_until(lambda: home.only(webhook).next_at is None)
        assert len(receiver.messages) == 3
        assert home.only(webhook).delivered_at is None
        assert "500" in (home.only(webhook).error or "")


def test_a_receiver_that_is_gone_is_not_asked_again(home: Home) -> None:
    with receiving(410) as receiver:
        webhook, _ = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.send_until(lambda: home.only(webhook).next_at is None)
        assert len(receiver.messages) == 1


def test_redirects_are_not_followed(home: Home) -> None:
    with receiving() as inside, receiving(302) as receiver:
        receiver.location = inside.url
        webhook, _ = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.send_until(lambda: home.only(webhook).next_at is None)
        assert inside.messages == []
        assert "redirects are not followed" in (home.only(webhook).error or "")


def test_another_server_sends_what_the_first_had_not(tmp_path: Path) -> None:
    with receiving(500, 200) as receiver:
        first = Home(tmp_path, delays_s=(0.5,))
        webhook, secret = first.webhooks.add("t", receiver.url)
        home_job = first.cancelled()
        first.send_until(lambda: first.only(webhook).attempts == 1)
        first.close()
        second = Home(tmp_path, delays_s=(0.5,))
        second.send_until(lambda: second.only(webhook).delivered_at)
        assert verified(secret, receiver, 1)["data"] == {"id": home_job}
        second.close()


def test_a_slow_receiver_holds_up_only_itself(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, receiving() as receiver:
        silent, _ = home.webhooks.add("t", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        webhook, _ = home.webhooks.add("t", receiver.url)
        for _ in range(3):
            home.cancelled()
        home.send_until(lambda: len(receiver.messages) == 3)
        assert all(one.attempts == 0 for one in home.webhooks.deliveries("t", silent.id))
        assert len({got.headers["webhook-id"] for got in receiver.messages}) == 3
        assert home.webhooks.remove("t", webhook.id).id == webhook.id


def test_what_is_removed_is_not_sent(home: Home) -> None:
    with receiving() as receiver:
        gone, _ = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.webhooks.remove("t", gone.id)
        kept, _ = home.webhooks.add("t", receiver.url)
        home.cancelled()
        home.send_until(lambda: home.only(kept).delivered_at)
        assert len(receiver.messages) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",  # http is not allowed here
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://169.254.169.254/latest",
        "https://user:secret@example.com",
        "https://example.com/#part",
        "https://example.com/?a#part",
        "https://example.com/?a b",
        "ftp://example.com",
        "https://" + "a" * 3000,
        "nonsense",
    ],
)
def test_bad_urls_are_refused_by_name(tmp_path: Path, url: str) -> None:
    home = Home(tmp_path, allow=(), http=False)
    with pytest.raises(InvalidInput) as refused:
        home.webhooks.add("t", url)
    assert refused.value.param == "url"
    assert home.webhooks.list("t") == []
    home.close()


def test_there_is_a_bound_on_webhooks(home: Home) -> None:
    for _ in range(MAX_WEBHOOKS):
        home.webhooks.add("t", "https://example.com")
    with pytest.raises(Conflict):
        home.webhooks.add("t", "https://example.com")
    home.webhooks.add("u", "https://example.com")


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Names lead to these addresses, one look-up after the other; which names were asked for."""
    left, asked = list(answers), []

    async def lookup(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    return asked


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
)
def test_a_name_that_leads_inside_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        home = Home(tmp_path, allow=())
        webhook, _ = home.webhooks.add("t", f"http://evil.example:{port}")
        home.cancelled()
        resolving(monkeypatch, address)
        home.send_until(lambda: home.only(webhook).next_at is None)
        assert receiver.messages == []
        assert "is an internal address" in (home.only(webhook).error or "")
        home.close()


def test_the_address_that_was_checked_is_the_one_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads outside first and inside the next time gains nothing."""
    with receiving() as receiver:
        port = int(receiver.url.rpartition(":")[2])
        home = Home(tmp_path, allow=(), delays_s=())
        webhook, _ = home.webhooks.add("t", f"http://rebinding.example:{port}")
        home.cancelled()
        asked = resolving(monkeypatch, "203.0.114.7", "127.0.0.1")
        called: list[tuple[str, int]] = []

        async def connect(self: Any, make: Any, host: str, port: int, **_: Any) -> Any:
            called.append((host, port))
            raise OSError("nobody there")

        monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
        home.send_until(lambda: home.only(webhook).next_at is None)
        assert asked == ["rebinding.example"]
        assert called == [("203.0.114.7", port)]
        assert receiver.messages == []
        home.close()


def test_a_host_that_is_named_may_be_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        home = Home(tmp_path, allow=("Receiver.Internal",))
        webhook, _ = home.webhooks.add("t", f"http://receiver.internal:{port}")
        home.cancelled()
        resolving(monkeypatch, "127.0.0.1")
        home.send_until(lambda: home.only(webhook).delivered_at)
        assert receiver.messages[0].headers["host"] == f"receiver.internal:{port}"
        home.close()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.1.1", "172.16.0.1", "192.0.0.8",
        "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "203.0.113.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "64:ff9b::a00:1",
        "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::", "3fff::1",
        "fc00::1", "fe80::1", "fec0::1", "ff02::1", "::ffff:8.8.8.8", "5f00::1",
    ],
)  # fmt: skip
def test_internal_addresses(address: str) -> None:
    import ipaddress

    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "203.0.114.7", "2606:4700::1", "2a00::1"])
def test_public_addresses(address: str) -> None:
    EgressPolicy().check("a.example")(address)


def test_the_metadata_of_clouds_cannot_be_allowed() -> None:
    check = EgressPolicy(("169.254.0.0/16", "fd00::/8", "a.example")).check("a.example")
    for address in ("169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"):
        with pytest.raises(InvalidInput):
            check(address)
    check("fd00::1")


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "300.1.1.1", "a b", "", "*.example"])
def test_bad_entries_of_the_setting_are_refused(entry: str) -> None:
    with pytest.raises(ConfigError) as refused:
        EgressPolicy((entry,))
    assert refused.value.param == "webhook_allow"


@pytest.mark.parametrize("error", [StorageFull("full"), RuntimeError("unforeseen")])
def test_what_could_not_be_read_once_is_read_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also if nothing is committed afterwards: on a full disk nothing can be."""
    due, asked = home.deliverer._due, 0

    def failing(sending: tuple[str, ...]) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise error
        return due(sending)

    monkeypatch.setattr(home.deliverer, "_due", failing)
    supervisor = Supervisor()
    with receiving() as receiver:
        home.webhooks.add("t", receiver.url)

        async def main() -> None:
            home.deliverer.start(supervisor)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while asked < 1:
                        await asyncio.sleep(0.02)
                    await asyncio.to_thread(home.cancelled)
                    while not receiver.messages:
                        await asyncio.sleep(0.02)
            finally:
                await home.deliverer.close()

        asyncio.run(main())
    assert supervisor.failures["webhooks"] == isinstance(error, RuntimeError)
