import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa  # noqa: TID253 - the files under test are its
import pyarrow.parquet as pq  # noqa: TID253
import pytest
from PIL import Image

from lmaas.data.csv import INDEX
from lmaas.data.reading import check, read
from lmaas.data.splitting import classes, hold_out, numbers_of, overlap
from lmaas.data.table import Table
from lmaas.errors import InvalidInput


def load(tmp_path: Path, name: str, content: bytes | str) -> Table:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, tmp_path / "cache")


def refused(tmp_path: Path, name: str, content: bytes | str, *words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, name, content)
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


def png(value: int = 0, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_jsonl_keeps_values_and_line_numbers(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        "a.jsonl",
        '\ufeff{"text": "a b", "n": 1, "x": 1, "tags": ["p", {"q": 1}]}\n\n'
        '{"text": "ü", "n": 9007199254740993, "x": 0.5, "late": true}\n',
    )
    assert table.columns == ("text", "n", "x", "tags", "late")
    assert table.values("text") == ["a b", "ü"]
    assert table.values("n") == [1, 9007199254740993]
    assert table.values("x") == [1.0, 0.5]
    assert table.values("tags") == [["p", {"q": 1}], None]
    assert table.values("late") == [None, True]
    assert table.place(1) == "a.jsonl, line 3"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}\n{"a": 1\n', ("line 2", "not a JSON object")),
        ('{"a": 1}\n[1]\n', ("line 2",)),
        ('{"a": 1}\n{"a": "x"}\n', ("line 2", "'a' is a text", "a number")),
        ('{"a": 1}\n{"a": 1e400}\n', ("line 2",)),
        ('{"a": 99999999999999999999}\n', ("line 1", "64 bits")),
        ('{"a": NaN}\n', ("line 1",)),
        (b'{"a": "b"}\n{"a": "\xe4"}\n', ("line 2", "not UTF-8", "0xe4")),
        ('{"a": 1}\n{"a": "\x00"}', ("line 2", "zero byte")),
        ('{"": 1}\n', ("no name",)),
        ("\n \n", ("no samples",)),
        ("{}\n", ("no samples",)),
        ("", ("is empty",)),
        ('{"a": ' + "[" * 100_000 + "\n", ("line 1",)),
        (json.dumps({str(i): i for i in range(5000)}), ("line 1", "columns")),
    ],
)
def test_bad_jsonl_is_refused_with_its_line(
    tmp_path: Path, content: bytes | str, words: tuple[str, ...]
) -> None:
    refused(tmp_path, "a.jsonl", content, *words)


def test_a_bad_line_far_down_is_found_and_leaves_nothing(tmp_path: Path) -> None:
    content = b'{"a":1}\n' * 1_000_000 + b'{"a":1\n' + b'{"a":1}\n'
    refused(tmp_path, "a.jsonl", content, "line 1000001")


def test_csv_with_mark_quotes_and_line_breaks(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        "a.csv",
        '\ufeffname;age\r\n"Ann; ""x""\nB";31\r\n\r\nBob; 4.5 \r\nCid;N/A\r\nDora;\r\n',
    )
    assert table.columns == ("name", "age")
    assert table.values("name")[:2] == ['Ann; "x"\nB', "Bob"]
    np.testing.assert_array_equal(table.numbers("age"), [31, 4.5, np.nan, np.nan])
    found = table.numerals("age")
    assert found is not None
    assert found.share == 1
    assert [table.place(i) for i in range(2)] == ["a.csv, line 2", "a.csv, line 5"]
    assert load(tmp_path, "b.tsv", "a,b\tc\n1,5\t2\n").columns == ("a,b", "c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n1,2,3\n", ("line 3", "3 cells", "2 columns")),
        ('a,b\n1,2\n"1,2\n3,4\n', ("line 3", "not CSV")),
        ('a,b\n1,"2"x\n', ("line 2", "not CSV")),
        ("a,b\n1,=SUM(A1:A3)\n", ("line 2", "'b'", "formula")),
        ("a,b\n#REF!,1\n", ("line 2", "'a'", "formula")),
        ("a,a\n1,2\n", ("line 1", "'a'", "twice")),
        ("a,\n1,2\n", ("column 2", "no name")),
        ("a,b\n", ("no samples",)),
        (b"a,b\n1,2\n\xff,1\n", ("line 3", "not UTF-8")),
        (",".join(f"c{i}" for i in range(10_000)) + "\n", ("10000 columns", "4096")),
    ],
)
def test_bad_csv_is_refused_with_its_line(
    tmp_path: Path, content: bytes | str, words: tuple[str, ...]
) -> None:
    refused(tmp_path, "a.csv", content, *words)


@pytest.mark.parametrize(
    "cell",
    [
        "=1+2", "=2*A1", '="a"&B1', "=cmd|' /C calc'!A0", "=TRUE", "=A1", "=-A1", "=(1)", "=.5",
        "=sum(a1)", "=$A$1", "='My sheet'!A1", "=Sheet1!A1", "={1;2}", "=[a.xls]S!A1", "=1e5",
        " =1+2", "=50%", "=#REF!", "@SUM(A1)", "@cmd|' /C calc'!A0", "+A1", "-A1", "-A1+2",
        "+A1:B2", "--A1", "-(A1+B$2)*3", "-2*A1", "+SUM(A1)", "-cmd|' /C calc'!A0", "+S!A1/2",
        "-'My sheet'!A1", "#DIV/0!", "#NAME?",
    ],
)  # fmt: skip
def test_what_a_spreadsheet_computes_is_refused(tmp_path: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    refused(tmp_path, "a.csv", f'a,b\n1,"{quoted}"\n', "line 2", "'b'", "formula")


@pytest.mark.parametrize(
    "cell",
    [
        "-3", "+4.5", "-1e5", "-1E5", "-.5", "+1,5", "-5 %", "-", "+", "=", "@", "- a dash", "--",
        "-x", "-a1", "-A", "-A1 is sold out", "-A4-paper", "- A1", "+1-800-555-0100",
        "+49 170 1234", "-1-2", "-10:30", "@ann", "@ann: hello", "@ann (hello)", "@A1", "=) fine",
        "=(", "=> see", "== heading ==", "= a heading =", "=D so happy", "=5 apples", "'=1+2",
        "a=b", "A1", "#1", "#N/A", "1=2", "(A1)",
    ],
)  # fmt: skip
def test_numbers_and_texts_with_signs_are_values(tmp_path: Path, cell: str) -> None:
    table = load(tmp_path, "a.csv", f'a,b\n1,"{cell}"\n')
    assert table.values("b") == [cell]


def test_rows_are_read_in_any_order_across_batches(tmp_path: Path) -> None:
    table = load(tmp_path, "a.jsonl", "".join(f'{{"n": {i}}}\n' for i in range(40_000)))
    wanted = [39_999, 0, 16_383, 16_384, 16_384, 32_768]
    assert table.values("n", wanted) == wanted
    assert table.values("n", np.array(wanted)[::-1]) == wanted[::-1]
    assert table.values("n", []) == []


def test_a_value_of_another_kind_is_told_with_its_line(tmp_path: Path) -> None:
    table = load(tmp_path, "a.csv", "x,y,t\n1,inf,a\n2,1,\nthree,2,b\n")
    found = table.numerals("x")
    assert found is not None
    assert found.share == pytest.approx(2 / 3)
    for call, words in (
        (lambda: table.numbers("x"), "line 4: 'x' must be a number; received 'three'"),
        (lambda: table.texts("t"), "line 3: 't'"),
        (lambda: table.labels("t", np.arange(3)), "line 3: 't'"),
        (lambda: table.values("nope"), "no column 'nope'; it has x, y, t"),
    ):
        with pytest.raises(InvalidInput, match=words):
            call()
    assert table.categories("t") == ["a", None, "b"]


def test_parquet_and_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    image = {"bytes": png(), "path": "x.png"}
    pq.write_table(
        pa.table({"image": [image, image], "label": pa.array(["a", "b"]).dictionary_encode()}),
        path,
    )
    table = read(path, tmp_path)
    assert table.content("image", 1) == png()
    assert table.labels("label", np.arange(2)) == ["a", "b"]
    assert table.place(1) == "a.parquet, row 2"
    whole = path.read_bytes()
    refused(tmp_path, "b.parquet", whole[: len(whole) // 2] + whole[-8:], "b.parquet", "damaged")
    refused(tmp_path, "c.parquet", "a,b\n1,2\n", "says that it is parquet")


def test_whole_numbers_beyond_a_floats_are_numbers(tmp_path: Path) -> None:
    table = load(tmp_path, "a.jsonl", '{"n": 9007199254740993}\n{"n": 1}\n')
    np.testing.assert_array_equal(table.numbers("n"), [2.0**53, 1])
    pq.write_table(pa.table({"n": pa.array([2**64 - 1], pa.uint64())}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(tmp_path / "a.parquet", tmp_path).numbers("n"), [2.0**64])
    nested = load(tmp_path, "b.jsonl", '{"n": [36893488147419103232]}\n' * 2)
    assert len(set(nested.hashes(["n"]))) == 1


def test_a_converted_file_is_read_again_only_when_its_content_changed(tmp_path: Path) -> None:
    first = load(tmp_path, "a.jsonl", '{"a": 1}\n')
    assert load(tmp_path, "a.jsonl", '{"a": 1}\n').digest == first.digest
    assert len(list(tmp_path.glob("cache/*"))) == 1
    other = load(tmp_path, "a.jsonl", '{"a": 2}\n')
    assert other.digest != first.digest
    assert other.values("a") == [2]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.jsonl", pickle.dumps({"a": 1}), "pickle"),
        ("a.pkl", b"anything", "pickle"),
        ("a.csv", png(), "a PNG image"),
        ("a.csv", b"PK\x03\x04....", "a zip"),
        ("a.jsonl", b"\x1f\x8b....", "gzip"),
        ("a.zip", b"no zip at all", "something else"),
        ("a.xlsx", b"PK\x03\x04", "no kind that is read"),
    ],
)
def test_a_file_that_is_not_what_it_says(
    tmp_path: Path, name: str, content: bytes, word: str
) -> None:
    refused(tmp_path, name, content, word)


LF = "\n"
LINES = '{"name": "Ann", "age": "31"}\n{"name": "Björn", "age": "40"}'
TABLE = "name,age\nAnn,31\nBjörn,40\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cr.csv", TABLE.replace("\n", "\r").encode()),
        ("crlf.csv", TABLE.replace("\n", "\r\n").encode()),
        ("bars.csv", TABLE.replace(",", "|").encode()),
        ("semicolons.csv", TABLE.replace(",", ";").encode()),
        ("tabs.csv", TABLE.replace(",", "\t").encode()),
        ("stated.csv", ("sep=;\n" + TABLE.replace(",", ";")).encode()),
        ("packed.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("packed.tsv.GZ", gzip.compress(TABLE.replace(",", "\t").encode(), mtime=0)),
        ("wide.csv", TABLE.encode("utf-16")),
        ("mark.csv", TABLE.encode("utf-8-sig")),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json", f"[{LINES.replace(LF, f',{LF} ')}]".encode()),
        ("index.csv", ",name,age\n0,Ann,31\n1,Björn,40\n".encode()),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(tmp_path: Path, name: str, content: bytes) -> None:
    table = load(tmp_path, name, content)
    assert table.columns == ("name", "age")
    assert table.values("name") == ["Ann", "Björn"]
    assert table.values("age") == ["31", "40"]
    assert table.place(1) == {
        "stated.csv": "stated.csv, line 4", "a.jsonl.gz": "a.jsonl.gz, line 2",
        "a.json": "a.json, item 2",
    }.get(name, f"{name}, line 3")  # fmt: skip
    assert table.notes == ((INDEX,) if name == "index.csv" else ())
    check(tmp_path / name)


def test_an_empty_cell_alone_is_a_row_and_a_blank_line_is_none(tmp_path: Path) -> None:
    table = load(tmp_path, "a.csv", '\n  \na\n""\n\n" "\nx\n')
    assert table.values("a") == ["", " ", "x"]
    assert table.place(1) == "a.csv, line 6"
    assert load(tmp_path, "b.csv", "a,b\n\n  \n1,2\n").values("a") == ["1"]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("size, in cm;age\n1,5;2\n", ("size, in cm", "age")),
        ("name|note\na,b|c;d\ne,f|g;h\n", ("name", "note")),
        ("a\n1,2\n", ()),
    ],
)
def test_the_separator_is_what_cuts_all_rows_alike(
    tmp_path: Path, content: str, columns: tuple[str, ...]
) -> None:
    if not columns:
        refused(tmp_path, "a.csv", content, "line 2", "2 cells", "1 columns")
    else:
        assert load(tmp_path, "a.csv", content).columns == columns


def test_another_encoding_is_offered_and_read_when_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for encoding, text in (("latin-1", "ä"), ("cp1252", "ä „quoted“"), ("utf-16-le", "ä")):
        path.write_bytes(f"a,b\n1,{text}\n".encode(encoding))
        with pytest.raises(InvalidInput) as caught:
            read(path, tmp_path / "cache")
        assert f"data.encoding: {encoding} " in str(caught.value.hint)
        assert read(path, tmp_path / "cache", encoding).values("b") == [text]
    for bad in ("utf-99", "unicode_escape", "rot13", "hex", ""):
        with pytest.raises(InvalidInput, match="no encoding"):
            read(path, tmp_path / "cache", bad)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="has no encoding"):
        read(tmp_path / "b.parquet", tmp_path / "cache", "latin-1")


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.xlsx", b"PK\x03\x04", "Export"),
        ("a.csv", b"PK\x03\x04", "Export"),
        ("a.csv", gzip.compress(TABLE.encode(), mtime=0), "Call it a.csv.gz"),
        ("a.csv.gz", TABLE.encode(), "call it a.csv"),
        ("a.csv", b"PAR1", "Call it a.parquet"),
        ("a.dat", TABLE.encode(), "end of its name"),
    ],
)
def test_what_is_advised_helps(tmp_path: Path, name: str, content: bytes, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, name, content)
    assert hint in str(caught.value.hint)
    if "all it " in hint and "parquet" not in hint:
        assert load(tmp_path, hint.rpartition(" ")[2], content).values("age") == ["31", "40"]


def test_a_gzip_that_unpacks_to_too_much_or_is_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(tmp_path, "cut.csv.gz", gzip.compress(TABLE.encode() * 99)[:-20], "damaged gzip")
    refused(tmp_path, "a.csv.gz", TABLE, "says that it is gzip")
    refused(tmp_path, "a.parquet.gz", gzip.compress(b"PAR1"), "only files of text")
    monkeypatch.setattr("lmaas.data.lines.SMALL_GZIP_BYTES", 1 << 20)
    bomb = gzip.compress(b"a,b\n" + b"1,2\n" * 1_000_000)
    refused(tmp_path, "bomb.csv.gz", bomb, "more than 200 times its size")


def test_files_beside_images_are_passed_over_and_told(tmp_path: Path) -> None:
    members = {"cat/1.png": png(), "dog/2.png": png()}
    junk = {"cat/Thumbs.db": b"x", "README.txt": b"x", "labels.csv": b"a"}
    folder = tmp_path / "pets"
    for name, content in {**members, **junk, ".DS_Store": b"x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for table in (read(folder, tmp_path), read(zipped(tmp_path, **members, **junk), tmp_path)):
        assert len(table) == 2
        (note,) = table.notes
        assert ": 3 (" in note
        assert all(name in note for name in junk)


def test_rows_without_a_label_are_known(tmp_path: Path) -> None:
    table = load(tmp_path, "a.csv", "x,y\n1,a\n2,\n3, NA \n4,None\n5,?\n")
    assert table.labeled("y").tolist() == [0, 3, 4]
    assert table.labeled("y", numbers=True).tolist() == [0]
    table = load(tmp_path, "a.jsonl", '{"y": 1.5}\n{"y": null}\n{"x": 1}\n')
    assert table.labeled("y").tolist() == [0]


def zipped(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / f"{len(list(tmp_path.glob('*.zip')))}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_folder_and_a_zip_of_it_are_the_same_samples(tmp_path: Path) -> None:
    members = {f"{label}/{i}.png": png(10 * i) for label in ("cat", "dog") for i in range(3)}
    folder = tmp_path / "pets"
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / ".DS_Store").write_bytes(b"x")
    around = {f"pets/{name}": content for name, content in members.items()}
    tables = [
        read(folder, tmp_path),
        read(zipped(tmp_path, **members), tmp_path),
        read(zipped(tmp_path, **around, **{"__MACOSX/pets/._x": b"x"}), tmp_path),
    ]
    for table in tables:
        assert table.labels("label", np.arange(6)) == ["cat"] * 3 + ["dog"] * 3
        assert table.content("image", 5) == png(20)
    assert len({tuple(table.hashes(["image"])) for table in tables}) == 1
    (folder / "cat" / "0.png").write_bytes(png(99))
    assert read(folder, tmp_path).digest != tables[0].digest


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"../x/a.png": b""}, "outside itself"),
        ({"/x/a.png": b""}, "outside itself"),
        ({"C:\\x\\a.png": b""}, "outside itself"),
        ({"a.png": b""}, "not an image in the folder of a class"),
        ({"cat/a.py": b""}, "no images.*cat/a.py"),
        ({"cat/a.HEIC": b"", "cat/b.png": b""}, "cat/a.HEIC is HEIC, which is not read"),
        ({"cat/a.avif": b"", "cat/b.png": b""}, "cat/a.avif is AVIF, which is not read"),
        ({".hidden/a.png": b""}, "no images"),
    ],
)
def test_a_bad_zip_is_refused(tmp_path: Path, members: dict[str, bytes], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        read(zipped(tmp_path, **members), tmp_path)


def test_a_damaged_member_names_itself(tmp_path: Path) -> None:
    path = zipped(tmp_path, **{"cat/a.png": png(), "dog/b.png": png()})
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT")] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"cat/a\.png is damaged"):
        read(path, tmp_path).content("image", 0)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InvalidInput, match="link"):
        read(tmp_path / "pets", tmp_path)


def test_the_split_is_stratified_seeded_and_complete() -> None:
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 20 + ["d"]
    learned, held = hold_out(101, 0.2, 7, labels)
    assert sorted([*learned, *held]) == list(range(101))
    counts = {name: sum(labels[i] == name for i in held) for name in "abcd"}
    assert counts == {"a": 10, "b": 6, "c": 4, "d": 0}
    np.testing.assert_array_equal(held, hold_out(101, 0.2, 7, labels)[1])
    assert not np.array_equal(held, hold_out(101, 0.2, 8, labels)[1])
    assert len(hold_out(10, 0.0, 7)[1]) == 0
    assert len(hold_out(3, 0.1, 7)[1]) == 1


def test_labels_and_overlap(tmp_path: Path) -> None:
    assert classes(["10", "9", "10"]) == ("9", "10")
    with pytest.raises(InvalidInput, match="one class only: 'a'"):
        classes(["a", "a"])
    with pytest.raises(InvalidInput, match="line 2: the label 'c' is not one of those learned"):
        numbers_of(["a", "c"], ("a", "b"), lambda index: f"line {index + 1}")
    one = load(tmp_path, "a.jsonl", '{"t": "x", "u": 1}\n{"t": "y", "u": 2}\n')
    two = load(tmp_path, "b.jsonl", '{"u": 3, "t": "z"}\n{"u": 4, "t": "x"}\n')
    assert overlap(one.hashes(["t"]), two.hashes(["t"])) == [1]
    assert overlap(one.hashes(["t", "u"]), two.hashes(["t", "u"])) == []
