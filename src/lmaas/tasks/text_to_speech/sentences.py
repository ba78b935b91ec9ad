"""A text in pieces that are spoken one after another: sentences, none longer than a model takes."""

import re
from typing import Final

_ENDS: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)\]])\s+|(?<=[。！？])|\n\s*")
"""After the end of a sentence, and where a line ends."""
_BREATHS: Final = re.compile(r"(?<=[,;:–—])\s+|(?<=[，；：、])|\s+")
_PLAIN: Final = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "}
)


def cut(text: str, most_chars: int) -> list[str]:
    """The pieces of `text`, each of 1 to `most_chars` characters, with something to say in each.

    They have plain quotation marks and dashes, and single blanks. A sentence that is too long is
    cut at a comma or a blank, and without any in the middle.
    """
    pieces: list[str] = []
    for sentence in _ENDS.split(text.translate(_PLAIN)):
        pieces += _fit(" ".join(sentence.split()), most_chars)
    return [piece for piece in pieces if any(map(str.isalnum, piece))]


def _fit(sentence: str, most: int) -> list[str]:
    pieces = []
    while len(sentence) > most:
        breaks = [match.start() for match in _BREATHS.finditer(sentence, 1, most + 1)]
        soft = [at for at in breaks if sentence[at - 1] in ",;:–—，；：、" and at > most // 3]
        at = (soft or breaks or [most])[-1]
        pieces.append(sentence[:at].rstrip())
        sentence = sentence[at:].lstrip()
    return [*pieces, sentence] if sentence else pieces
