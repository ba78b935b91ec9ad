"""SentencePiece models of characters, read without their library."""

from pathlib import Path

import pytest

from lmaas.errors import ModelRefused
from lmaas.frameworks.sentencepiece import read_tokenizer
from speech_checkpoint import PIECES, spm_char


def test_it_reads_what_sentencepiece_writes(tmp_path: Path) -> None:
    """The file is written here by hand; transformers' own description of it reads the same."""
    from transformers.utils import sentencepiece_model_pb2_new as described

    data = spm_char()
    message = described.ModelProto()
    message.ParseFromString(data)
    assert [piece.piece for piece in message.pieces] == PIECES
    (tmp_path / "spm_char.model").write_bytes(message.SerializeToString())
    tokenizer = read_tokenizer(tmp_path / "spm_char.model")
    told = tokenizer.encode("the cat")
    assert told.tokens == ["▁", "t", "h", "e", "▁", "c", "a", "t", "</s>"]
    assert told.ids == [PIECES.index(token) for token in told.tokens]
    assert tokenizer.encode("9").ids == [4, 3, 2]


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spm_char.model"
    good = spm_char()
    for data in (
        b"",
        b"\x00",
        good[:50],
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"a" * 99,
    ):
        path.write_bytes(data)
        with pytest.raises(ModelRefused, match=r"spm_char\.model"):
            read_tokenizer(path)
    path.write_bytes(spm_char([*PIECES, "ing"]))
    with pytest.raises(ModelRefused, match="more than one character"):
        read_tokenizer(path)
