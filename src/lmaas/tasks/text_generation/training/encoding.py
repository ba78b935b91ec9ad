"""Examples as token ids with labels: what a language model reads, and of that what it learns.

The chat template and the tokenizer are those of serving, so what is learned is what is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from lmaas.data.conversations import Example
from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage, Tool
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.tokens import Tokens
from lmaas.training.base import IGNORED


class Encoded(msgspec.Struct, frozen=True):
    """One sample: `ids` (T,) and `labels` (T,), where labels[t] is what follows ids[t] or -100."""

    ids: np.ndarray
    labels: np.ndarray


class MessagePart(NamedTuple):
    """Something that message `at` says: what it is called, and how it becomes `mark`."""

    at: int
    what: str
    mark: str
    change: Callable[[ChatMessage], ChatMessage]


class Encoder:
    """Encodes examples for one model. `end` is the token that ends an answer.

    `longest` is the most tokens of a sample; `too_long` says what can be done about a longer one.
    """

    def __init__(
        self, tokens: Tokens, template: Template | None, end: int, longest: int, too_long: str
    ) -> None:
        self._tokens = tokens
        self._template = template
        self._end = end
        self._longest = longest
        self._too_long = too_long

    def encode(self, example: Example, place: str) -> list[Encoded]:
        """The samples of an example: one, or where the template changes earlier turns when later
        ones follow, one for each turn that is learned.

        Raises InvalidInput for one that is too long: nothing is cut; and for one of which the
        chat template would leave something out, since a model would learn to be silent there.
        """
        if not example.messages:
            spans = [(example.prompt, False), (example.completion, True)]
            return [self._sample(spans, None, place, end=True)]
        if self._template is None:
            raise InvalidInput(
                "The model has no chat template, so it cannot learn conversations.",
                hint="Give prompt and completion, or text; or a chat_template.jinja.",
                param="data",
            )
        try:
            return self._conversation(self._template, example, place)
        except InvalidInput as error:
            if place in error.message:
                raise
            raise InvalidInput(f"{place}: {error.message}", hint=error.hint, param="data") from None

    def _conversation(self, template: Template, example: Example, place: str) -> list[Encoded]:
        mark, messages, tools, _ = self._tokens.guard_chat(example.messages, example.tools)
        last = example.learned[-1]
        whole = template.render(messages[: last + 1], tools, complete=True)
        _refuse_dropped(template, whole, messages[: last + 1], tools, place)
        spans, told = [], 0
        for turn in example.learned:
            before = template.render(messages[:turn], tools)
            after = template.render(messages[: turn + 1], tools, complete=True)
            after = after.rstrip()
            if not (after.startswith(before) and whole.startswith(after)):
                return self._turn_by_turn(example, place)
            spans += [(whole[told : len(before)], False), (whole[len(before) : len(after)], True)]
            told = len(after)
        return [self._sample(spans, mark, place, end=False)]

    def _turn_by_turn(self, example: Example, place: str) -> list[Encoded]:
        if len(example.learned) == 1:
            raise InvalidInput(
                f"{place}: the chat template does not put the answer after the prompt that it "
                "writes when the model is asked.",
                hint="Only templates whose prompt is the beginning of the whole can be trained on.",
                param="data",
            )
        return [
            sample
            for turn in example.learned
            for sample in self.encode(
                replace(example, messages=example.messages[: turn + 1], learned=(turn,)),
                place,
            )
        ]

    def _sample(
        self, spans: Sequence[tuple[str, bool]], mark: str | None, place: str, *, end: bool
    ) -> Encoded:
        ids: list[int] = []
        learned: list[bool] = []
        for text, learn in spans:
            if mark is None:
                piece = self._tokens.encode(text)
            else:
                piece = self._tokens.encode_prompt(text, mark)
            ids += piece
            learned += [learn] * len(piece)
        if end:
            ids.append(self._end)
            learned.append(True)
        if len(ids) > self._longest:
            raise InvalidInput(
                f"{place} has {len(ids)} tokens; at most {self._longest} are taken.",
                hint=self._too_long,
                param="data",
            )
        labels = [
            token if learn else IGNORED for token, learn in zip(ids[1:], learned[1:], strict=True)
        ]
        if all(label == IGNORED for label in labels):
            raise InvalidInput(f"{place} has nothing to be learned.", param="data")
        return Encoded(np.array(ids, np.int64), np.array([*labels, IGNORED], np.int64))


def _refuse_dropped(
    template: Template,
    whole: str,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
    place: str,
) -> None:
    """Raise InvalidInput for what is nowhere in `whole`, the rendered conversation.

    Every part is once rendered as a mark of its own. One whose mark does not come out is left out
    if the text stays the same when this part alone is another.
    """
    if tools and template.render(messages, (), complete=True) == whole:
        raise _dropped(place, "the tools")
    parts = list(_parts(messages))
    marked = list(messages)
    for part in parts:
        marked[part.at] = part.change(marked[part.at])
    shown = _rendered(template, marked, tools)
    for part in parts:
        if shown is None or part.mark not in shown:
            alone = list(messages)
            alone[part.at] = part.change(alone[part.at])
            if _rendered(template, alone, tools) == whole:
                raise _dropped(place, part.what)


def _parts(messages: Sequence[ChatMessage]) -> Iterator[MessagePart]:
    """What a template must show of a conversation."""
    number = 0

    def part(at: int, what: str, change: Callable[[ChatMessage, str], ChatMessage]) -> MessagePart:
        nonlocal number
        number += 1
        mark = f"q7Zx{number}y"
        told = f"{what} of message {at + 1} ({messages[at].role})"
        return MessagePart(at, told, mark, lambda message: change(message, mark))

    for at, message in enumerate(messages):
        if "".join(message.texts).strip():
            yield part(at, "the content", lambda m, mark: replace(m, content=mark))
        # What was thought before earlier answers is left out on purpose by many templates.
        if at == len(messages) - 1 and (message.reasoning or "").strip():
            yield part(at, "the reasoning", lambda m, mark: replace(m, reasoning=mark))
        for place, call in enumerate(message.tool_calls):

            def named(m: ChatMessage, mark: str, place: int = place) -> ChatMessage:
                return _with_call(m, place, name=mark)

            def filled(m: ChatMessage, mark: str, place: int = place) -> ChatMessage:
                return _with_call(m, place, arguments=f'{{"{mark}": "{mark}"}}')

            yield part(at, f"the tool call {call.name!r}", named)
            yield part(at, f"the tool call {call.name!r}", filled)


def _with_call(message: ChatMessage, place: int, **changes: str) -> ChatMessage:
    calls = list(message.tool_calls)
    calls[place] = replace(calls[place], **changes)
    return replace(message, tool_calls=tuple(calls))


def _rendered(
    template: Template, messages: Sequence[ChatMessage], tools: Sequence[Tool]
) -> str | None:
    """The conversation as a text, None where the template does not take it."""
    try:
        return template.render(messages, tools, complete=True)
    except InvalidInput:
        return None


def _dropped(place: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"{place}: the model's chat template leaves out {what}, so it cannot be learned.",
        hint="Take a base whose template knows it, give the base another chat_template.jinja, or "
        "leave it out of the data.",
        param="data",
    )


def pack(samples: Sequence[Encoded], length: int) -> list[list[int]]:
    """Which samples share a row of `length` tokens: first fit, longest first.

    Each keeps its own positions, so that none attends to another.
    """
    order = sorted(range(len(samples)), key=lambda i: -len(samples[i].ids))
    rows: list[list[int]] = []
    free: list[int] = []
    for index in order:
        size = len(samples[index].ids)
        row = next((r for r, room in enumerate(free) if room >= size), None)
        if row is None:
            rows.append([])
            free.append(length)
            row = len(rows) - 1
        rows[row].append(index)
        free[row] -= size
    return rows
