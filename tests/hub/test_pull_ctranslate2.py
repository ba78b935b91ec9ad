"""Which files of a repository with CTranslate2's weights are downloaded."""

import pytest

from lmaas.errors import ModelRefused
from lmaas.hub.repo import HubFile, choose, parse_ref

REF = parse_ref("someone/faster-whisper-tiny")


def files(*names: str) -> list[HubFile]:
    return [HubFile(name=name, size_bytes=1, sha256=None, blob_sha1="0" * 40) for name in names]


@pytest.mark.parametrize("vocabulary", ["vocabulary.txt", "vocabulary.json"])
def test_its_weights_come_last(vocabulary: str) -> None:
    chosen = choose(REF, files("model.bin", "config.json", "tokenizer.json", vocabulary))
    assert [file.name for file in chosen] == ["config.json", "tokenizer.json", "model.bin"]
    assert [file.is_weights for file in chosen] == [False, False, True]


def test_a_file_of_this_name_elsewhere_is_a_pickle() -> None:
    with pytest.raises(ModelRefused, match="may run code"):
        choose(REF, files("model.bin", "config.json", "tokenizer.json"))


def test_safetensors_are_taken_before_it() -> None:
    names = ("model.bin", "model.safetensors", "config.json", "vocabulary.json")
    chosen = [file.name for file in choose(REF, files(*names))]
    assert chosen[-1] == "model.safetensors"
    assert "model.bin" not in chosen
