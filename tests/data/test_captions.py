"""Images with texts, in three formats, as folders and zips; what is wrong is named by its place."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from lmaas.data import reading
from lmaas.errors import InvalidInput


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 4), grey).save(file, "PNG")
    return file.getvalue()


PICTURES = {"crops/a.png": picture(1), "crops/b.png": picture(2), "c.png": picture(3)}
JSONL = "\n".join(
    json.dumps(row)
    for row in (
        {"image": "crops/a.png", "text": "AB 12"},
        {"image": "b.png", "text": "ü-7", "seen": 3},
    )
)
FORMS = {
    "texts.jsonl": JSONL,
    "metadata.csv": 'file_name,text\r\ncrops/a.png,AB 12\r\n\r\nb.png,"ü-7"\r\n',
    "t.tsv": "text\timage\nAB 12\tcrops/a.png\nü-7\tb.png\n",
    "semicolon.csv": "image;text;more\ncrops/a.png;AB 12;\nb.png;ü-7;x\n",
    "rec_gt.txt": "crops/a.png\tAB 12\ncrops/b.png\tü-7\n",
}


def folder(path: Path, name: str, content: str) -> Path:
    for file, data in {**PICTURES, name: content.encode()}.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_bytes(data)
    return path


@pytest.mark.parametrize("name", list(FORMS))
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_says_the_same(name: str, packed: bool, tmp_path: Path) -> None:
    path = folder(tmp_path / "data", name, FORMS[name])
    if packed:
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file, data in {**PICTURES, name: FORMS[name].encode()}.items():
                archive.writestr(f"outer/{file}", data)
        reading.check(path)
    table = reading.read(path, tmp_path / "scratch")
    assert table.texts("text") == ["AB 12", "ü-7"]
    assert [table.content("image", row) for row in range(2)] == list(PICTURES.values())[:2]
    assert name in table.place(1)
    assert table.notes == ("Images passed over, since nothing says their text: 1.",)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.jsonl", JSONL + '\n{"image": "x.png", "text": "A"}', "t.jsonl, line 3: the image"),
        ("t.jsonl", JSONL + '\n{"image": "a.png"}', "line 3: there is no image with a text"),
        ("t.jsonl", JSONL + '\n{"image": "a.png", "text": 7}', "line 3: the text must be one"),
        ("t.jsonl", JSONL + "\n{", "t.jsonl, line 3"),
        ("t.jsonl", JSONL + f'\n{{"image": "a.png", "text": "{"A" * 5000}"}}', "5000 characters"),
        ("t.csv", "image,text\na.png\n", "line 2: it has 1 cells"),
        ("t.csv", 'image,text\na.png,"A\n', "t.csv"),
        ("t.txt", "crops/a.png\tA\ncrops/b.png B\n", "line 2: a path, a tab"),
        ("t.txt", "crops/a.png\tA\n../../etc/passwd\tB\n", "line 2: the image"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(
    name: str, content: str, told: str, tmp_path: Path
) -> None:
    path = folder(tmp_path / "data", name, content)
    with pytest.raises(InvalidInput) as refused:
        reading.read(path, tmp_path / "scratch")
    assert told in refused.value.message


def test_two_files_of_texts_are_one_too_many(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", "a.jsonl", JSONL)
    folder(path, "b.csv", FORMS["metadata.csv"])
    with pytest.raises(InvalidInput, match="several files with texts"):
        reading.read(path, tmp_path / "scratch")
