"""A generation in the shape of Ollama's API: whole, or as a stream of JSON lines."""

import time
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Finish, TokenLogprob, Usage
from lmaas.http.collect import Collected
from lmaas.http.openai_types import finite
from lmaas.http.sse import encode
from lmaas.types import UNREADABLE

NDJSON = b"application/x-ndjson"


class OllamaCalled(msgspec.Struct, frozen=True):
    """A function that the model calls."""

    name: str
    arguments: Any


class OllamaCall(msgspec.Struct, frozen=True):
    """A call that the model makes."""

    id: str
    function: OllamaCalled


class OllamaMessage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the model says, or a piece of it."""

    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[OllamaCall] = []


class OllamaTop(msgspec.Struct, frozen=True):
    """A token that could have been."""

    token: str
    logprob: float


class OllamaLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token that was chosen."""

    token: str
    logprob: float
    top_logprobs: list[OllamaTop] = []


class OllamaAnswer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An answer, or a piece of one: `message` of a chat, `response` of a prompt. Times are in ns.

    The last piece has counts and times. `prompt_eval_duration` is the time to the first token.
    """

    model: str
    created_at: str
    done: bool | msgspec.UnsetType = msgspec.UNSET
    message: OllamaMessage | None = None
    response: str | None = None
    thinking: str = ""
    logprobs: list[OllamaLogprob] = []
    done_reason: str | None = None
    total_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class Clock:
    """When a request came, and when its first token was there."""

    def __init__(self) -> None:
        self._asked = time.perf_counter_ns()
        self._first = self._asked

    def first_token(self) -> None:
        """The first token is there."""
        self._first = time.perf_counter_ns()

    def passed(self) -> int:
        """Nanoseconds since the request came."""
        return time.perf_counter_ns() - self._asked

    def told(self, usage: Usage) -> dict[str, Any]:
        """The counts and times of a request that has ended."""
        now = time.perf_counter_ns()
        return {
            "total_duration": now - self._asked,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": self._first - self._asked,
            "eval_count": usage.completion,
            "eval_duration": now - self._first,
        }


def now() -> str:
    """The time as Ollama's clients read it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class OllamaWriter:
    """Pieces as they come. A call of a tool is sent once it is whole."""

    def __init__(self, model: str, clock: Clock, *, chat: bool) -> None:
        self._model = model
        self._clock = clock
        self._chat = chat
        self._calls = Collected()
        self._finish: Finish = "stop"

    def begin(self) -> bytes:
        """Nothing comes before the first piece."""
        return b""

    def piece(self, delta: Delta) -> bytes:
        """What a delta adds."""
        self._calls.add(msgspec.structs.replace(delta, text="", reasoning="", logprobs=()))
        if delta.finish is not None:
            self._finish = delta.finish
        if not (delta.text or delta.reasoning or delta.logprobs):
            return b""
        return self._line(delta.text, delta.reasoning, logprobs=delta.logprobs, done=False)

    def end(self, usage: Usage) -> bytes:
        """The calls, and what was used."""
        calls = calls_of(self._calls)
        told = self._line("", "", calls, done=False) if calls else b""
        return told + self._line("", "", done=True, more=self._ended(usage))

    def failed(self, error: LMaaSError) -> bytes:
        """The error, as a line of its own."""
        return encode({"error": str(error)}) + b"\n"

    def whole(self, choice: Collected, usage: Usage) -> bytes:
        """The whole answer at once."""
        self._finish = choice.finish or "stop"
        text, thinking = "".join(choice.text), "".join(choice.reasoning)
        return self._line(
            text,
            thinking,
            calls_of(choice),
            tuple(choice.logprobs),
            done=True,
            more=self._ended(usage),
        )

    def nothing(self, reason: str) -> bytes:
        """The answer to a request that says nothing: the model was loaded, or unloaded."""
        return self._line("", "", done=True, more={"done_reason": reason})

    def _ended(self, usage: Usage) -> dict[str, Any]:
        reason = "length" if self._finish == "length" else "stop"
        return {"done_reason": reason, **self._clock.told(usage)}

    def _line(
        self,
        text: str,
        thinking: str,
        calls: list[OllamaCall] | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        done: bool,
        more: dict[str, Any] | None = None,
    ) -> bytes:
        told: dict[str, Any] = {"logprobs": [_logprob(entry) for entry in logprobs], **(more or {})}
        if self._chat:
            told["message"] = OllamaMessage(
                role="assistant", content=text, thinking=thinking, tool_calls=calls or []
            )
        else:
            told |= {"response": text, "thinking": thinking}
        answer = OllamaAnswer(model=self._model, created_at=now(), done=done, **told)
        return encode(answer) + b"\n"


def calls_of(choice: Collected) -> list[OllamaCall]:
    """The calls of a choice; arguments that were cut off are none."""
    return [
        OllamaCall(call.id, OllamaCalled(call.name, _arguments(call.arguments)))
        for _, call in sorted(choice.calls.items())
    ]


def _arguments(text: str) -> Any:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE:
        return {}


def _logprob(entry: TokenLogprob) -> OllamaLogprob:
    top = [OllamaTop(text, finite(value)) for _, text, _, value in entry.top]
    return OllamaLogprob(entry.token, finite(entry.logprob), top)
