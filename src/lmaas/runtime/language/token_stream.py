"""One sequence's tokens into text as they come, whole characters only.

`tokenizers.DecodeStream` is not used: tokens that no text gives (a character's first byte, then a
word) make it raise, and a sampler draws such tokens sooner or later.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

LOST: Final = "\ufffd"
"""What stands for bytes that are no character."""
MOST_HELD: Final = 16
"""So many tokens may wait for the end of a character, which has four bytes at most."""


class TokenStream:
    """Text of tokens that come one by one; never raises for tokens of the vocabulary.

    `byte_tokens` are those that are one byte each; `before` is what the text goes on from. The
    pieces together are what the tokenizer makes of all tokens at once, but that it loses the
    characters of a run of byte tokens when one byte of the run fits nowhere: here each such byte is
    one replacement character, and the others are read.
    """

    def __init__(
        self, raw: Any, byte_tokens: Mapping[int, int], before: Sequence[int] = ()
    ) -> None:
        self._raw = raw
        self._byte_of = byte_tokens
        self._context: list[int] = []
        """The last tokens that were shown to the end: what comes next may depend on them."""
        self._before = ""
        """Their own text."""
        self._open: list[int] = []
        """Tokens whose text may still change at its end, of which `_shown` characters are shown."""
        self._shown = 0
        self._bytes: list[int] = []
        """Byte tokens that may become a character."""
        known = [token for token in before[-MOST_HELD:] if raw.id_to_token(token) is not None]
        if known and not self._decode(known).endswith(LOST):
            self._close(known)

    def feed(self, token: int) -> str:
        """The text that `token` completes; empty while a character is not whole."""
        if self._raw.id_to_token(token) is None:
            return ""  # a place in the embedding that the tokenizer has no word for
        if token in self._byte_of:
            text = self._settle()
            self._bytes.append(token)
            return text + self._characters(end=False)
        return self._characters(end=True) + self._word(token)

    def rest(self) -> str:
        """What is left when the sequence ends inside a character: as Unicode's replacement."""
        return self._characters(end=True) + self._settle()

    def _word(self, token: int) -> str:
        self._open.append(token)
        text = self._text()
        if not text.endswith(LOST):
            return self._settle()
        # Only the last replacement may become a character; those before it stay.
        fresh = text[self._shown : -1]
        self._shown = max(self._shown, len(text) - 1)
        if len(self._open) > MOST_HELD:
            self._cut(text)
        return fresh

    def _text(self) -> str:
        return self._decode([*self._context, *self._open])[len(self._before) :]

    def _settle(self) -> str:
        """The open tokens are what they seem to be."""
        if not self._open:
            return ""
        fresh = self._text()[self._shown :]
        self._close(self._open)
        self._open, self._shown = [], 0
        return fresh

    def _cut(self, text: str) -> None:
        """Close as many open tokens as can be told apart from the others, so that few are held."""
        for place in range(len(self._open) - 1, 0, -1):
            head = self._decode([*self._context, *self._open[:place]])[len(self._before) :]
            context = self._open[:place][-MOST_HELD:]
            tail = self._decode([*context, *self._open[place:]])[len(self._decode(context)) :]
            if len(head) <= self._shown and head + tail == text:
                self._close(context)
                self._open = self._open[place:]
                self._shown -= len(head)
                return

    def _close(self, tokens: list[int]) -> None:
        """These are shown. Of a text they are the context of what follows them."""
        self._before = self._decode(tokens)
        if not self._before:
            tokens = [*self._context, *tokens][-MOST_HELD:]
            self._before = self._decode(tokens)
        self._context = tokens

    def _characters(self, *, end: bool) -> str:
        """Characters of the byte tokens; at their `end` those that are none, too."""
        text = ""
        while self._bytes:
            data = bytes(self._byte_of[token] for token in self._bytes)
            try:
                character = data.decode("utf-8")
                size = len(data)
            except UnicodeDecodeError as error:
                if not end and error.reason == "unexpected end of data":
                    break
                character, size = LOST, 1
            first = not self._context
            done, self._bytes = self._bytes[:size], self._bytes[size:]
            # A tokenizer may drop a blank at the very beginning.
            text += self._decode(done) if first else character
            self._close(done)
        return text

    def _decode(self, tokens: list[int]) -> str:
        return str(self._raw.decode(tokens, skip_special_tokens=False))


def byte_tokens(raw: Any) -> dict[int, int]:
    """The tokens of a tokenizer that are one byte each, `<0x00>` to `<0xFF>`, and their bytes.

    Empty where the tokenizer reads such spellings as text.
    """
    found = {raw.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    found.pop(None, None)
    sample = next(iter(found), None)
    if sample is None or "<0x" in raw.decode([sample], skip_special_tokens=False):
        return {}
    return found


def is_byte_level(raw: Any) -> bool:
    """Whether a tokenizer's words are bytes, each spelled by a sign of its own (GPT-2's way)."""
    decoder = raw.decoder
    told = json.loads(decoder.__getstate__()) if decoder is not None else {}
    kinds = [told.get("type"), *(part.get("type") for part in told.get("decoders", ()))]
    return "ByteLevel" in kinds


def bytes_by_sign() -> dict[str, int]:
    """The byte of each sign: printable ones of Latin-1 are themselves, the others follow U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
