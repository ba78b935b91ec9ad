"""Marian's sentencepiece models, read without the library that wrote them."""

import json
import struct
from pathlib import Path

import pytest

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.sequence import marian_tokens
from lmaas.tasks import text_layout
from lmaas.tasks.sequence_text import SequenceTokenizer
from lmaas.types import PushOptions
from sequence_checkpoints import VOCABULARY, make

SOURCE = {"▁the": -2.0, "▁house": -3.0, "▁": -4.0, "h": -6.0, "o": -6.0, "u": -6.0, "s": -6.0,
          "e": -6.0, "the": -5.0, "!": -5.5}  # fmt: skip
TARGET = {"▁das": -2.0, "▁Haus": -3.0, "!": -4.0}


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(index: int, value: bytes) -> bytes:
    return number(index << 3 | 2) + number(len(value)) + value


def spm(pieces: dict[str, float], kind: int = 1) -> bytes:
    def piece(text: str, score: float, type_: int) -> bytes:
        body = field(1, text.encode()) + number(2 << 3 | 5) + struct.pack("<f", score)
        return field(1, body + number(3 << 3) + number(type_))

    control = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3)
    ordinary = b"".join(piece(text, score, 1) for text, score in pieces.items())
    trainer = field(2, number(3 << 3) + number(kind))
    return control + ordinary + trainer + field(3, field(1, b"identity") + number(3 << 3) + b"\1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source.spm").write_bytes(spm(SOURCE))
    (tmp_path / "target.spm").write_bytes(spm(TARGET))
    words = ["</s>", "<unk>", *SOURCE, *(w for w in TARGET if w not in SOURCE), ">>deu<<", "<pad>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    told = {"source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    return tmp_path


def test_sources_and_answers_have_the_ids_of_the_vocabulary(folder: Path) -> None:
    assert marian_tokens.is_marian(folder)
    marian_tokens.convert(folder)
    assert not marian_tokens.is_marian(folder)
    ids = json.loads((folder / "vocab.json").read_text())
    tokenizer = SequenceTokenizer(folder)

    def pieces(text: str) -> list[str]:
        names = {index: word for word, index in ids.items()}
        return [names[index] for index in tokenizer.encode([text], param="inputs")[0]]

    assert pieces("the  house") == ["▁the", "▁house"]
    assert pieces(" the house! ") == ["▁the", "▁house", "!"]
    assert pieces("housethe") == ["▁house", "the"]
    assert pieces(">>deu<< the house") == [">>deu<<", "▁the", "▁house"]
    # What only the target has, and what nobody has, is unknown; special tokens are text.
    assert pieces("the Haus")[:2] == ["▁the", "▁"]
    assert "<unk>" in pieces("the Haus")
    assert ids["</s>"] not in tokenizer.encode(["the </s>"], param="inputs")[0]
    answer = [ids[word] for word in ("▁das", "▁Haus", "!", "</s>", "<pad>")]
    assert tokenizer.decode(answer) == "das Haus!"
    written = marian_tokens.target_reader(folder).encode("das Haus!", add_special_tokens=False)
    assert written.ids == answer[:3]
    told = json.loads((folder / "tokenizer_config.json").read_text())
    assert (told["source_lang"], told["target_lang"]) == ("en", "de")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("source.spm", b"nonsense", "no sentencepiece model"),
        ("source.spm", spm(SOURCE)[:-3], "no sentencepiece model"),
        ("source.spm", spm(SOURCE, kind=2), "kind Unigram"),
        ("vocab.json", b"[", "no valid JSON"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 5}', "from 0 on"),
        ("vocab.json", b'{"</s>": 0, "a": 1}', "lacks <unk>, <pad>"),
    ],
)
def test_damaged_files_are_refused(folder: Path, name: str, data: bytes, text: str) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(ModelRefused, match=text):
        marian_tokens.convert(folder)


def test_a_checkpoint_with_sentencepiece_models_becomes_a_package(tmp_path: Path) -> None:
    folder = make("marian", tmp_path / "checkpoint")
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "source.spm").write_bytes(spm(SOURCE))
    (folder / "target.spm").write_bytes(spm(TARGET))
    words = ["<pad>", "x", "</s>", "<unk>", *SOURCE, *(w for w in TARGET if w not in SOURCE)]
    words += [f"w{index}" for index in range(len(words), VOCABULARY)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    told = {"source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    package = tmp_path / "package"
    manifest = checkpoint.build(folder, package, PushOptions(name="en-de"))
    assert manifest.task == "translation"
    layout = text_layout.read(package / "compiled")
    assert (layout.pair, layout.after) == (("en", "de"), (2,))
    tokenizer = SequenceTokenizer(package / "compiled")
    assert tokenizer.encode(["the house"], param="inputs") == [[4, 5]]
    assert tokenizer.decode([words.index("▁das"), words.index("▁Haus")]) == "das Haus"
