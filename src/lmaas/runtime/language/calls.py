"""The tags of reasoning and of tool calls, and one call while it is written.

Knows one format, the most used one: `<tool_call>{"name": …, "arguments": …}</tool_call>` (Hermes,
Qwen). What is read here as a call, the grammars let a model write.
"""

import json
import re
import secrets
from typing import Final

from lmaas.generation_types import CallDelta

THINK: Final = "<think>"
END_THINK: Final = "</think>"
"""Around what a model thinks before it answers."""
CALL: Final = "<tool_call>"
END_CALL: Final = "</tool_call>"
SEPARATOR: Final = "\n"
"""Stands between a call and its tags, and between two calls."""
_HEAD: Final = re.compile(
    r'\A\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=[{\[])'
)


class Text:
    """Where in a JSON text its last character stands: inside a string, or how deep."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def take(self, character: str) -> None:
        """The next character."""
        if self.in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self.in_string = False
        elif character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1


class Call:
    """One tool call while it is written: its name as soon as it is there, then its arguments."""

    def __init__(self, position: int) -> None:
        self.raw = ""
        self.named = False
        self._position = position
        self._sent = 0
        self._whole = Text()
        self._arguments = Text()
        self._complete = False

    def feed(self, text: str) -> tuple[list[CallDelta], int, bool]:
        """What the text that comes next adds; how much of it is the call's, and whether its end
        tag stands there. What may become the tag is left out.

        A tag inside a string is the string's: a grammar lets a model write it there.
        """
        size, ended = 0, False
        for at, character in enumerate(text):
            if character == "<" and not self._whole.in_string:
                ended = text.startswith(END_CALL, at)
                if ended or END_CALL.startswith(text[at:]):
                    break
            self._whole.take(character)
            size = at + 1
        return self._add(text[:size]), size, ended

    def end(self) -> list[CallDelta]:
        """The whole call at once where its parts came in another order."""
        if self.named:
            return []
        try:
            call = json.loads(self.raw)
            name = call["name"]
            arguments = call.get("arguments", call.get("parameters", {}))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []
        if not isinstance(name, str):
            return []
        self.named = True
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return [CallDelta(self._position, _call_id(), name, text)]

    def _add(self, text: str) -> list[CallDelta]:
        self.raw += text
        pieces: list[CallDelta] = []
        if not self.named:
            head = _HEAD.match(self.raw)
            if head is None:
                return pieces
            try:
                name = str(json.loads(f'"{head.group(1)}"'))
            except ValueError:
                return pieces
            self.named = True
            self._sent = head.end()
            pieces.append(CallDelta(self._position, _call_id(), name))
        start = self._sent
        while self._sent < len(self.raw) and not self._complete:
            self._arguments.take(self.raw[self._sent])
            self._complete = not (self._arguments.depth or self._arguments.in_string)
            self._sent += 1
        if self._sent > start:
            pieces.append(CallDelta(self._position, arguments=self.raw[start : self._sent]))
        return pieces


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
