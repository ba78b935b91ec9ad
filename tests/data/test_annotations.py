"""Images with boxes, in four formats, as folders and zips; what is wrong is named by its place."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmaas.data import reading
from lmaas.errors import InvalidInput

SIZE = (40, 30)
BOXES = [("cat", 4, 2, 20, 12), ("dog", 10, 10, 40, 30)]


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE).save(file, "PNG")
    return file.getvalue()


def coco(boxes: list[Any] | None = None, **image: Any) -> dict[str, bytes]:
    """Two images: the first has the boxes, the second none."""
    labels = {"cat": 7, "dog": 3}
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": labels.get(label, label),
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }
        for number, (label, left, top, right, bottom) in enumerate(boxes or BOXES)
    ]
    size = {"width": SIZE[0], "height": SIZE[1], **image}
    told = {
        "images": [
            {"id": 1, "file_name": "one.png", **size}, {"id": 2, "file_name": "two.png", **size}
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in labels.items()],
    }  # fmt: skip
    return {
        "images/one.png": picture(),
        "images/two.png": picture(),
        "annotations/train.json": json.dumps(told, indent=1).encode(),
    }


def yolo(boxes: list[Any] | None = None) -> dict[str, bytes]:
    width, height = SIZE
    names = ["dog", "cat"]
    lines = [
        f"{names.index(label) if label in names else label} {(left + right) / 2 / width} "
        f"{(top + bottom) / 2 / height} {(right - left) / width} {(bottom - top) / height}"
        for label, left, top, right, bottom in boxes or BOXES
    ]
    return {
        "data/images/one.png": picture(),
        "data/images/two.png": picture(),
        "data/labels/one.txt": "\n".join(lines).encode(),
        "data/data.yaml": b"names:\n  0: dog\n  1: cat\n",
    }


def voc(boxes: list[Any] | None = None) -> dict[str, bytes]:
    def file(name: str, boxes: list[Any]) -> bytes:
        objects = "".join(
            f"<object><name>{label}</name><part><name>head</name></part><bndbox>"
            f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax>"
            f"<ymax>{bottom}</ymax></bndbox></object>\n"
            for label, left, top, right, bottom in boxes
        )
        return (
            f"<annotation>\n<filename>{name}</filename><size><width>{SIZE[0]}</width>"
            f"<height>{SIZE[1]}</height><depth>3</depth></size>\n{objects}</annotation>"
        ).encode()

    return {
        "JPEGImages/one.png": picture(),
        "JPEGImages/two.png": picture(),
        "Annotations/one.xml": file("one.png", boxes or BOXES),
        "Annotations/two.xml": file("two.png", []),
    }


def lines(boxes: list[Any] | None = None) -> dict[str, bytes]:
    objects = [{"label": label, "box": box} for label, *box in boxes or BOXES]
    rows = [
        {"image": "images/one.png", "boxes": objects, "width": SIZE[0], "height": SIZE[1]},
        {"image": "two.png", "boxes": []},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    return {
        "images/one.png": picture(),
        "images/two.png": picture(),
        "boxes.jsonl": text.encode(),
    }


FORMATS = {"coco": coco, "yolo": yolo, "voc": voc, "jsonl": lines}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def packed(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("as_zip", [False, True])
def test_the_same_boxes_come_from_every_format(tmp_path: Path, form: str, as_zip: bool) -> None:
    files = FORMATS[form]()
    path = packed(tmp_path, files) if as_zip else write(tmp_path / "data", files)
    table = reading.read(path, tmp_path / "made")
    assert (len(table), set(table.columns)) == (2, {"image", "boxes"})
    assert table.content("image", 0) == picture()
    assert len(table.digest) == 64
    (shares, boxes), (_, none) = table.values("boxes")
    scale = (*SIZE, *SIZE) if shares else (1, 1, 1, 1)
    told = [
        (each[0], *(round(value * side, 4) for value, side in zip(each[1:5], scale, strict=True)))
        for each in boxes
    ]
    assert told == BOXES
    assert none == []
    assert all("line" in each[5] for each in boxes)
    if as_zip:
        reading.check(path)


def test_a_folder_without_boxes_is_one_of_classes(tmp_path: Path) -> None:
    files = {"cat/1.png": picture(), "dog/2.png": picture(), "cat/notes.json": b"{}"}
    table = reading.read(write(tmp_path / "data", files), tmp_path)
    assert table.columns == ("image", "label")


BAD = [
    ([("cat", 4, 2, 90, 12)], "outside the image"),
    ([("cat", -9, 2, 20, 12)], "outside the image"),
    ([("cat", 4, 2, 4, 12)], "no area"),
    ([("cat", 20, 2, 4, 12)], "no area"),
    ([("cat", float("nan"), 2, 20, 12)], "number|damaged|malformed|invalid|no COCO JSON"),
    ([("cat", 4, 2, 20, 12)] * 10_000, "10001 boxes"),
]


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize(("boxes", "told"), BAD)
def test_a_box_that_is_none_is_named_by_file_and_line(
    tmp_path: Path, form: str, boxes: list[Any], told: str
) -> None:
    files = FORMATS[form]([*BOXES[:1], *boxes])
    with pytest.raises(InvalidInput, match=told) as caught:
        reading.read(packed(tmp_path, files), tmp_path)
    if "NaN" not in str(files) and len(boxes) == 1:
        line = {"yolo": "labels/one.txt, line 2", "voc": "one.xml, line 4", "jsonl": "line 1"}
        assert line.get(form, "annotations/train.json, line ") in caught.value.message


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_an_unknown_class_is_named(tmp_path: Path, form: str) -> None:
    files = FORMATS[form]([*BOXES, (9, 4, 2, 20, 12)])
    with pytest.raises(InvalidInput, match=r"line \d+: unknown class"):
        reading.read(packed(tmp_path, files), tmp_path)


def test_lines_of_a_document_are_those_of_its_boxes(tmp_path: Path) -> None:
    files = coco([*BOXES, ("cat", 5, 5, 5, 9)])
    content = files["annotations/train.json"].decode()
    start = content.index('"annotations"')
    third = content.index('"id": 2', start)
    expected = content[:third].count("\n")  # the brace stands on the line before
    with pytest.raises(InvalidInput, match=f"train.json, line {expected}: the box has no area"):
        reading.read(packed(tmp_path, files), tmp_path)


def replaced(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    return {**files, name: content}


XML = b"<annotation><filename>one.png</filename></annotation>"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({**coco(), "boxes.jsonl": lines()["boxes.jsonl"]}, "several kinds"),
        (replaced(coco(), "annotations/train.json", b'{"images" "annotations" "categories"'), "no"),
        ({k: v for k, v in coco().items() if "one.png" not in k}, "one.png' is not there"),
        (coco() | {"more/one.png": picture()}, "could be"),
        (replaced(yolo(), "data/labels/one.txt", b"1 0.5 0.5 0.1"), "line 1: expected class"),
        (replaced(yolo(), "data/labels/one.txt", b"1 0 0 1 0 1 1 0 1"), "Outlines are not read"),
        (replaced(yolo(), "data/labels/one.txt", b"\xff\xfe1 0"), "no UTF-8"),
        (replaced(yolo(), "data/data.yaml", b"names: [a, a]"), "each once"),
        (replaced(yolo(), "data/data.yaml", b"names: {0: a, 2: b}"), "numbered from 0"),
        (replaced(yolo(), "data/data.yaml", b"a: &a [1]\nnames: *a"), "aliases"),
        (replaced(yolo(), "data/data.yaml", b"names: !!python/object:os.system x"), "no YAML"),
        (replaced(voc(), "Annotations/one.xml", XML[:-5]), "no XML"),
        (replaced(voc(), "Annotations/one.xml", b'<!DOCTYPE a [<!ENTITY b "c">]>' + XML), "type"),
        (replaced(voc(), "Annotations/one.xml", b"<annotation>" + b"<a>" * 99), "too deeply"),
        (replaced(voc(), "Annotations/two.xml", XML), "annotated twice"),
        (replaced(lines(), "boxes.jsonl", b'{"image": "one.png"}'), "line 1: .*boxes"),
        (replaced(lines(), "boxes.jsonl", b"\n\n[" * 500), "line 3"),
    ],
)
def test_damaged_annotations_are_named(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        reading.read(packed(tmp_path, files), tmp_path)
    assert caught.value.param == "data"


def test_a_box_a_little_over_the_edge_is_cut(tmp_path: Path) -> None:
    table = reading.read(packed(tmp_path, coco([("cat", -0.5, 2, 40.8, 12)])), tmp_path)
    ((_, (box,)), _) = table.values("boxes")
    assert box[1:5] == [0, 2, 40, 12]
