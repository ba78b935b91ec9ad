"""A receiver of webhooks on this machine, which answers as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Message(NamedTuple):
    """What was received."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """`statuses` are answered one after the other, the last one from then on."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses or (200,))
        self.messages: list[Message] = []
        self.location = ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.messages.append(Message(self.path, headers, self.rfile.read(size)))
                left = receiver.statuses
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    """A receiver, for the time of the block."""
    receiver = Receiver(*statuses)
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()
