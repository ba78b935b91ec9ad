"""Requests to a hub. Knows addresses, the token and what errors mean; knows no folder.

`HF_ENDPOINT`, or the caller, says where the hub is; a token who asks. The token goes to the hub
only: on the way to another host httpx drops it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec
from msgspec import Meta

from lmaas import __version__
from lmaas.errors import (
    ConfigError,
    Forbidden,
    InvalidInput,
    ModelNotFound,
    NotFound,
    RateLimited,
    Unavailable,
)
from lmaas.hub.repo import HubFile, HubRef
from lmaas.registry.names import show

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 10.0
"""Longest silence of the hub."""
MAX_LISTING_BYTES = 64 << 20
DENIED = "Invalid credentials in Authorization header"
"""What a hub says of a token that it does not know."""


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0)]


class _File(msgspec.Struct):
    rfilename: str
    blobId: Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
    size: Annotated[int, Meta(ge=0)]
    lfs: _Lfs | None = None


class _Model(msgspec.Struct):
    sha: Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
    siblings: list[_File]


def own_token() -> str | None:
    """The token in this process's environment, which is its operator's."""
    return os.environ.get("HF_TOKEN", "").strip() or None


def check_token(token: str | None) -> None:
    """Refuse what no header can hold, without showing it. Raises InvalidInput."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InvalidInput(
            "The token for the hub has characters that no token has.",
            hint="Is there a space or the end of a line in it?",
            param="token",
        )


class Hub:
    """One hub; a context manager. Not for several threads at once."""

    def __init__(self, token: str | None, endpoint: str | None = None) -> None:
        check_token(token)
        self.endpoint = _endpoint(endpoint)
        headers = {"user-agent": f"lmaas/{__version__}", "accept-encoding": "identity"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(headers=headers, follow_redirects=True, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def commit(self, ref: HubRef) -> tuple[str, list[HubFile]]:
        """The commit that a revision is now, and its files.

        Raises ModelNotFound, NotFound (no such revision), Forbidden, RateLimited, Unavailable.
        """
        url = f"{self.endpoint}/api/models/{ref.repo}/revision/{quote(ref.revision, safe='')}"
        try:
            with self._http.stream("GET", url, params={"blobs": "true"}) as response:
                self._check(ref, response)
                body = _read(response, MAX_LISTING_BYTES)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"No answer from the hub {self.endpoint}: {told(error)}.",
                hint="HF_ENDPOINT says where the hub is; is it reachable from here?",
            ) from None
        try:
            model = msgspec.json.decode(body, type=_Model)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(
                f"{self.endpoint} does not describe {ref.repo} as a hub does: {error}.",
                hint="Each file needs its name, size and digest. Is HF_ENDPOINT right?",
            ) from None
        return model.sha, [_file(file) for file in model.siblings]

    @contextmanager
    def content(
        self, ref: HubRef, commit: str, file: HubFile, start: int
    ) -> Iterator[httpx.Response]:
        """A file's bytes from `start` on (status 206), or from its beginning (status 200).

        Raises what `commit` raises, and httpx.RequestError when the hub breaks off.
        """
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(ref.repo, file.name, revision=commit, endpoint=self.endpoint)
        headers = {"range": f"bytes={start}-"} if start else {}
        with self._http.stream("GET", url, headers=headers) as response:
            self._check(ref, response)
            yield response

    def _check(self, ref: HubRef, response: httpx.Response) -> None:
        """Raises what the hub's status and its header `X-Error-Code` mean."""
        if response.is_success:
            return
        status = response.status_code
        code, said = (response.headers.get(f"x-error-{name}") for name in ("code", "message"))
        if code == "GatedRepo":
            raise Forbidden(
                f"{ref.repo} is gated: its owner decides who may download it.",
                hint=f"Ask for access at {self.endpoint}/{ref.repo}, then set HF_TOKEN to a "
                "token of the account that has it.",
            )
        if code == "RevisionNotFound":
            raise NotFound(
                f"{ref.repo} has no revision {show(ref.revision)}.",
                hint=f"{self.endpoint}/{ref.repo}/tree/main lists branches and tags.",
                param="repo",
            )
        # Who has no token is told so of a model that does not exist, too.
        if code == "RepoNotFound" or (status == 401 and not code and said != DENIED):
            raise ModelNotFound(
                f"{self.endpoint} has no model {ref.repo}, or it is private.",
                hint="Check the spelling; for a private model set HF_TOKEN.",
                param="repo",
            )
        if status in (401, 403):
            raise Forbidden(
                f"{self.endpoint} refuses access to {ref.repo} ({status}).",
                hint="Set HF_TOKEN to a token that may read it.",
            )
        if status == 429:
            after = response.headers.get("retry-after", "")
            raise RateLimited(
                f"{self.endpoint} takes no more requests from here for now.",
                retry_after_s=int(after) if after.isdecimal() and len(after) < 6 else 60,
                hint="Run it again later: it continues. With HF_TOKEN set the limit is higher.",
            )
        if status == 404:
            raise Unavailable(f"{self.endpoint} lists a file of {ref.repo} that it does not have.")
        raise Unavailable(
            f"{self.endpoint} answers {status} for {ref.repo}.",
            hint="Run it again later: it continues.",
        )


def told(error: Exception) -> str:
    """What a failed connection says of itself."""
    return str(error).rstrip(".") or type(error).__name__


def own_endpoint() -> str | None:
    """Where the hub of this process's environment is, if it is said there."""
    return os.environ.get("HF_ENDPOINT", "").strip() or None


def _endpoint(given: str | None) -> str:
    # Before huggingface_hub is imported by anybody here: LMaaS tells nobody how it is used.
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    endpoint = (given or own_endpoint() or DEFAULT_ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(endpoint)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"HF_ENDPOINT is {show(endpoint)}; expected the address of a hub, as "
            f"{DEFAULT_ENDPOINT}.",
            param="HF_ENDPOINT",
        )
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise Unavailable(
            "HF_HUB_OFFLINE is set, so no hub is asked.", hint="Unset HF_HUB_OFFLINE to pull."
        )
    return endpoint


def _file(file: _File) -> HubFile:
    return HubFile(
        name=file.rfilename,
        size_bytes=file.lfs.size if file.lfs else file.size,
        sha256=file.lfs.sha256 if file.lfs else None,
        blob_sha1=file.blobId,
    )


def _read(response: httpx.Response, limit: int) -> bytes:
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > limit:
            raise Unavailable(f"{response.url.host} answers more than {limit} bytes.")
    return bytes(body)
