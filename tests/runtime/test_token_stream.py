"""Text of tokens that come one by one: what all of them give at once, whatever the tokens are."""

import codecs
import random
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from checkpoints import TEXT, byte_fallback_tokenizer, tokenizer
from lmaas.runtime.language.tokens import Tokens

codecs.register_error(
    "each",
    lambda error: ("\ufffd", getattr(error, "start") + 1),  # noqa: B009 - of several kinds
)


def load(kind: Any, folder: Path) -> Tokens:
    kind.save_pretrained(folder)
    return Tokens(folder)


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return load(byte_fallback_tokenizer(), tmp_path_factory.mktemp("fallback"))


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return load(tokenizer(), tmp_path_factory.mktemp("level"))


def pieces(tokens: Tokens, ids: list[int]) -> list[str]:
    stream = tokens.stream()
    return [*(stream.feed(token) for token in ids), stream.rest()]


def at_once(tokens: Tokens, ids: list[int]) -> str:
    return str(tokens._raw.decode(ids, skip_special_tokens=False))


def byte_of(tokens: Tokens, token: int) -> int | None:
    spelled = re.fullmatch("<0x([0-9A-F]{2})>", tokens._raw.id_to_token(token) or "")
    return int(spelled.group(1), 16) if spelled else None


def readable(tokens: Tokens, ids: list[int]) -> str:
    """The text, where a byte that fits nowhere spoils itself and not all bytes around it."""
    text = ""
    for is_byte, run in groupby(ids, lambda token: byte_of(tokens, token) is not None):
        own = list(run)
        if is_byte:
            text += bytes(byte_of(tokens, t) or 0 for t in own).decode("utf-8", "each")
        else:
            words = (tokens._raw.id_to_token(token) or "" for token in own)
            text += "".join(words).replace("▁", " ")
    return text.removeprefix(" ")


def test_the_sequence_that_killed_workers(fallback: Tokens) -> None:
    spell = fallback.id_of
    ids = [spell(t) for t in ("▁hello", "<0xE4>", "<0xBD>", "<0x80>", "<0x80>", "▁world", "<0xE4>")]
    known = [token for token in ids if token is not None]
    assert "".join(pieces(fallback, known)) == "hello\u4f40\ufffd world\ufffd"
    assert len(known) == len(ids)


@pytest.mark.parametrize("text", [*TEXT, " two  blanks ", "👋🏽 \u0301"])
def test_written_texts_come_back(fallback: Tokens, level: Tokens, text: str) -> None:
    for tokens in (fallback, level):
        assert "".join(pieces(tokens, tokens.encode(text))) == text


def test_any_tokens_of_a_byte_level_tokenizer(level: Tokens) -> None:
    draw = random.Random(0)
    lone = [t for t in range(level.size) if "\ufffd" in level.text_of(t)]
    for number in range(600):
        pool = lone if number % 3 == 0 else range(level.size + 5)
        ids = [draw.choice(pool) for _ in range(draw.randrange(1, 60))]
        assert "".join(pieces(level, ids)) == at_once(level, ids), ids


def test_any_tokens_of_a_byte_fallback_tokenizer(fallback: Tokens) -> None:
    draw = random.Random(0)
    single = [t for t in range(fallback.size) if byte_of(fallback, t) is not None]
    high = [t for t in single if (byte_of(fallback, t) or 0) >= 0x80]
    for number in range(900):
        pools = [range(fallback.size), single, high]
        ids = [
            draw.choice(pools[draw.randrange(3)] if number % 2 else pools[0])
            for _ in range(draw.randrange(1, 40))
        ]
        got = "".join(pieces(fallback, ids))
        assert got == readable(fallback, ids), ids
        whole = at_once(fallback, ids)
        if "\ufffd" not in whole:
            assert got == whole


def test_characters_in_bytes_are_shown_as_they_come(fallback: Tokens) -> None:
    ids = [fallback.id_of(f"<0x{byte:02X}>") or 0 for byte in "你é👋".encode()]
    assert [p for p in pieces(fallback, ids) if p] == ["你", "é", "👋"]


def test_little_is_held_back(level: Tokens) -> None:
    """An endless row of bytes that are no character neither waits for its end nor grows slower."""
    (broken,) = level.encode("é")[:1] if len(level.encode("é")) > 1 else level.encode("\x80")[:1]
    stream = level.stream()
    shown = sum(len(stream.feed(broken)) for _ in range(500))
    assert shown >= 498
    assert len(stream._open) < 40
