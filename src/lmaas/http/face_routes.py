"""The table of the routes for faces: our own, and CompreFace's."""

from typing import Any, Final

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
from lmaas.http import compreface, galleries
from lmaas.http.route import Handler, Operation, Route

FORM: Final = "multipart/form-data"
IMAGE: Final = ("image/*", FORM, dict[str, str])
OURS: Final = "/v1/galleries/{name}"
RECOGNITION: Final = "/api/v1/recognition"
JSON: Final = dict[str, Any]


def _of(handler: Handler, body: tuple[Any, ...] = (), status: int = 200) -> Operation:
    return Operation(handler, body, (JSON,), query=("gallery",), status=status)


def _image(handler: Handler, status: int = 200) -> Operation:
    return Operation(handler, IMAGE, (JSON,), query=compreface.IMAGE_QUERY, status=status)


GALLERIES: Final = [
    Route(
        "/api/galleries",
        "admin",
        {
            "GET": Operation(galleries.page, (), (list[Gallery],)),
            "POST": Operation(galleries.create, (GalleryBody,), (Gallery,), status=201),
        },
    ),
    Route(
        "/api/galleries/{name}",
        "admin",
        {
            "GET": Operation(galleries.get, (), (Gallery,)),
            "DELETE": Operation(galleries.delete, (), (Removed,)),
        },
    ),
    Route(
        "/api/audit",
        "admin",
        {"GET": Operation(galleries.audit, (), (list[AuditLine],), query=("before", "limit"))},
    ),
    Route(
        f"{OURS}/subjects",
        "call",
        {"GET": Operation(galleries.subjects, (), (list[Subject],), query=("after", "limit"))},
    ),
    Route(
        f"{OURS}/subjects/{{subject}}",
        "call",
        {
            "PUT": Operation(galleries.rename, (galleries.RenameBody,), (galleries.RenameBody,)),
            "DELETE": Operation(galleries.forget, (), (Removed,)),
        },
    ),
    Route(
        f"{OURS}/subjects/{{subject}}/photos",
        "call",
        {
            "GET": Operation(galleries.photos, (), (PhotoPage,), query=("offset", "limit")),
            "POST": Operation(galleries.enrol, IMAGE, (Photo,), query=("threshold",), status=201),
        },
    ),
    Route(
        f"{OURS}/subjects/{{subject}}/verify",
        "call",
        {"POST": Operation(galleries.verify, IMAGE, (Verification,), query=("threshold",))},
    ),
    Route(
        f"{OURS}/photos/{{photo}}",
        "call",
        {"DELETE": Operation(galleries.delete_photo, (), (Photo,))},
    ),
    Route(
        f"{OURS}/identify",
        "call",
        {
            "POST": Operation(
                galleries.identify,
                IMAGE,
                (Identification,),
                query=(*galleries.IMAGE_QUERY, "most"),
            )
        },
    ),
]
COMPREFACE: Final = [
    Route(
        f"{RECOGNITION}/subjects",
        "call",
        {
            "GET": _of(compreface.subjects),
            "POST": _of(compreface.add_subject, (compreface.SubjectBody,), 201),
            "DELETE": _of(compreface.delete_subjects),
        },
    ),
    Route(
        f"{RECOGNITION}/subjects/{{subject}}",
        "call",
        {
            "PUT": _of(compreface.rename, (compreface.SubjectBody,)),
            "DELETE": _of(compreface.delete_subject),
        },
    ),
    Route(
        f"{RECOGNITION}/faces",
        "call",
        {
            "GET": Operation(
                compreface.photos, (), (JSON,), query=("gallery", "page", "size", "subject")
            ),
            "POST": Operation(
                compreface.enrol,
                IMAGE,
                (JSON,),
                query=("gallery", "subject", "det_prob_threshold"),
                status=201,
            ),
            "DELETE": Operation(
                compreface.delete_photos, (), (JSON,), query=("gallery", "subject")
            ),
        },
    ),
    Route(
        f"{RECOGNITION}/faces/delete",
        "call",
        {"POST": _of(compreface.delete_listed, ("application/json",))},
    ),
    Route(f"{RECOGNITION}/faces/{{image_id}}", "call", {"DELETE": _of(compreface.delete_photo)}),
    Route(f"{RECOGNITION}/faces/{{image_id}}/img", "call", {"GET": _of(compreface.no_image)}),
    Route(
        f"{RECOGNITION}/faces/{{image_id}}/verify",
        "call",
        {"POST": _image(compreface.verify_photo)},
    ),
    Route(f"{RECOGNITION}/recognize", "call", {"POST": _image(compreface.recognize)}),
    Route(
        "/api/v1/verification/verify",
        "call",
        {
            "POST": Operation(
                compreface.verify,
                (FORM, dict[str, str]),
                (JSON,),
                query=(*compreface.IMAGE_QUERY, "model"),
            )
        },
    ),
    Route(
        "/api/v1/detection/detect",
        "call",
        {
            "POST": Operation(
                compreface.detect, IMAGE, (JSON,), query=(*compreface.IMAGE_QUERY, "model")
            )
        },
    ),
]
