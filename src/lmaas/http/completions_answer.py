"""A generation in the shape of OpenAI's text completions: whole, or as a stream of chunks."""

import codecs
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from lmaas.errors import LMaaSError
from lmaas.generation_types import Delta, Finish, TokenLogprob, Usage
from lmaas.http.collect import Collected
from lmaas.http.openai_types import UsageBody, finite, usage_body
from lmaas.http.sse import DONE, encode, error_data

PATH = "/v1/completions"


class TextLogprobs(msgspec.Struct, frozen=True):
    """Each token of the text, its log probability, and where in the text it begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    """One answer, or what it gained. Choice `i` of prompt `k` has the index `k * n + i`."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, or a chunk of it; then `usage` is null in all but the last, if asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageBody | None = None


def logprobs_of(entries: Sequence[TokenLogprob], offset: int) -> TextLogprobs:
    """Log probabilities of tokens whose text begins at `offset`, in characters."""
    offsets = []
    characters = codecs.getincrementaldecoder("utf-8")("ignore")
    for entry in entries:
        offsets.append(offset)
        offset += len(characters.decode(entry.raw or b""))
    return TextLogprobs(
        [_name(entry.token, entry.raw) for entry in entries],
        [None if entry.logprob is None else finite(entry.logprob) for entry in entries],
        [
            None
            if entry.logprob is None
            else {_name(text, raw): finite(value) for _, text, raw, value in entry.top}
            for entry in entries
        ],
        offsets,
    )


def _name(token: str, raw: bytes | None) -> str:
    """A token's text, or for a part of a character its bytes, so that no two have one name."""
    if raw is None or token.encode() == raw:
        return token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def completion(
    *,
    id: str,
    model: str,
    version: str,
    choices: Sequence[Collected],
    prompts: Sequence[Sequence[TokenLogprob]],
    usage: Usage,
    logprobs: bool,
) -> Completion:
    """The whole answer; `prompts` are each choice's log probabilities of its echoed prompt."""
    shown = []
    for index, (choice, before) in enumerate(zip(choices, prompts, strict=True)):
        entries = [*before, *choice.logprobs]
        told = logprobs_of(entries, 0) if logprobs else None
        shown.append(TextChoice(index, "".join(choice.text), told, choice.finish))
    return Completion(
        id=f"cmpl-{id}",
        created=int(time.time()),
        model=model,
        system_fingerprint=version,
        choices=shown,
        usage=usage_body(usage),
    )


class TextWriter:
    """A stream of chunks. All that is alike in every chunk is encoded once."""

    def __init__(
        self, *, id: str, model: str, version: str, usage: bool, choices: int, logprobs: bool
    ) -> None:
        empty = encode(
            Completion(
                id=f"cmpl-{id}",
                created=int(time.time()),
                model=model,
                system_fingerprint=version,
                choices=[],
            )
        )
        head, _, _ = empty.rpartition(b'],"usage":')
        self._head = b"data: " + head
        self._tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._usage = usage
        self._offsets = [0] * choices if logprobs else None

    def begin(self) -> bytes:
        """Nothing comes before the first delta."""
        return b""

    def piece(self, delta: Delta) -> bytes:
        """A chunk."""
        logprobs = None
        if self._offsets is not None:
            if delta.logprobs:
                logprobs = logprobs_of(delta.logprobs, self._offsets[delta.index])
            self._offsets[delta.index] += len(delta.text)
        choice = TextChoice(delta.index, delta.text, logprobs, delta.finish)
        return self._head + encode(choice) + self._tail

    def end(self, usage: Usage) -> bytes:
        """The usage, if asked for, and the mark that all is said."""
        if not self._usage:
            return DONE
        return self._head + b'],"usage":' + encode(usage_body(usage)) + b"}\n\n" + DONE

    def failed(self, error: LMaaSError) -> bytes:
        """The error; no mark."""
        return error_data(error, PATH)
