"""Faces told apart: a detector and an embedder learned from drawn people, served as one model.

    python recipes/faces.py [--quick] [--home DIR]

People are drawn (`drawn_faces.py`): 24 numbers are who somebody is, and every picture has its own
pose, light, expression, noise and things in the way. An embedder learns 900 of them by ArcFace, 8
pictures each, in PyTorch, Keras and TensorFlow, and a detector learns to find faces in scenes. Each
embedder with the detector is a pipeline. People whom no run saw are enrolled with three pictures
each by the calls of CompreFace's clients, then looked for in scenes with strangers. All pairs of
100 further people are compared: equal error rate at most 3 %, and at least 90 % of one person's
pairs accepted where 1 % of strangers' are. A picture with names is written. With --quick 60 people
and PyTorch alone, without a detector: pictures are cut out beforehand; that proves the way and not
the result. Exit code 0 only when all checks hold. Needs `lmaas[train,keras,tensorflow]`.
"""

import base64
import io
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from drawn_faces import Scene, crop, person, scene
from lmaas.client import Client
from lmaas.codecs.drawing import draw
from lmaas.codecs.marks import Mark
from lmaas.tasks.face_recognition.verification import measure
from proof import check, main, say, train

SIDE: Final = 64
SCENE: Final = (192, 128)
FRAMEWORKS: Final = ("pytorch", "keras", "tensorflow")
LEARNED, LEARNED_QUICK = 900, 60
PHOTOS, PHOTOS_QUICK = 8, 8
EPOCHS, EPOCHS_QUICK = 9, 2
UNSEEN: Final = 10_000
"""People from this number on are in no run."""
JUDGED, JUDGED_QUICK = 100, 24
BATCH: Final = 32
MOST_ERROR, MOST_ERROR_QUICK = 0.03, 0.45
LEAST_TAR: Final = 0.9
SCENES: Final = 1200
KNOWN, STRANGERS = 12, 12
PICTURES: Final = Path(tempfile.gettempdir()) / "lmaas-faces"


def png(who: int, random: np.random.Generator) -> bytes:
    """One picture of somebody, cut out."""
    file = io.BytesIO()
    crop(person(who), random, SIDE).save(file, "PNG")
    return file.getvalue()


def write_people(path: Path, people: range, photos: int, random: np.random.Generator) -> None:
    """A zip with a folder for each person."""
    with zipfile.ZipFile(path, "w") as archive:
        for who in people:
            for number in range(photos):
                archive.writestr(f"person-{who:05d}/{number}.png", png(who, random))


def drawn_scene(random: np.random.Generator, people: list[int] | None = None) -> Scene:
    """A scene of one to three people."""
    if people is None:
        people = random.integers(0, UNSEEN, int(random.integers(1, 4))).tolist()
    return scene(people, random, SCENE)


def write_scenes(path: Path, count: int, random: np.random.Generator) -> None:
    """A zip with scenes and COCO's JSON."""
    told: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 0, "name": "face"}],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            one, name = drawn_scene(random), f"{number}.png"
            archive.writestr(f"images/{name}", one.file)
            size = {"width": SCENE[0], "height": SCENE[1]}
            told["images"].append({"id": number, "file_name": name, **size})
            for left, top, right, bottom in one.boxes:
                box = [left, top, right - left, bottom - top]
                marked = {"id": len(told["annotations"]), "image_id": number, "category_id": 0}
                told["annotations"].append({**marked, "bbox": box})
        archive.writestr("annotations.json", json.dumps(told))


def learn_detector(client: Client, folder: Path, random: np.random.Generator) -> None:
    """The model `face-finder`."""
    write_scenes(folder / "scenes.zip", SCENES, random)
    train(
        client,
        name="face-finder",
        task="object-detection",
        data={"train": str(folder / "scenes.zip"), "validation": 0.1},
        epochs=8,
        batch_size=16,
        optimizer={"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.0001},
        schedule={"name": "cosine", "warmup": 0.05},
        early_stopping=None,
        augmentation=[{"name": "flip"}],
    )


def learn_embedder(client: Client, folder: Path, name: str, framework: str, quick: bool) -> float:
    """An embedder; the seconds that it took."""
    began = time.perf_counter()
    train(
        client,
        name=name,
        task="face-recognition",
        framework=framework,
        data={
            "train": str(folder / "people.zip"),
            "validation": 0.25 if quick else 0.1,
            "options": {"size": SIDE},
        },
        model={"options": {"widths": [16, 16, 24, 32]}} if quick else {},
        epochs=EPOCHS_QUICK if quick else EPOCHS,
        batch_size=BATCH,
        optimizer={"name": "adamw", "learning_rate": 0.002, "weight_decay": 0.0005},
        schedule={"name": "cosine", "warmup": 0.05},
        early_stopping=None,
    )
    return time.perf_counter() - began


def judged(client: Client, name: str, quick: bool, random: np.random.Generator) -> dict[str, float]:
    """The metrics of what the server answers about people whom no run saw."""
    people = range(UNSEEN, UNSEEN + (JUDGED_QUICK if quick else JUDGED))
    numbers = [who for who in people for _ in range(6)]
    vectors = []
    for start in range(0, len(numbers), 8):
        files = [png(who, random) for who in numbers[start : start + 8]]
        answer = client.predict(name, [base64.b64encode(file).decode() for file in files])
        vectors += [faces[0]["embedding"] for faces in answer]
    return measure(np.array(vectors, np.float32), np.array(numbers))


class CompreFace:
    """The calls of CompreFace's clients, for one gallery."""

    def __init__(self, client: Client, gallery: str) -> None:
        self._url = f"{client.url}/api/v1/recognition"
        self._headers = {"x-api-key": client.key or ""}
        self._gallery = gallery

    def _ask(self, method: str, path: str, query: dict[str, Any], **content: Any) -> Any:
        answer = httpx.request(
            method,
            f"{self._url}/{path}",
            params={"gallery": self._gallery, **query},
            headers=self._headers,
            timeout=60,
            **content,
        )
        return answer.json()

    def add(self, subject: str, image: bytes) -> Any:
        """Enrol somebody."""
        files = {"file": ("image.png", image)}
        return self._ask("POST", "faces", {"subject": subject}, files=files)

    def recognize(self, image: bytes) -> Any:
        """Whose faces these are."""
        files = {"file": ("image.png", image)}
        return self._ask("POST", "recognize", {"prediction_count": 1}, files=files)

    def delete(self, subject: str) -> Any:
        """Forget somebody."""
        return self._ask("DELETE", f"subjects/{subject}", {})


def use(client: Client, model: str, quick: bool, random: np.random.Generator) -> int:
    """Enrol people, look for them among strangers, forget one; how many checks failed."""
    name = f"visitors-{model}"
    gallery = client.create_gallery(name, model, false_accept_rate=0.01)
    door = CompreFace(client, name)
    known = list(range(UNSEEN + 500, UNSEEN + 500 + KNOWN))
    strangers = list(range(UNSEEN + 900, UNSEEN + 900 + STRANGERS))

    def look(people: list[int]) -> bytes:
        return png(people[0], random) if quick else drawn_scene(random, people).file

    for who in known:
        for _ in range(3):
            door.add(f"person {who}", look([who]))
    right = wrong = false = 0
    shown: list[tuple[bytes, Any]] = []
    for one, other in zip(known, strangers, strict=True):
        people = [one] if quick else [one, other]
        image = look(people)
        found = door.recognize(image).get("result", [])
        shown.append((image, found))
        names = [f["subjects"][0]["subject"] for f in found if f["subjects"][0]["same"]]
        right += f"person {one}" in names
        wrong += sum(each != f"person {one}" for each in names)
        alone = door.recognize(look([other])).get("result", [])
        false += any(face["subjects"][0]["same"] for face in alone)
    say(
        f"  {model}: {right} of {KNOWN} known people found, {wrong + false} of {STRANGERS} "
        f"strangers taken for somebody (threshold {gallery.threshold:.3f}, false accepts "
        f"{gallery.false_accept_rate:g} a pair)"
    )
    drawn(shown[0], PICTURES / f"{model}.png")
    failed = 0
    if not quick:
        failed += check("at least 10 of 12 known people are found", right >= KNOWN - 2)
        failed += check("at most 3 strangers are taken for somebody", wrong + false <= 3)
    client.delete_subject(name, f"person {known[0]}")
    left = [subject.name for subject in client.subjects(name)]
    failed += check("a forgotten person is gone", f"person {known[0]}" not in left)
    lines = client.audit(limit=1)
    failed += check("the audit has it", lines[0].action == "subjects deleted")
    return failed


def drawn(shown: tuple[bytes, Any], path: Path) -> None:
    """The names and boxes that were answered, on the picture, four times as large."""
    from PIL import Image

    image, found = shown
    scale = 4
    with Image.open(io.BytesIO(image)) as opened:
        large = opened.resize((opened.width * scale, opened.height * scale))
    file = io.BytesIO()
    large.save(file, "PNG")
    marks = []
    for face in found:
        box, best = face["box"], face["subjects"][0]
        corners = tuple(box[side] * scale for side in ("x_min", "y_min", "x_max", "y_max"))
        text = f"{best['subject']} {best['similarity']:.2f}" if best["same"] else "unknown"
        marks.append(Mark(corners, text, "known" if best["same"] else "unknown"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw(file.getvalue(), marks, ".png"))
    say(f"  who was found: {path}")


def prove(client: Client, folder: Path, quick: bool) -> int:
    """A line for each framework, and what must hold of it."""
    random = np.random.default_rng(7)
    learned, photos = (LEARNED_QUICK, PHOTOS_QUICK) if quick else (LEARNED, PHOTOS)
    write_people(folder / "people.zip", range(learned), photos, random)
    if not quick:
        learn_detector(client, folder, random)
    say(f"{learned} people to learn from, {photos} pictures each")
    failed = 0
    most = MOST_ERROR_QUICK if quick else MOST_ERROR
    for framework in FRAMEWORKS[: 1 if quick else None]:
        embedder = f"faces-{framework}"
        took = learn_embedder(client, folder, embedder, framework, quick)
        found = judged(client, embedder, quick, random)
        say(
            f"  {framework:10}  EER {found['eer']:.3f}  TAR at FAR 0.01 {found['tar_at_0.01']:.3f}"
            f"  rank 1 among strangers {found['rank1']:.3f}  job {took:.0f} s"
        )
        failed += check(f"the equal error rate is at most {most}", found["eer"] <= most)
        if not quick:
            failed += check(f"TAR is at least {LEAST_TAR}", found["tar_at_0.01"] >= LEAST_TAR)
        model = embedder
        if not quick:
            model = f"people-{framework}"
            parts = {"detector": "face-finder", "embedder": embedder}
            client.make_pipeline(model, task="face-recognition", parts=parts)
        failed += use(client, model, quick, random)
    return failed


if __name__ == "__main__":
    sys.exit(main(__doc__, prove))
