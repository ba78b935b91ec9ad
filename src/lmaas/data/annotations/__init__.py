"""Images with boxes: COCO JSON, YOLO folders, Pascal VOC and JSONL, in a folder or a zip.

One file a format, each with `find` (whether files are of it) and `read`. All boxes are looked at
here: numbers that are none, no area, a class that is not declared, too many; what lies outside of
its image too, where the format says the image's size. Errors name file and line.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa

from lmaas.data.annotations.marked import Files, Marked
from lmaas.data.table import NESTED, Table
from lmaas.errors import InvalidInput

FORMATS: Final = {
    "coco": "COCO JSON",
    "yolo": "YOLO labels",
    "voc": "Pascal VOC XML",
    "boxes_jsonl": "JSONL",
}
IMAGE, BOXES = "image", "boxes"
BATCH: Final = 4096
SCHEMA: Final = pa.schema(
    [
        pa.field(IMAGE, pa.string()),
        pa.field(BOXES, pa.string(), metadata={NESTED: b"1"}),
    ]
)


def table_of(files: Files, digest: Callable[[], str]) -> Table | None:
    """The images of annotated files and their boxes; None where nothing annotates them.

    The column `boxes` holds for each box its label, its corners and where it stands, and whether
    it is a crowd; for the image, whether the corners are shares of its sides. Raises InvalidInput.
    """
    found = [name for name in FORMATS if _module(name).find(files)]
    if not found:
        return None
    if len(found) > 1:
        told = " and ".join(FORMATS[name] for name in found)
        raise InvalidInput(
            f"{files.file} has annotations of several kinds: {told}.",
            hint="Keep those of one kind.",
            param="data",
        )
    marked = _module(found[0]).read(files)
    rows = pa.Table.from_batches(_batches(files, marked), SCHEMA)
    return Table(rows, name=files.file, digest=digest(), unit="image", open_bytes=files.read)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def _batches(files: Files, marked: Iterator[Marked]) -> Iterator[pa.RecordBatch]:
    import msgspec

    seen: set[str] = set()
    images: list[str] = []
    boxes: list[str] = []
    for each in marked:
        if each.image in seen:
            raise InvalidInput(
                f"{each.place}: the image {each.image!r} is annotated twice.", param="data"
            )
        seen.add(each.image)
        images.append(each.image)
        boxes.append(msgspec.json.encode(each.checked()).decode())
        if len(images) == BATCH:
            yield pa.RecordBatch.from_arrays([pa.array(images), pa.array(boxes)], schema=SCHEMA)
            images, boxes = [], []
    if images:
        yield pa.RecordBatch.from_arrays([pa.array(images), pa.array(boxes)], schema=SCHEMA)
    if not seen:
        raise InvalidInput(f"{files.file} annotates no image.", param="data")
