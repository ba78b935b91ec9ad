"""Texts in pieces that are spoken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.effort import effort
from lmaas.tasks.text_to_speech.sentences import cut


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Version 1.5 is out", ["Version 1.5 is out"]),
        ("a\n\nb\nc", ["a", "b", "c"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("... !!! \n - ", []),
        ("one two, three four five", ["one two,", "three four", "five"]),
        ("a" * 30, ["a" * 12, "a" * 12, "a" * 6]),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    assert cut(text, 12 if len(pieces) == 3 and "\n" not in text else 100) == pieces


@given(st.text(max_size=300), st.integers(1, 60))
@effort(100)
def test_nothing_that_is_said_is_lost(text: str, most: int) -> None:
    pieces = cut(text, most)
    assert all(0 < len(piece) <= most for piece in pieces)
    said = [char for char in "".join(pieces) if char.isalnum()]
    assert said == [char for char in text if char.isalnum()]


def test_plain() -> None:
    assert cut("“Don’t”  —\t\u00a0wait…", 100) == ['"Don\'t" - wait...']
