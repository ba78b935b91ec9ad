"""A generation as the events of OpenAI's responses, and the answer that they add up to."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Finish, Usage
from lmaas.http import errors
from lmaas.http.openai_types import ChatLogprob, chat_logprob
from lmaas.http.responses_answer import (
    CallItem,
    IncompleteDetails,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseError,
    usage_of,
)
from lmaas.http.sse import encode

_DELTAS = {
    "text": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "call": "response.function_call_arguments.delta",
}


class ResponseWriter:
    """Items that begin, grow and end, one after the other.

    `response` is the answer so far; `keep` gets it whole, before its end is told.
    """

    def __init__(
        self,
        response: Response,
        exchange_id: str,
        *,
        logprobs: bool,
        keep: Callable[[Response], None],
    ) -> None:
        self.response = response
        self._keep = keep
        self._id = exchange_id
        self._told = logprobs
        self._number = 0
        self._finish: Finish = "stop"
        self._kind = ""
        self._position = -1
        self._item_id = ""
        self._texts: list[str] = []
        self._logprobs: list[ChatLogprob] = []
        self._call = ("", "")
        self._grows = b""

    def begin(self) -> bytes:
        """The answer, still empty."""
        told = {"response": self.response}
        return self._event("response.created", told) + self._event("response.in_progress", told)

    def piece(self, delta: Delta) -> bytes:
        """What a delta adds to the open item, or to a new one."""
        parts: list[bytes] = []
        if delta.reasoning:
            if self._kind != "reasoning":
                parts += (self._end_item("completed"), self._begin_item("reasoning"))
            parts.append(self._grow(delta.reasoning, b""))
        if delta.text or (delta.logprobs and self._told):
            if self._kind != "text":
                parts += (self._end_item("completed"), self._begin_item("text"))
            entries = [chat_logprob(e) for e in delta.logprobs] if self._told else []
            self._logprobs += entries
            told = b',"logprobs":' + encode(entries) if entries else b',"logprobs":[]'
            parts.append(self._grow(delta.text, told))
        for call in delta.calls:
            if self._kind != "call" or self._position != call.position:
                parts.append(self._end_item("completed"))
                self._call, self._position = (call.id, call.name), call.position
                parts.append(self._begin_item("call"))
            if call.arguments:
                parts.append(self._grow(call.arguments, b""))
        if delta.finish is not None:
            self._finish = delta.finish
        return b"".join(parts)

    def end(self, usage: Usage) -> bytes:
        """The end of the open item and of the answer."""
        cut = self._finish == "length"
        ended = self._end_item("incomplete" if cut else "completed")
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if cut else "completed",
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            completed_at=None if cut else time.time(),
            usage=usage_of(usage),
        )
        self._keep(self.response)
        kind = "response.incomplete" if cut else "response.completed"
        return ended + self._event(kind, {"response": self.response})

    def failed(self, error: LMaaSError) -> bytes:
        """The error, and the answer as it failed."""
        ended = self._end_item("incomplete")
        code = "rate_limit_exceeded" if errors.status_of(error) == 429 else "server_error"
        self.response = msgspec.structs.replace(
            self.response, status="failed", error=ResponseError(code, str(error))
        )
        told = {"code": error.code, "message": str(error), "param": error.param}
        return (
            ended
            + self._event("error", told)
            + self._event("response.failed", {"response": self.response})
        )

    def _event(self, kind: str, told: dict[str, Any]) -> bytes:
        body = encode({"type": kind, "sequence_number": self._number, **told})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)

    def _grow(self, text: str, more: bytes) -> bytes:
        self._texts.append(text)
        number, self._number = self._number, self._number + 1
        return b'%b%b%b,"sequence_number":%d}\n\n' % (self._grows, encode(text), more, number)

    def _begin_item(self, kind: str) -> bytes:
        index = len(self.response.output)
        prefix = {"text": "msg", "reasoning": "rs", "call": "fc"}[kind]
        self._kind, self._item_id = kind, f"{prefix}_{self._id}-{index}"
        self._texts, self._logprobs = [], []
        item = self._item("in_progress", empty=True)
        begun = self._event("response.output_item.added", {"output_index": index, "item": item})
        place: dict[str, Any] = {"item_id": self._item_id, "output_index": index}
        if kind != "call":
            place["content_index"] = 0
            begun += self._event("response.content_part.added", {**place, "part": self._part("")})
        head = encode({"type": _DELTAS[kind], **place})[:-1]
        self._grows = b'event: %b\ndata: %b,"delta":' % (_DELTAS[kind].encode(), head)
        return begun

    def _end_item(self, status: ItemStatus) -> bytes:
        if not self._kind:
            return b""
        index = len(self.response.output)
        text = "".join(self._texts)
        place: dict[str, Any] = {"item_id": self._item_id, "output_index": index}
        if self._kind == "call":
            told = {**place, "name": self._call[1], "arguments": text}
            ended = self._event("response.function_call_arguments.done", told)
        else:
            place["content_index"] = 0
            told = {**place, "text": text}
            if self._kind == "text":
                told["logprobs"] = self._logprobs
            ended = self._event(_DELTAS[self._kind].replace("delta", "done"), told)
            part = {**place, "part": self._part(text)}
            ended += self._event("response.content_part.done", part)
        item = self._item(status)
        self.response.output.append(item)
        self._kind = ""
        return ended + self._event(
            "response.output_item.done", {"output_index": index, "item": item}
        )

    def _part(self, text: str) -> OutputText | ReasoningText:
        if self._kind == "reasoning":
            return ReasoningText(text)
        return OutputText(text=text, logprobs=self._logprobs if text else [])

    def _item(self, status: ItemStatus, *, empty: bool = False) -> OutputItem:
        text = "".join(self._texts)
        if self._kind == "call":
            id_, name = self._call
            return CallItem(id=self._item_id, status=status, call_id=id_, name=name, arguments=text)
        if self._kind == "reasoning":
            parts = [] if empty else [ReasoningText(text)]
            return ReasoningItem(id=self._item_id, status=status, content=parts)
        said = [] if empty else [OutputText(text=text, logprobs=self._logprobs)]
        return MessageItem(id=self._item_id, status=status, content=said)
