"""Whisper's tokenizer: prompts to ids, ids to text, and tokens that belong to one word.

Text of a caller never becomes a special token. Knows no sound and no engine.
"""

import json
import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmaas.errors import InvalidInput
from lmaas.transcription_types import SpokenToken

NO_SPACES: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that put no blanks between words: each character is a word to be timed."""
BEFORE: Final = frozenset("\"'“¿([{-")
AFTER: Final = frozenset("\"'.。,，!！?？:：”)]}、")
"""Marks that belong to the word after, and to the word before them."""
TOKENIZER: Final = "tokenizer.json"


class WordTokens(NamedTuple):
    """A word and how many tokens it takes."""

    text: str
    tokens: int


class WhisperTokens:
    """The tokenizer of one model. Raises InvalidInput where it is missing or none of Whisper's."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / TOKENIZER
        try:
            self._raw: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise InvalidInput(f"{path.name} is missing or no tokenizer: {error}.") from None
        self._raw.no_truncation()
        self._raw.no_padding()
        self._raw.encode_special_tokens = True
        self.end = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.previous = self._id("<|startofprev|>")
        self.transcribe = self._id("<|transcribe|>")
        self.translate = self._id("<|translate|>")
        self.no_times = self._id("<|notimestamps|>")
        self.no_speech = self._id("<|nospeech|>", "<|nocaptions|>")
        self.times = self.no_times + 1
        """The token of 0.00 s; each one after it is a step of 0.02 s later."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return list(self._raw.encode(text, add_special_tokens=False).ids)

    def is_text(self, token: int) -> bool:
        """Whether it is a piece of text: no mark, no time."""
        return token < self.end

    def raw(self, token: int) -> bytes:
        """The bytes that a token of text stands for."""
        signs = _byte_of_sign()
        spelled = self._raw.id_to_token(token) or ""
        return bytes(signs[sign] for sign in spelled if sign in signs)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of all tokens that are text."""
        data = b"".join(self.raw(token) for token in tokens if self.is_text(token))
        return data.decode("utf-8", "replace")

    def spoken(self, token: int, logprob: float) -> SpokenToken:
        """A token of text with its probability."""
        raw = self.raw(token)
        return SpokenToken(raw.decode("utf-8", "replace"), raw, logprob)

    def words(self, tokens: Sequence[int], language: str | None) -> list[WordTokens]:
        """The words of tokens of text, in order; together they are the text."""
        characters = self._characters(tokens)
        if language in NO_SPACES:
            return characters
        found: list[WordTokens] = []
        for text, count in characters:
            alone = text.strip() in string.punctuation
            if not found or text.startswith(" ") or alone:
                found.append(WordTokens(text, count))
            else:
                found[-1] = WordTokens(found[-1].text + text, found[-1].tokens + count)
        return _with_marks(found)

    def _characters(self, tokens: Sequence[int]) -> list[WordTokens]:
        """The shortest runs of tokens that are whole characters."""
        found: list[WordTokens] = []
        data, count = b"", 0
        for token in tokens:
            data += self.raw(token)
            count += 1
            try:
                found.append(WordTokens(data.decode(), count))
            except UnicodeDecodeError:
                continue
            data, count = b"", 0
        if count:
            found.append(WordTokens(data.decode("utf-8", "replace"), count))
        return found

    def _id(self, *names: str) -> int:
        """The id of the first of these tokens that there is; its name has changed over time."""
        for name in names:
            if (found := self._raw.token_to_id(name)) is not None:
                return int(found)
        raise InvalidInput(f"{TOKENIZER} is none of Whisper's: it has no {names[0]}.")


def alignment_heads(folder: Path) -> bool:
    """Whether the model says which of its heads follow the sound: without, words have no times."""
    path = folder / "generation_config.json"
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and bool(told.get("alignment_heads"))


def _with_marks(words: list[WordTokens]) -> list[WordTokens]:
    """Marks together with the word that they belong to."""
    joined: list[WordTokens] = []
    for word in reversed(words):
        mark = word.text.strip()
        if joined and word.text.startswith(" ") and mark and set(mark) <= BEFORE:
            last = joined.pop()
            word = WordTokens(word.text + last.text, word.tokens + last.tokens)
        joined.append(word)
    found: list[WordTokens] = []
    for word in reversed(joined):
        if found and not found[-1].text.endswith(" ") and word.text and set(word.text) <= AFTER:
            before = found.pop()
            word = WordTokens(before.text + word.text, before.tokens + word.tokens)
        found.append(word)
    return found


@cache
def _byte_of_sign() -> dict[str, int]:
    """GPT-2's printable signs for bytes: those that are printable stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    signs = {chr(byte): byte for byte in plain}
    return signs | {chr(256 + place): byte for place, byte in enumerate(others)}
