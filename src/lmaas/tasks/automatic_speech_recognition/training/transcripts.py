"""Texts of training data as token numbers: normalised, and spelled in an alphabet."""

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from lmaas.errors import InvalidInput
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet, Convolution
from lmaas.tasks.automatic_speech_recognition.options import SpeechDataOptions

BLANK: Final = "<blank>"
MOST_LETTERS: Final = 8192
KEPT: Final = "'’"
"""Punctuation that is part of words."""
CONVOLUTIONS: Final = (Convolution(kernel=3, stride=2, padding=1),) * 2
"""Those of the network `conv-ctc`."""


def normalised(text: str, options: SpeechDataOptions) -> str:
    """The text as it is learned: Unicode's NFC, single blanks, and what the options say."""
    text = unicodedata.normalize("NFC", text)
    if options.case == "lower":
        text = text.lower()
    if options.punctuation == "remove":
        text = "".join(
            c if c in KEPT or unicodedata.category(c)[0] not in "PS" else " " for c in text
        )
    return " ".join(text.split())


def rule(options: SpeechDataOptions) -> str:
    """What `normalised` does, for people."""
    steps = ["NFC", "single blanks"]
    if options.case == "lower":
        steps.insert(0, "lower case")
    if options.punctuation == "remove":
        steps.append("no punctuation but apostrophes")
    return ", ".join(steps)


def learned(texts: Sequence[str]) -> Alphabet:
    """The alphabet of normalised texts: blank, the gap between words, then letters in order.

    Raises InvalidInput for more letters than there can be.
    """
    found = sorted(set().union(*map(set, texts)) - {" "})
    if len(found) > MOST_LETTERS:
        raise InvalidInput(
            f"The texts have {len(found)} different letters; at most {MOST_LETTERS} are learned.",
            param="data",
        )
    return Alphabet(
        tokens=(BLANK, " ", *found), blank=0, delimiter=1, convolutions=CONVOLUTIONS, pads=True
    )


def spelled(text: str, numbers: dict[str, int], place: Callable[[], str]) -> list[int]:
    """The text's token numbers. Raises InvalidInput, with the place, for an unknown letter."""
    try:
        return [numbers[letter] for letter in text]
    except KeyError:
        unknown = sorted(set(text) - numbers.keys())
        raise InvalidInput(
            f"{place()}: the text has {', '.join(map(repr, unknown[:10]))}, which the model has "
            "not learned.",
            hint="Its letters are fixed: take them out of the text, or train a new model.",
            param="data",
        ) from None


def numbers_of(alphabet: Alphabet) -> dict[str, int]:
    """The number of each letter, and of the blank between words."""
    numbers = {token: number for number, token in enumerate(alphabet.tokens)}
    numbers.pop(alphabet.tokens[alphabet.blank], None)
    if alphabet.delimiter is not None:
        numbers[" "] = alphabet.delimiter
    return numbers


def least_steps(tokens: Sequence[int]) -> int:
    """How many steps the tokens take at least: between two equal ones stands a blank."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
