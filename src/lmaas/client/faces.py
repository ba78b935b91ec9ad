"""What can be asked about galleries of faces, without saying how it is sent."""

import os
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from lmaas.client.answers import check
from lmaas.client.operation import Call, operation
from lmaas.face_types import (
    AuditLine,
    Gallery,
    GalleryBody,
    Identification,
    Photo,
    PhotoPage,
    Removed,
    Subject,
    Verification,
)

Image = bytes | str | os.PathLike[str]
"""An image file: its bytes, or its path."""
OCTETS = "application/octet-stream"
T = TypeVar("T")


class Asking(Protocol):
    """What makes requests."""

    def _request(self, method: str, path: str, **content: Any) -> httpx.Request: ...


class FaceCalls:
    """Calls about faces; needs `_request`."""

    @operation
    def galleries(self: Asking) -> Call[list[Gallery]]:
        """All galleries of faces; needs a key with the scope admin."""
        response = yield self._request("GET", "/api/galleries")
        return _read(response, list[Gallery])

    @operation
    def create_gallery(
        self: Asking,
        name: str,
        model: str,
        *,
        false_accept_rate: float | None = None,
        threshold: float | None = None,
    ) -> Call[Gallery]:
        """Make a gallery for the vectors of one version of a face recognition model.

        Its threshold is the one that the model was calibrated at for `false_accept_rate` (left out:
        0.001, or the strictest that is known), or is given. Needs a key with the scope admin.
        """
        body = GalleryBody(
            name=name, model=model, false_accept_rate=false_accept_rate, threshold=threshold
        )
        response = yield self._request("POST", "/api/galleries", content=msgspec.json.encode(body))
        return _read(response, Gallery)

    @operation
    def delete_gallery(self: Asking, name: str) -> Call[Removed]:
        """Delete a gallery with all that is in it; needs a key with the scope admin."""
        response = yield self._request("DELETE", f"/api/galleries/{_part(name)}")
        return _read(response, Removed)

    @operation
    def audit(self: Asking, *, before: int = 0, limit: int = 100) -> Call[list[AuditLine]]:
        """Who changed galleries and when, the newest first, or those before a line's id; needs a
        key with the scope admin."""
        params = {"before": before, "limit": limit}
        response = yield self._request("GET", "/api/audit", params=params)
        return _read(response, list[AuditLine])

    @operation
    def subjects(
        self: Asking, gallery: str, *, after: str = "", limit: int = 100
    ) -> Call[list[Subject]]:
        """Who is in a gallery, by name, from the first one after `after` on."""
        params: dict[str, str | int] = {"after": after, "limit": limit}
        path = f"/v1/galleries/{_part(gallery)}/subjects"
        return _read((yield self._request("GET", path, params=params)), list[Subject])

    @operation
    def rename_subject(self: Asking, gallery: str, subject: str, new: str) -> Call[None]:
        """Give a subject another name; where that is somebody, they are joined."""
        body = msgspec.json.encode({"name": new})
        check((yield self._request("PUT", _path(gallery, subject), content=body)))

    @operation
    def delete_subject(self: Asking, gallery: str, subject: str) -> Call[Removed]:
        """Delete a subject: name and vectors leave the server's tables, files and memory."""
        return _read((yield self._request("DELETE", _path(gallery, subject))), Removed)

    @operation
    def enrol(
        self: Asking, gallery: str, subject: str, image: Image, *, threshold: float | None = None
    ) -> Call[Photo]:
        """Keep the vector of the one face in an image as a photo of `subject`.

        `threshold` is the least score of a face. Raises NoFace, SeveralFaces.
        """
        request = _image(self, f"{_path(gallery, subject)}/photos", image, threshold=threshold)
        return _read((yield request), Photo)

    @operation
    def photos(
        self: Asking, gallery: str, subject: str, *, offset: int = 0, limit: int = 100
    ) -> Call[PhotoPage]:
        """The photos of a subject, oldest first."""
        params = {"offset": offset, "limit": limit}
        path = f"{_path(gallery, subject)}/photos"
        return _read((yield self._request("GET", path, params=params)), PhotoPage)

    @operation
    def delete_photo(self: Asking, gallery: str, photo: str) -> Call[Photo]:
        """Delete a photo by its id."""
        path = f"/v1/galleries/{_part(gallery)}/photos/{_part(photo)}"
        return _read((yield self._request("DELETE", path)), Photo)

    @operation
    def identify(
        self: Asking,
        gallery: str,
        image: Image,
        *,
        most: int = 1,
        threshold: float | None = None,
        limit: int | None = None,
    ) -> Call[Identification]:
        """Whose faces an image shows: for each face, the largest first, the `most` likeliest.

        At most `limit` faces of at least the score `threshold` are looked at.
        """
        path = f"/v1/galleries/{_part(gallery)}/identify"
        request = _image(self, path, image, most=most, threshold=threshold, limit=limit)
        return _read((yield request), Identification)

    @operation
    def verify(
        self: Asking, gallery: str, subject: str, image: Image, *, threshold: float | None = None
    ) -> Call[Verification]:
        """Whether the one face of an image is `subject`'s. Raises NoFace, SeveralFaces."""
        request = _image(self, f"{_path(gallery, subject)}/verify", image, threshold=threshold)
        return _read((yield request), Verification)


def _path(gallery: str, subject: str) -> str:
    return f"/v1/galleries/{_part(gallery)}/subjects/{_part(subject)}"


def _part(name: str) -> str:
    return quote(name, safe="")


def _image(asking: Asking, path: str, image: Image, **params: float | None) -> httpx.Request:
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    given = {name: value for name, value in params.items() if value is not None}
    headers = {"content-type": OCTETS}
    return asking._request("POST", path, content=data, params=given, headers=headers)


def _read(response: httpx.Response, kind: type[T]) -> T:
    check(response)
    return msgspec.json.decode(response.content, type=kind)
