"""Images by URL: only from listed hosts, never from inside, never without end."""

import asyncio
import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lmaas.errors import ConfigError, InvalidInput, PayloadTooLarge, TimedOut
from lmaas.generation_types import MAX_FILE_BYTES, ChatMessage, FilePart, GenerateRequest, TextPart
from lmaas.serving import image_urls
from lmaas.serving.egress import EgressPolicy
from lmaas.serving.image_urls import ImageUrls
from servers import photo

DATA = photo()
MANY = 64 << 20


class Host:
    """A server of images on this machine, which has what no good one has."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                # Whoever asks goes away in the middle.
                with contextlib.suppress(OSError):
                    self.answer(self.path.partition("?")[0])

            def answer(self, path: str) -> None:
                if path == "/redirect":
                    self.begin(302, location="/a.png")
                elif path == "/missing":
                    self.begin(404)
                elif path == "/huge":
                    self.begin(200, **{"content-length": str(10 << 30)})
                    self.wfile.write(b"a" * 100)
                elif path == "/endless":
                    self.begin(200)
                    while True:
                        self.wfile.write(b"a" * 65_536)
                elif path == "/slow":
                    self.begin(200, **{"content-length": "1000000"})
                    while not host.closing.wait(0.05):
                        self.wfile.write(b"a")
                        self.wfile.flush()
                elif path == "/silent":
                    host.closing.wait(30)
                else:
                    self.begin(200, **{"content-length": str(len(DATA))})
                    self.wfile.write(DATA)

            def begin(self, status: int, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.closing.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def asked(*urls: str) -> GenerateRequest:
    files = [FilePart(kind="image", data=url, place=f"messages[0].content[{i}]")
             for i, url in enumerate(urls)]  # fmt: skip
    return GenerateRequest(
        messages=(ChatMessage(role="user", content=(*files, TextPart(text="a"))),)
    )


def fetch(
    hosts: tuple[str, ...], *urls: str, most: int = MANY, inside: tuple[str, ...] = ()
) -> Any:
    """The data of each image."""

    async def go() -> list[str]:
        images = ImageUrls(hosts, EgressPolicy(inside, "image_allow"))
        return [file.data for file in (await images.fetched(asked(*urls), most)).files]

    return asyncio.run(go())


LOCAL = ("127.0.0.1",)


def test_an_image_of_a_listed_host_is_fetched_once(host: Host) -> None:
    url = f"{host.url}/a.png?size=3&key=x"
    data = "data:image/png;base64,AAAA"
    first, second, third = fetch((host.url,), url, data, url, inside=LOCAL)
    assert base64.b64decode(first) == DATA
    assert (second, third) == (data, first)
    assert host.asked == ["/a.png?size=3&key=x"]


def test_nothing_is_fetched_from_elsewhere(host: Host) -> None:
    for hosts in ((), ("images.example.com",), (f"http://127.0.0.1:{host.port + 1}",),
                  (f"https://127.0.0.1:{host.port}",)):  # fmt: skip
        with pytest.raises(InvalidInput, match="no images are fetched here") as caught:
            fetch(hosts, f"{host.url}/a.png", inside=LOCAL)
        assert caught.value.param == "messages[0].content[0]"
        assert "image_hosts" in str(caught.value)
    assert not host.asked
    assert fetch((), "file:///etc/passwd", "ftp://x/a.png") == [
        "file:///etc/passwd",
        "ftp://x/a.png",
    ]


SPELLED = (
    "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::1]",
    "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "169.254.169.254", "10.0.0.1", "192.168.1.1",
    "172.16.0.1", "100.64.0.1", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::7f00:1]", "LOCALHOST",
)  # fmt: skip


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_listed_host_that_leads_inside_is_refused(host: Host, spelled: str) -> None:
    origin = f"http://{spelled}:{host.port}"
    with pytest.raises(InvalidInput):
        fetch((origin,), f"{origin}/a.png")
    assert not host.asked


def test_names_are_looked_up_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads to a good address first and to a bad one then: only the first counts."""
    answers = [LOCAL[0], "10.0.0.7"]

    async def lookup(self: Any, *args: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), args[1]))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", lookup)
    origin = f"http://images.example.com:{host.port}"
    connect = asyncio.base_events.BaseEventLoop.create_connection
    reached: list[str] = []

    async def connected(self: Any, make: Any, to: str, port: int, **more: Any) -> Any:
        reached.append(to)
        monkeypatch.undo()  # the loop itself asks for the address of an address
        return await connect(self, make, to, port, **more)

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "create_connection", connected)
    (data,) = fetch((origin,), f"{origin}/a.png", inside=LOCAL)
    assert base64.b64decode(data) == DATA
    assert (reached, answers) == ([LOCAL[0]], ["10.0.0.7"])


def test_one_bad_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(self: Any, *args: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, args[1]))
                for each in ("93.184.216.34", "127.0.0.1")]  # fmt: skip

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", lookup)
    with pytest.raises(InvalidInput, match="internal address"):
        fetch(("images.example.com",), "https://images.example.com/a.png")


@pytest.mark.parametrize(
    ("path", "told"),
    [("/redirect", "status 302; redirects are not followed"), ("/missing", "status 404")],
)
def test_only_the_image_itself_will_do(host: Host, path: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        fetch((host.url,), host.url + path, inside=LOCAL)
    assert host.asked == [path]


@pytest.mark.parametrize("path", ["/huge", "/endless"])
def test_too_many_bytes_are_not_read(host: Host, path: str) -> None:
    with pytest.raises(PayloadTooLarge, match=f"more than {MAX_FILE_BYTES} bytes"):
        fetch((host.url,), host.url + path, inside=LOCAL)


def test_all_images_together_are_bounded(host: Host) -> None:
    urls = [f"{host.url}/{number}" for number in range(4)]
    assert len(fetch((host.url,), *urls, most=4 * len(DATA), inside=LOCAL)) == 4
    with pytest.raises(PayloadTooLarge) as caught:
        fetch((host.url,), *urls, most=3 * len(DATA), inside=LOCAL)
    assert caught.value.param == "messages[0].content[3]"


@pytest.mark.parametrize("path", ["/slow", "/silent"])
def test_time_is_bounded(host: Host, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_urls, "FETCH_TIMEOUT_S", 0.5)
    with pytest.raises(TimedOut):
        fetch((host.url,), host.url + path, inside=LOCAL)


@pytest.mark.parametrize(
    "url",
    ["http://", "https://user:pass@images.example.com/a", "https://images.example.com/a#b",
     "https://images.example.com/a b", "http://images.example.com:0/a",
     "https://images.example.com/" + "a" * 3000],
)  # fmt: skip
def test_what_is_no_url_is_named(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fetch(("images.example.com",), url)
    assert caught.value.param == "messages[0].content[0]"


@pytest.mark.parametrize("entry", ["", "a b", "https://images.example.com/path", "ftp://x", "u@x"])
def test_a_setting_that_is_wrong_is_named(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageUrls((entry,), EgressPolicy())
    assert caught.value.param == "image_hosts"
