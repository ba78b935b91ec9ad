"""A hub for tests: the part of the Hugging Face Hub's API that a download needs, with faults."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 4096


class Hub:
    """Folders as repositories `ORG/NAME`, and what goes wrong with them.

    `served` counts the bytes of content sent, by file; `asked` has (method, path, headers).
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.served: dict[str, int] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""
        self.gated: set[str] = set()
        self.token: str | None = None
        """The only token that reads gated repositories."""
        self.breaks: dict[str, list[int]] = {}
        """By file: after how many bytes each next answer breaks off."""
        self.holds: dict[str, int] = {}
        """By file: after how many bytes an answer stops until `release`."""
        self.held = threading.Event()
        self.release = threading.Event()
        self.wrong_bytes: set[str] = set()
        self.told: dict[str, dict[str, Any]] = {}
        """By file: what the listing says instead."""
        self.extra: list[dict[str, Any]] = []
        """Entries that are listed beside the files."""
        self.listing: bytes | None = None
        """Sent instead of any listing."""
        self.status: dict[str, list[int]] = {}
        """By file: the statuses of its next answers."""
        self.ignores_ranges = False
        self.content_host: str | None = None
        """Where weights are redirected to."""

    def add(self, repo: str, folder: Path) -> str:
        """Serve the files of `folder` as `repo`; the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.repos[repo] = files
        commit = commit_of(files)
        known = self.revisions.setdefault(repo, {})
        known[commit] = known["main"] = files
        return commit

    def describe(self, files: dict[str, bytes]) -> dict[str, Any]:
        """The JSON of a model with its files."""
        siblings = []
        for name, content in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
            if is_large(name):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry | self.told.get(name, {}))
        return {"id": "any", "sha": commit_of(files), "siblings": siblings + self.extra}


def commit_of(files: dict[str, bytes]) -> str:
    """A commit's name: a digest of all its files."""
    digest = hashlib.sha1()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def is_large(name: str) -> bool:
    """Whether a file is kept by its sha256 (LFS)."""
    return name.endswith((".safetensors", ".bin", ".onnx", ".gguf"))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.asked.append((self.command, self.path, headers))
            try:
                if path.startswith("/api/models/"):
                    repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                    self.model(repo, revision or "main", "blobs=true" in parts.query)
                else:
                    repo, _, rest = path[1:].partition("/resolve/")
                    revision, _, name = rest.partition("/")
                    self.content(repo, revision, name)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def refused(self, repo: str, revision: str) -> bool:
            given = self.headers.get("authorization")
            if repo in hub.gated and given != f"Bearer {hub.token}":
                self.fail(403 if given else 401, "GatedRepo")
            elif repo not in hub.revisions:
                self.fail(404, "RepoNotFound")
            elif revision not in hub.revisions[repo]:
                self.fail(404, "RevisionNotFound")
            else:
                return False
            return True

        def fail(self, status: int, code: str) -> None:
            body = json.dumps({"error": code}).encode()
            self.head(status, len(body), {"X-Error-Code": code, "X-Error-Message": code})
            self.wfile.write(body)

        def head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def model(self, repo: str, revision: str, blobs: bool) -> None:
            if self.refused(repo, revision):
                return
            told = hub.describe(hub.revisions[repo][revision])
            if not blobs:
                told["siblings"] = [{"rfilename": s["rfilename"]} for s in told["siblings"]]
            body = json.dumps(told).encode() if hub.listing is None else hub.listing
            self.head(200, len(body), {"Content-Type": "application/json"})
            self.wfile.write(body)

        def content(self, repo: str, revision: str, name: str) -> None:
            if hub.content_host is not None and is_large(name):
                self.head(302, 0, {"Location": hub.content_host + self.path})
                return
            if self.refused(repo, revision):
                return
            if hub.status.get(name):
                self.fail(hub.status[name].pop(0), "Fault")
                return
            files = hub.revisions[repo][revision]
            if name not in files:
                self.fail(404, "EntryNotFound")
                return
            content = files[name]
            if name in hub.wrong_bytes:
                content = bytes(255 - byte for byte in content)
            start, told = self.headers.get("range"), {"X-Repo-Commit": commit_of(files)}
            if start is None or hub.ignores_ranges:
                self.head(200, len(content), told)
            else:
                first = int(start.removeprefix("bytes=").removesuffix("-"))
                told["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                content = content[first:]
                self.head(206, len(content), told)
            self.body(name, content)

        def body(self, name: str, content: bytes) -> None:
            cut = hub.breaks[name].pop(0) if hub.breaks.get(name) else None
            hold = hub.holds.get(name)
            for at in range(0, len(content), PIECE):
                if hold is not None and at >= hold:
                    self.wfile.flush()
                    hub.held.set()
                    assert hub.release.wait(60)
                    hold = None
                piece = content[at : at + PIECE]
                if cut is not None:
                    piece = piece[: cut - at]
                self.wfile.write(piece)
                hub.served[name] = hub.served.get(name, 0) + len(piece)
                if cut is not None and at + len(piece) >= cut:
                    self.close_connection = True
                    return

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub at `hub.url` on 127.0.0.1, until the end."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
