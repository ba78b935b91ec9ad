"""Blanks of an answer: those beside tags are left out, all others stay, however the text comes."""

import pytest

from lmaas.runtime.language.text import Reader

CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f'{CALL}{{"a": 1}}', '{"a": 1}'),
        (f"{CALL}\n\na b \n c", "a b \n c"),
        (f"see:\n{CALL}\n{CALL}\n", "see:"),
        ("\n<think>b</think>c ", "c "),
        ("a <tool_call>no call</tool_call>", "a <tool_call>no call</tool_call>"),
        (f"{CALL} a  END b", " a  "),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_blanks_do_not_depend_on_pieces(text: str, wanted: str, whole: bool) -> None:
    reader = Reader(stops=("END",), reasoning=True, tools=True)
    for piece in [text] if whole else text:
        if not reader.stopped:
            reader.feed(piece)
    reader.end()
    assert reader.take()[0] == wanted
