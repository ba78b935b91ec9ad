"""A detector of drawn shapes, learned from nothing in all three frameworks, served and called.

    python recipes/detection.py [--quick] [--home DIR]

Scenes of 96 x 96 pixels have one to four ellipses, rectangles and triangles of any colour that do
not overlap, on a noisy ground. A network of 0.6 million weights learns 3,000 of them (COCO JSON in
a zip) as points with sizes, in PyTorch, Keras and TensorFlow; with --quick a smaller one learns 480
in PyTorch alone.
Each model is registered, served, and asked for 200 scenes (100) that no run saw by Hugging Face's
own client, with raw bytes and as JSON. The mean average precision is that of the answers. A picture
with the boxes that were found is written for each framework. Exit code 0 only when each reaches
0.75 (0.15 with --quick). Needs
`lmaas[train,keras,tensorflow]`.
"""

import io
import json
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
from huggingface_hub import InferenceClient
from PIL import Image, ImageDraw

from lmaas.client import Client
from lmaas.codecs.drawing import draw
from lmaas.codecs.marks import Mark
from lmaas.tasks.object_detection.average_precision import AveragePrecision
from proof import check, main, say, train

SIDE: Final = 96
FRAMEWORKS: Final = ("pytorch", "keras", "tensorflow")
KINDS: Final = ("ellipse", "rectangle", "triangle")
LEARNED, LEARNED_QUICK = 3000, 480
HELD, HELD_QUICK = 200, 100
LEAST, LEAST_QUICK = 0.75, 0.15
"""The mean average precision, over overlaps from 0.5 to 0.95, that each framework must reach."""
HOW: Final[dict[str, Any]] = {
    "epochs": 5,
    "batch_size": 16,
    "optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.0001},
}
HOW_QUICK: Final[dict[str, Any]] = {
    "epochs": 6,
    "batch_size": 8,
    "model": {"options": {"widths": [8, 16, 32, 48], "head": 32}},
    "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0001},
}
PICTURES: Final = Path(tempfile.gettempdir()) / "lmaas-detection"


class Scene(NamedTuple):
    """A PNG file, and of each shape its kind and its box."""

    file: bytes
    shapes: list[tuple[str, tuple[int, int, int, int]]]


def scene(random: np.random.Generator) -> Scene:
    """One drawn scene."""
    ground = random.integers(0, 256, 3)
    noise = random.normal(0, 12, (SIDE, SIDE, 3))
    image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    shapes: list[tuple[str, tuple[int, int, int, int]]] = []
    for _ in range(int(random.integers(1, 5))):
        box = _free(random, [box for _, box in shapes])
        if box is None:
            continue
        kind = KINDS[int(random.integers(len(KINDS)))]
        colour = random.integers(0, 256, 3)
        while np.abs(colour - ground).max() < 70:
            colour = random.integers(0, 256, 3)
        left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
        fill = tuple(colour.tolist())
        if kind == "ellipse":
            pen.ellipse((left, top, right, bottom), fill)
        elif kind == "rectangle":
            pen.rectangle((left, top, right, bottom), fill)
        else:
            pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill)
        shapes.append((kind, box))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Scene(file.getvalue(), shapes)


def _free(
    random: np.random.Generator, others: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """A box that overlaps none of the others; None where none was found."""
    for _ in range(20):
        width, height = random.integers(12, 44, 2).tolist()
        left, top = int(random.integers(0, SIDE - width)), int(random.integers(0, SIDE - height))
        box = (left, top, left + width, top + height)
        if all(
            box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
            for other in others
        ):
            return box
    return None


def write(path: Path, scenes: list[Scene]) -> None:
    """A zip with the images and COCO's JSON."""
    told: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": kind} for number, kind in enumerate(KINDS)],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for number, one in enumerate(scenes):
            name = f"{number}.png"
            archive.writestr(f"images/{name}", one.file)
            told["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            for kind, (left, top, right, bottom) in one.shapes:
                told["annotations"].append(
                    {
                        "id": len(told["annotations"]),
                        "image_id": number,
                        "category_id": KINDS.index(kind),
                        "bbox": [left, top, right - left, bottom - top],
                    }
                )
        archive.writestr("annotations.json", json.dumps(told))


class Meanwhile:
    """The processor's seconds that the processes below this one take."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Meanwhile":
        self._before = self._sum()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return self._sum() - self._before

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._sum()

    def _sum(self) -> float:
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._seconds[process.pid] = times.user + times.system
        return sum(self._seconds.values())


def measure(client: InferenceClient, held: list[Scene]) -> dict[str, float]:
    """The precision of what the server answers; every other scene is sent as JSON."""
    measured = AveragePrecision(len(KINDS))
    for number, one in enumerate(held):
        # Without a parameter the client sends the file, with one JSON. Precision wants them all.
        found = client.object_detection(one.file, threshold=0.05 if number % 2 else None)
        measured.add(
            np.array([[b.box.xmin, b.box.ymin, b.box.xmax, b.box.ymax] for b in found]).reshape(
                -1, 4
            ),
            np.array([each.score for each in found]),
            np.array([KINDS.index(each.label) for each in found], int),
            np.array([box for _, box in one.shapes], float),
            np.array([KINDS.index(kind) for kind, _ in one.shapes]),
        )
    return measured.result()


def drawn(client: InferenceClient, held: list[Scene], path: Path) -> None:
    """Six scenes side by side with the boxes that were found."""
    whole = Image.new("RGB", (3 * SIDE, 2 * SIDE))
    marks = []
    for place, one in enumerate(held[:6]):
        x, y = SIDE * (place % 3), SIDE * (place // 3)
        whole.paste(Image.open(io.BytesIO(one.file)), (x, y))
        for each in client.object_detection(one.file):
            box = each.box
            corners = (box.xmin + x, box.ymin + y, box.xmax + x, box.ymax + y)
            marks.append((corners, f"{each.label} {each.score:.2f}", each.label))
    scale = 4
    large = whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)
    file = io.BytesIO()
    large.save(file, "PNG")
    found = [
        Mark((a * scale, b * scale, c * scale, d * scale), text, kind)
        for (a, b, c, d), text, kind in marks
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw(file.getvalue(), found, ".png"))


def same(client: InferenceClient, one: Scene) -> bool:
    """Whether raw bytes and JSON get the same answer, and it is in the client's own types."""
    raw = client.object_detection(one.file)
    asked = client.object_detection(one.file, threshold=0.3)
    return bool(raw) and raw == asked and all(each.label in KINDS for each in raw)


def prove(client: Client, folder: Path, quick: bool) -> int:
    """A line for each framework, and what must hold of it."""
    random = np.random.default_rng(7)
    learned, count = (LEARNED_QUICK, HELD_QUICK) if quick else (LEARNED, HELD)
    least = LEAST_QUICK if quick else LEAST
    scenes = [scene(random) for _ in range(learned + count)]
    write(folder / "learned.zip", scenes[:learned])
    held, wrong = scenes[learned:], 0
    say(f"{learned} scenes to learn from, {count} that no run saw")
    say("  framework   mAP50:95   mAP50   steps   job, s   processor, s   a call, ms")
    for framework in FRAMEWORKS[: 1 if quick else None]:
        name = f"shapes-{framework}"
        began = time.perf_counter()
        with Meanwhile() as meanwhile:
            job = train(
                client,
                name=name,
                task="object-detection",
                framework=framework,
                data={"train": str(folder / "learned.zip"), "validation": 0.1},
                schedule={"name": "cosine", "warmup": 0.05},
                early_stopping=None,
                augmentation=[{"name": "flip"}],
                **(HOW_QUICK if quick else HOW),
            )
            took, seconds = time.perf_counter() - began, meanwhile.seconds
        caller = InferenceClient(model=f"{client.url}/models/{name}", token=client.key)
        found = measure(caller, held)
        began = time.perf_counter()
        for one in held[:50]:
            caller.object_detection(one.file)
        call_ms = (time.perf_counter() - began) * 1000 / 50
        say(
            f"  {framework:10}  {found['map']:8.3f}  {found['map50']:6.3f}  "
            f"{int(job.progress['step']):6}  {took:7.1f}  {seconds:13.1f}  {call_ms:11.2f}"
        )
        picture = PICTURES / f"{framework}.png"
        drawn(caller, held, picture)
        say(f"  what it found: {picture}")
        wrong += check(f"mAP50:95 is at least {least}", found["map"] >= least)
        wrong += check("raw bytes and JSON get one answer", same(caller, held[0]))
    return wrong


if __name__ == "__main__":
    sys.exit(main(__doc__, prove))
