"""Faces end to end: a pipeline served, people enrolled, found, told apart, and forgotten."""

import asyncio
import base64
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from face_models import RATE, SIZE, THRESHOLD, as_png, face, picture, publish_faces
from lmaas.accounts.records import Limits
from lmaas.client import AsyncClient, Client
from lmaas.config import Settings
from lmaas.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LMaaSError,
    NoFace,
    NotFound,
    SeveralFaces,
)
from lmaas.registry.database import FILE
from lmaas.service import Service
from lmaas.types import TENANT
from servers import Running, serving

ADA, BOB, EVE = 1, 2, 3
ALONE = picture([(ADA, 1, 1)])
GREEN = picture([], other=(2, 2))


@pytest.fixture(scope="module")
def made(once: Callable[..., Path]) -> Path:
    return once("faces", publish_faces)


@pytest.fixture(scope="module")
def running(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = Path(shutil.copytree(made, tmp_path_factory.mktemp("faces") / "home"))
    with serving(home) as server:
        yield server


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, running.key) as client:
        client.create_gallery("staff", "faces")
        for person, name in ((ADA, "ada"), (BOB, "bob")):
            for noise in (0, 1):
                client.enrol("staff", name, picture([(person, noise, 2)], noise=noise))
        yield client


def test_the_pipeline_answers_faces(client: Client) -> None:
    both = picture([(ADA, 0, 0), (BOB, 3, 2)], other=(2, 0))
    found = client.predict("faces", both)
    boxes = {tuple(each["box"].values()) for each in found}
    assert boxes == {(0.0, 0.0, 64.0, 64.0), (192.0, 128.0, 256.0, 192.0)}
    for each in found:
        assert np.linalg.norm(each["embedding"]) == pytest.approx(1, abs=1e-5)
        assert each["landmarks"] is None
    assert client.predict("faces", both, limit=1)[0] in found
    assert client.predict("faces", GREEN) == []
    with pytest.raises(InvalidInput, match="colour"):
        client.predict("faces", both, colour=1)
    # The embedder alone takes each image for one face.
    (alone,) = client.predict("embedder", as_png(face(ADA)))
    assert alone["box"] == {"xmin": 0, "ymin": 0, "xmax": 64, "ymax": 64}
    mine = next(each for each in found if each["box"]["xmin"] == 0)
    assert np.dot(alone["embedding"], mine["embedding"]) == pytest.approx(1, abs=1e-3)


def test_people_are_identified_and_strangers_are_not(client: Client) -> None:
    image = picture([(ADA, 0, 0), (EVE, 2, 0), (BOB, 3, 3)], noise=5)
    told = client.identify("staff", image, most=2)
    assert (told.gallery, told.model, told.threshold) == ("staff", "faces:1", THRESHOLD)
    assert told.false_accept_rate == RATE
    best = {each.box.xmin: each.matches[0] for each in told.faces}
    assert (best[0].subject, best[0].same) == ("ada", True)
    assert (best[192].subject, best[192].same) == ("bob", True)
    assert not best[128].same
    assert all(len(each.matches) == 2 for each in told.faces)
    assert client.identify("staff", GREEN).faces == ()


def test_a_face_is_verified_against_a_subject_with_many_photos(client: Client) -> None:
    told = client.verify("staff", "ada", picture([(ADA, 2, 2)], noise=7))
    assert told.same
    assert (told.subject, told.false_accept_rate) == ("ada", RATE)
    assert not client.verify("staff", "bob", picture([(ADA, 2, 2)], noise=7)).same
    for name, kind in (("nobody", NotFound), ("ada", SeveralFaces)):
        with pytest.raises(kind):
            client.verify(
                "staff",
                name,
                picture([(ADA, 0, 0), (BOB, 2, 2)] if name == "ada" else [(ADA, 0, 0)]),
            )


def small(side: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(ALONE)).resize((side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (GREEN, NoFace),
        (small(8), NoFace),
        (picture([(ADA, 0, 0), (BOB, 2, 2)]), SeveralFaces),
        (b"no image", InvalidInput),
        (ALONE[:200], InvalidInput),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", InvalidInput),
    ],
    ids=["no face", "8 pixels", "two faces", "text", "cut off", "svg"],
)
def test_what_cannot_be_enrolled_is_refused_by_name(
    client: Client, image: bytes, kind: type[LMaaSError]
) -> None:
    with pytest.raises(kind):
        client.enrol("staff", "mallory", image)
    assert "mallory" not in [subject.name for subject in client.subjects("staff")]


def test_a_huge_head_is_not_decoded(client: Client) -> None:
    head = bytearray(ALONE)
    head[16:24] = (65_000).to_bytes(4, "big") * 2
    with pytest.raises(LMaaSError):
        client.identify("staff", bytes(head))


def test_galleries_are_made_listed_and_bound_to_a_version(client: Client) -> None:
    (staff,) = [each for each in client.galleries() if each.name == "staff"]
    assert (staff.subjects, staff.photos, staff.dimensions) == (2, 4, 16)
    with pytest.raises(Conflict):
        client.create_gallery("staff", "faces")
    loose = client.create_gallery("loose", "faces", false_accept_rate=0.01)
    assert loose.threshold == 0.6
    with pytest.raises(InvalidInput, match=r"0\.5"):
        client.create_gallery("wrong", "faces", false_accept_rate=0.5)
    with pytest.raises(InvalidInput, match="object-detection"):
        client.create_gallery("wrong", "finder")
    with pytest.raises(InvalidInput, match="not both"):
        client.create_gallery("wrong", "faces", false_accept_rate=0.01, threshold=0.1)
    assert client.delete_gallery("loose").subjects == 0


def test_a_gallery_of_another_tenant_is_as_unknown_as_none(
    running: Running, client: Client
) -> None:
    with closing(Service(Settings(home=str(running.home)))) as service:
        _, other = service.create_key("other", "key", ("admin", "call"))
    with Client(running.url, other) as stranger:
        assert stranger.galleries() == []
        assert stranger.audit() == []

        def refused(ask: Callable[[str], Any], name: str) -> str:
            with pytest.raises(NotFound) as caught:
                ask(name)
            return str(caught.value).replace(name, "NAME")

        for ask in (
            lambda name: stranger.subjects(name),
            lambda name: stranger.identify(name, ALONE),
            lambda name: stranger.verify(name, "ada", ALONE),
            lambda name: stranger.enrol(name, "ada", ALONE),
            lambda name: stranger.delete_subject(name, "ada"),
            lambda name: stranger.delete_gallery(name),
        ):
            assert refused(ask, "staff") == refused(ask, "none")
    with Client(running.url, running.call_key) as caller:
        assert caller.identify("staff", ALONE).faces[0].matches[0].same
        with pytest.raises(Forbidden):
            caller.delete_gallery("staff")
        with pytest.raises(Forbidden):
            caller.audit()


def test_a_forgotten_subject_leaves_the_files_and_the_server(
    running: Running, client: Client
) -> None:
    vector = np.array(client.predict("faces", picture([(9, 0, 0)]))[0]["embedding"], "<f4")
    photo = client.enrol("staff", "Zoe To Be Forgotten", picture([(9, 0, 0)]))
    assert client.identify("staff", picture([(9, 0, 0)])).faces[0].matches[0].same

    def kept() -> bytes:
        return b"".join(path.read_bytes() for path in running.home.glob(f"{FILE}*"))

    assert b"Zoe To Be Forgotten" in kept()
    assert client.photos("staff", "Zoe To Be Forgotten").photos == (photo,)
    assert client.delete_subject("staff", "Zoe To Be Forgotten").photos == 1
    data = kept()
    assert b"Zoe To Be Forgotten" not in data
    assert photo.id.encode() not in data
    assert vector.tobytes()[-16:] not in data
    assert not client.identify("staff", picture([(9, 0, 0)])).faces[0].matches[0].same
    lines = client.audit(limit=5)
    assert [line.action for line in lines[:3]] == [
        "subjects deleted", "photo enrolled", "subject added"
    ]  # fmt: skip
    assert len({line.detail for line in lines[:3]}) == 1
    assert "Zoe" not in str(lines)
    assert lines[0].key_id
    assert lines[0].at <= time.time()


def test_both_clients_and_the_command_line(
    running: Running, client: Client, tmp_path: Path
) -> None:
    async def ask() -> bool:
        async with AsyncClient(running.url, running.key) as other:
            return (await other.verify("staff", "ada", ALONE)).same

    assert asyncio.run(ask())
    image, drawn = tmp_path / "a b.png", tmp_path / "out.png"
    image.write_bytes(picture([(ADA, 0, 0), (EVE, 2, 2)]))

    def run(*argv: str) -> str:
        whole = [sys.executable, "-m", "lmaas", "faces", *argv, "--home", str(running.home)]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run("identify", "staff", str(image), "--draw", str(drawn))
    assert "ada" in told
    assert "0.1000%" in told
    with Image.open(drawn) as opened:
        assert opened.size == (SIZE, SIZE)
    assert json.loads(run("list", "--json"))[0]["name"] == "staff"
    assert "photo enrolled" in run("audit")


def test_limits_and_usage_hold_for_faces(running: Running, client: Client) -> None:
    with closing(Service(Settings(home=str(running.home)))) as service:
        _, key = service.create_key(TENANT, "few", ("call",), Limits(requests_per_minute=2))
    with Client(running.url, key) as few:
        for _ in range(2):
            few.identify("staff", ALONE)
        # Our own client would wait and ask again.
        headers = {"authorization": f"Bearer {key}"}
        two = {"source_image": ALONE, "target_image": ALONE}
        for path in (
            "/v1/galleries/staff/identify",
            "/v1/galleries/staff/subjects/ada/verify",
            "/v1/galleries/staff/subjects/ada/photos",
            "/api/v1/recognition/faces?subject=ada",
            f"/api/v1/recognition/faces/{client.photos('staff', 'ada').photos[0].id}/verify",
            "/api/v1/recognition/recognize",
            "/api/v1/verification/verify?model=faces",
            "/api/v1/detection/detect?model=faces",
        ):
            given: dict[str, Any] = {"files": two} if "verification" in path else {"content": ALONE}
            answer = httpx.post(running.url + path, headers=headers, **given)
            assert answer.status_code == 429, path
        assert sum(row.requests for row in few.usage().data) == 2


class CompreFace:
    """What CompreFace's Python client sends (compreface-sdk 0.6.0), call by call."""

    def __init__(self, running: Running) -> None:
        self.url = running.url + "/api/v1"
        self.headers = {"x-api-key": running.call_key}

    def ask(self, method: str, path: str, **content: Any) -> Any:
        headers = self.headers | content.pop("headers", {})
        answer = httpx.request(method, self.url + path, headers=headers, **content)
        self.status = answer.status_code
        return answer.json()

    def form(self, path: str, **images: bytes) -> Any:
        files = {name: ("image.jpg", data) for name, data in images.items()}
        return self.ask("POST", path, files=files)

    def said(self, method: str, path: str, **body: Any) -> Any:
        headers = {"content-type": "application/json"}
        return self.ask(method, path, content=json.dumps(body), headers=headers)


def test_compreface_clients_are_answered(running: Running, client: Client) -> None:
    face = CompreFace(running)
    at = "gallery=visitors"
    client.create_gallery("visitors", "faces")
    subjects = f"/recognition/subjects?{at}"
    assert face.ask("GET", subjects) == {"subjects": []}
    assert face.said("POST", subjects, subject="Grace H") == {"subject": "Grace H"}
    assert face.status == 201
    enrol = f"/recognition/faces?subject=Grace H&{at}&det_prob_threshold=0.3"
    photo = face.form(enrol, file=picture([(4, 0, 0)]))
    assert photo["subject"] == "Grace H"
    assert len(photo["image_id"]) == 36
    text = base64.b64encode(picture([(5, 1, 1)])).decode()
    other = face.said("POST", f"/recognition/faces?subject=other&{at}", file=text)
    page = face.ask("GET", f"/recognition/faces?{at}&page=0&size=1")
    assert page == {
        "faces": [{"image_id": photo["image_id"], "subject": "Grace H"}],
        "page_number": 0, "page_size": 1, "total_pages": 2, "total_elements": 2,
    }  # fmt: skip
    wanted = "&limit=0&prediction_count=2&status=true&face_plugins=calculator"
    asked = f"/recognition/recognize?{wanted}&{at}"
    two = picture([(4, 2, 2), (6, 0, 0)], noise=3)
    found = face.form(asked, file=two)
    known = next(each for each in found["result"] if each["box"]["x_min"] == 128)
    assert known["box"] == {
        "probability": known["box"]["probability"],
        "x_min": 128, "y_min": 128, "x_max": 192, "y_max": 192,
    }  # fmt: skip
    assert known["subjects"][0]["subject"] == "Grace H"
    assert known["subjects"][0]["similarity"] > THRESHOLD
    assert known["subjects"][0]["same"]
    assert known["false_accept_rate"] == RATE
    assert len(known["embedding"]) == 16
    assert found["plugins_versions"]["calculator"] == "faces:1"
    (stranger,) = [each for each in found["result"] if each["box"]["x_min"] == 0]
    assert not any(each["same"] for each in stranger["subjects"])
    checked = face.form(f"/recognition/faces/{photo['image_id']}/verify?{at}", file=two)
    assert {each["same"] for each in checked["result"]} == {True, False}
    pair = face.form("/verification/verify?", source_image=picture([(4, 0, 0)]), target_image=two)
    assert pair["result"][0]["source_image_face"]["box"]["x_max"] == 64
    matches = pair["result"][0]["face_matches"]
    assert sorted(each["same"] for each in matches) == [False, True]
    assert len(face.form("/detection/detect?&limit=1", file=two)["result"]) == 1
    renamed = {"subject": "Grace", "api_endpoint": "Grace H"}
    assert face.said("PUT", f"/recognition/subjects/Grace H?{at}", **renamed) == {"updated": True}
    assert face.ask("GET", subjects) == {"subjects": ["Grace", "other"]}
    gone = face.ask("DELETE", f"/recognition/faces/{photo['image_id']}?{at}")
    assert gone == {"image_id": photo["image_id"], "subject": "Grace"}
    listed = face.ask(
        "POST", f"/recognition/faces/delete?{at}", content=json.dumps([other["image_id"]])
    )
    assert listed["deleted"] == [other]
    assert face.ask("DELETE", f"/recognition/subjects/Grace?{at}") == {"subject": "Grace"}
    assert face.ask("DELETE", subjects) == {"deleted": 1}


@pytest.mark.parametrize(
    ("path", "image", "status", "code"),
    [
        ("/recognition/faces?subject=x&gallery=staff", GREEN, 400, 28),
        ("/recognition/faces?subject=x&gallery=staff", picture([(1, 0, 0), (2, 2, 2)]), 400, 31),
        ("/recognition/faces?gallery=staff", ALONE, 400, 26),
        ("/recognition/faces?subject=x&gallery=none", ALONE, 404, 11),
        ("/recognition/recognize?gallery=staff", GREEN, 400, 28),
        ("/recognition/recognize?gallery=staff&face_plugins=age", ALONE, 400, 26),
        ("/recognition/recognize?gallery=staff&det_prob_threshold=2", ALONE, 400, 26),
        ("/recognition/recognize?gallery=staff&limit=-1", ALONE, 400, 26),
        ("/recognition/recognize?gallery=staff", b"", 400, 26),
        ("/recognition/faces/none/verify?gallery=staff", ALONE, 404, 11),
        ("/detection/detect", b"\x89PNG\r\n\x1a\nbroken", 400, 26),
    ],
)
def test_refusals_have_compreface_s_shape(
    running: Running, client: Client, path: str, image: bytes, status: int, code: int
) -> None:
    face = CompreFace(running)
    told = face.form(path, file=image)
    assert (face.status, told["code"]) == (status, code)
    assert told["message"]


def test_a_tenant_without_galleries_gets_one(made: Path, tmp_path: Path) -> None:
    """CompreFace's clients know no galleries: their first subject makes one."""
    home = Path(shutil.copytree(made, tmp_path / "home"))

    async def first() -> None:
        with closing(Service(Settings(home=str(home)))) as service:
            key, _ = service.create_key(TENANT, "key", ("call",))
            with pytest.raises(NotFound):
                await service.faces.gallery(key, None)
            assert await service.faces.gallery(key, None, make=True) == "default"
            made_now = service.faces.galleries.get(TENANT, "default")
            # Of an embedder and a pipeline, the pipeline is meant.
            assert (made_now.model, made_now.threshold) == ("faces:1", THRESHOLD)

    asyncio.run(first())
