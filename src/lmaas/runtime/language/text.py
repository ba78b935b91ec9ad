"""One answer as it grows: tokens become text, reasoning and tool calls, up to a stop string.

Text that may turn out to be the start of a stop string or of a tag is held back until it is known.
"""

from collections.abc import Sequence
from enum import Enum

from lmaas.generation_types import CallDelta, Delta, Finish, TokenLogprob
from lmaas.runtime.language.calls import CALL, END_CALL, END_THINK, THINK, Call
from lmaas.runtime.language.engine import TokenScore
from lmaas.runtime.language.tokens import Tokens


class Mode(Enum):
    """Where in its answer the model is."""

    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"


class Reader:
    """Takes an answer's text apart as it grows: reasoning, tool calls, up to a stop string.

    `reasoning` and `tools` say whether such tags mean something here; `thinking` that the prompt
    has opened the reasoning already; `formatted` that an answer is either calls or a text that may
    spell their tags.
    """

    def __init__(
        self,
        *,
        stops: Sequence[str] = (),
        reasoning: bool = False,
        thinking: bool = False,
        tools: bool = False,
        formatted: bool = False,
    ) -> None:
        self.stop = ""
        self.stopped = False
        self._stops = tuple(stops)
        self._tools = tools
        self._formatted = formatted
        self._mode = Mode.REASONING if thinking else Mode.TEXT
        self._may_think = reasoning and not thinking
        self._trim = thinking
        self._held = ""
        self._call = Call(0)
        self._calls = 0
        self._blank = ""
        self._beside_call = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._pieces: list[CallDelta] = []

    @property
    def reasons(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._mode is Mode.REASONING

    @property
    def called(self) -> bool:
        """Whether there was a tool call."""
        return self._calls > 0

    def feed(self, text: str) -> None:
        """The next piece of text. After `stopped`: nothing."""
        self._held += text
        self._advance()

    def end(self) -> None:
        """Nothing comes any more: all that was held back is what it seems."""
        if self.stopped:
            return
        held, self._held = self._held, ""
        if self._mode is Mode.CALL:
            self._text_of_call(held)
        else:
            self._emit(held)
        self._emit_blank()

    def take(self) -> tuple[str, str, tuple[CallDelta, ...]]:
        """Text, reasoning and pieces of calls since the last time."""
        taken = "".join(self._text), "".join(self._reasoning), _merged(self._pieces)
        self._text, self._reasoning, self._pieces = [], [], []
        return taken

    def _advance(self) -> None:
        while self._held and not self.stopped:
            before = self._mode, len(self._held)
            match self._mode:
                case Mode.TEXT:
                    self._advance_text()
                case Mode.REASONING:
                    self._advance_reasoning()
                case Mode.CALL:
                    self._advance_call()
            if (self._mode, len(self._held)) == before:
                return

    def _advance_text(self) -> None:
        if self._may_think and not _may_begin(self._held, THINK):
            self._may_think = False
        if self._formatted and not self._may_think and not _may_begin(self._held, CALL):
            self._formatted, self._tools = False, self.called
        tags = [*self._stops]
        if self._tools:
            tags.append(CALL)
        if self._may_think:
            tags.append(THINK)
        if not tags:
            text, self._held = self._held, ""
            self._emit(text)
            return
        start, tag = _first(self._held, tags)
        if tag is None:
            keep = _overlap(self._held, tags)
            text, self._held = self._held[: len(self._held) - keep], self._held[-keep:]
            if not keep:
                self._held = ""
            self._emit(text)
            return
        text, self._held = self._held[:start], self._held[start + len(tag) :]
        if tag == THINK and self._may_think:
            self._may_think, self._blank = False, ""
            self._mode, self._trim = Mode.REASONING, True
            return
        if tag == CALL and self._tools:
            self._emit(text)
            self._mode, self._call = Mode.CALL, Call(self._calls)
            return
        self._emit(text)
        self._emit_blank()
        self._held = ""
        self.stop = tag
        self.stopped = True

    def _advance_reasoning(self) -> None:
        start, tag = _first(self._held, (END_THINK,))
        if tag is None:
            cut = len(self._held) - _overlap(self._held, (END_THINK,))
            while cut and self._held[cut - 1] == "\n":
                cut -= 1
            self._emit(self._held[:cut])
            self._held = self._held[cut:]
            return
        self._emit(self._held[:start].rstrip("\n"))
        self._held = self._held[start + len(tag) :]
        self._mode, self._trim = Mode.TEXT, True

    def _advance_call(self) -> None:
        pieces, size, ended = self._call.feed(self._held)
        self._pieces += pieces
        self._held = self._held[size:]
        if not ended:
            return
        self._held = self._held[len(END_CALL) :]
        self._pieces += self._call.end()
        if self._call.named:
            self._count_call()
        else:
            self._emit_text(f"{CALL}{self._call.raw}{END_CALL}")
        self._mode, self._trim = Mode.TEXT, True

    def _text_of_call(self, held: str) -> None:
        """The answer ended inside a call."""
        pieces, size, _ = self._call.feed(held)
        self._pieces += pieces
        if self._call.named:
            self._count_call()
        else:
            self._emit_text(CALL + self._call.raw + held[size:])

    def _emit(self, text: str) -> None:
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        if not text:
            return
        if self._mode is Mode.REASONING:
            self._reasoning.append(text)
        else:
            self._emit_text(text)

    def _emit_text(self, text: str) -> None:
        """Blanks wait for what follows: beside a tag they belong to its form, not to the text."""
        text, self._blank = self._blank + text, ""
        if self._tools or self._calls or self._may_think:
            shown = text.rstrip()
            text, self._blank = shown, text[len(shown) :]
        if text:
            self._beside_call = False
            self._text.append(text)

    def _emit_blank(self) -> None:
        if self._blank and not self._beside_call:
            self._text.append(self._blank)
        self._blank = ""

    def _count_call(self) -> None:
        self._calls += 1
        self._blank, self._beside_call = "", True


class Writer:
    """Makes the deltas of one choice; without `stream` there is only one, at the end.

    `hidden` are tokens that are no text; the text goes on from the tokens `before`. The rest is as
    for `Reader`.
    """

    def __init__(
        self,
        index: int,
        tokens: Tokens,
        *,
        stream: bool = True,
        stops: Sequence[str] = (),
        reasoning: bool = False,
        thinking: bool = False,
        tools: bool = False,
        formatted: bool = False,
        hidden: frozenset[int] = frozenset(),
        before: Sequence[int] = (),
    ) -> None:
        self.made = 0
        self.reasoned = 0
        self._index = index
        self._streams = stream
        self._tokens = tokens
        self._stream = tokens.stream(before)
        self._hidden = hidden
        self._reader = Reader(
            stops=stops, reasoning=reasoning, thinking=thinking, tools=tools, formatted=formatted
        )
        self._told = 0
        self._first = not before
        self._logprobs: list[TokenLogprob] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended it."""
        return self._reader.stopped

    def feed(self, tokens: Sequence[int], scores: Sequence[TokenScore] = ()) -> Delta | None:
        """What the tokens add; None while all of it is held back. After `stopped`: nothing."""
        for position, token in enumerate(tokens):
            if self.stopped:
                break
            self.made += 1
            self.reasoned += self._reader.reasons
            if scores:
                told = self._tokens.scored(
                    token, scores[position], hidden=self._hidden, first=self._first
                )
                self._logprobs.append(told)
            if token not in self._hidden:
                self._first = False
                self._reader.feed(self._stream.feed(token))
        return self._delta(None) if self._streams else None

    def end(self, finish: Finish) -> Delta:
        """The last delta, with all that was held back."""
        if not self.stopped:
            self._reader.feed(self._stream.rest())
            self._reader.end()
        if self.stopped:
            finish = "stop"
        if self._reader.called and finish == "stop":
            finish = "tool_calls"
        delta = self._delta(finish)
        assert delta is not None
        return delta

    def _delta(self, finish: Finish | None) -> Delta | None:
        text, reasoning, calls = self._reader.take()
        if not (finish or text or reasoning or calls):
            return None
        delta = Delta(
            self._index,
            text,
            self.made - self._told,
            finish,
            reasoning,
            calls,
            tuple(self._logprobs),
            self._reader.stop if finish else "",
        )
        self._told, self._logprobs = self.made, []
        return delta


def _merged(pieces: Sequence[CallDelta]) -> tuple[CallDelta, ...]:
    """The pieces with those of one call joined."""
    by_position: dict[int, CallDelta] = {}
    for piece in pieces:
        before = by_position.get(piece.position)
        by_position[piece.position] = (
            piece
            if before is None
            else CallDelta(
                piece.position, before.id, before.name, before.arguments + piece.arguments
            )
        )
    return tuple(by_position.values())


def _may_begin(text: str, tag: str) -> bool:
    """Whether the text, but for blanks, begins with the tag, or may when it goes on."""
    begun = text.lstrip()
    return tag.startswith(begun) or begun.startswith(tag)


def _first(text: str, tags: Sequence[str]) -> tuple[int, str | None]:
    """Where the first of the tags is, and which; the longest of those that begin there."""
    best: tuple[int, int, str | None] = (len(text), 0, None)
    for tag in tags:
        at = text.find(tag)
        if at >= 0 and (at, -len(tag)) < best[:2]:
            best = at, -len(tag), tag
    return best[0], best[2]


def _overlap(text: str, tags: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a tag."""
    longest = min(len(text), max(map(len, tags)) - 1)
    for size in range(longest, 0, -1):
        end = text[-size:]
        if any(tag.startswith(end) for tag in tags):
            return size
    return 0
