"""YOLO's labels: beside each image a text with `class cx cy width height` in shares of its sides.

Images lie in `images`, labels in `labels` of the same shape, or both side by side. The classes are
named in `data.yaml` (`names`), `classes.txt` or `obj.names`. An image without a text has no boxes.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from lmaas.data.annotations.marked import Box, Files, Marked, number, text_of
from lmaas.errors import InvalidInput

TEXTS: Final = ("classes.txt", "obj.names")
YAML: Final = (".yaml", ".yml")
MAX_YAML_BYTES: Final = 1 << 20
COLUMNS: Final = 5


def find(files: Files) -> bool:
    """Whether there is a list of classes and a text for some image."""
    labels = set(files.others)
    return bool(_lists(files)) and any(_label_file(image) in labels for image in files.images)


def read(files: Files) -> Iterator[Marked]:
    """Every image. Raises InvalidInput."""
    classes = _classes(files)
    labels = set(files.others)
    for image in files.images:
        name = _label_file(image)
        boxes = _boxes(files.read(name), name, classes) if name in labels else []
        yield Marked(image, boxes, name if name in labels else image, shares=True)


def _label_file(image: str) -> str:
    """`images/train/1.jpg` has `labels/train/1.txt`; elsewhere it lies beside the image."""
    path = PurePosixPath(image)
    parts = list(path.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return PurePosixPath(*parts).as_posix()


def _lists(files: Files) -> list[str]:
    return [
        name
        for name in sorted(files.others)
        if PurePosixPath(name).name in TEXTS or name.lower().endswith(YAML)
    ]


def _classes(files: Files) -> list[str]:
    for name in _lists(files):
        text = text_of(files.read(name), name)
        if name.lower().endswith(YAML):
            found = _of_yaml(text, name)
            if found is None:
                continue
        else:
            found = [line.strip() for line in text.splitlines() if line.strip()]
        if not found or len(set(found)) != len(found):
            raise InvalidInput(f"{name} must name the classes, each once.", param="data")
        return found
    raise InvalidInput(
        f"{files.file} has labels, but no list of their classes.",
        hint="Add data.yaml with names, or classes.txt.",
        param="data",
    )


def _of_yaml(text: str, name: str) -> list[str] | None:
    import yaml

    if len(text) > MAX_YAML_BYTES:
        raise InvalidInput(f"{name} has more than {MAX_YAML_BYTES >> 20} MiB.", param="data")
    if any(sign in text for sign in ("&", "*")) and _has_alias(text):
        raise InvalidInput(f"{name} has aliases, which are not read.", param="data")
    try:
        told: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is no YAML: {str(error)[:200]}.", param="data") from None
    names = told.get("names") if isinstance(told, dict) else None
    if isinstance(names, dict):
        numbers = list(range(len(names)))
        if sorted(names, key=str) != sorted(numbers, key=str):
            raise InvalidInput(f"{name}: names must be numbered from 0 on.", param="data")
        names = [names[number] for number in numbers]
    if names is None:
        return None
    if not isinstance(names, list):
        raise InvalidInput(f"{name}: names must be a list.", param="data")
    return [str(each) for each in names]


def _has_alias(text: str) -> bool:
    """Aliases make little text much data."""
    import yaml

    try:
        return any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
    except yaml.YAMLError:
        return False  # `read` reports what is wrong


def _boxes(content: bytes, name: str, classes: list[str]) -> list[Box]:
    boxes = []
    for line, row in enumerate(text_of(content, name).splitlines(), 1):
        cells = row.split()
        if not cells:
            continue
        place = f"{name}, line {line}"
        if len(cells) != COLUMNS:
            more = " Outlines are not read." if len(cells) > COLUMNS else ""
            raise InvalidInput(
                f"{place}: expected class, cx, cy, width, height; received {len(cells)} "
                f"numbers.{more}",
                param="data",
            )
        kind = cells[0]
        if not kind.isdecimal() or int(kind[:10]) >= len(classes):
            raise InvalidInput(
                f"{place}: unknown class {kind[:20]!r}; there are {len(classes)}, from 0 on.",
                param="data",
            )
        x, y, width, height = (number(cell, place, "a box") for cell in cells[1:])
        half = (width / 2, height / 2)
        label = classes[int(kind)]
        boxes.append(Box(label, x - half[0], y - half[1], x + half[0], y + half[1], place))
    return boxes
