"""What a server's answers say: errors, when to ask again, and the pieces of a stream."""

from typing import Any, Final, NamedTuple

import httpx
import msgspec

from lmaas.errors import BY_CODE, LMaaSError, Unavailable
from lmaas.job import StoredEvent
from lmaas.transcription_types import Transcript

RETRIES: Final = 2
LONGEST_PAUSE_S: Final = 10.0


class ChatPiece(NamedTuple):
    """A piece of a chat answer; `usage` counts tokens as OpenAI's API does."""

    text: str
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None


class HeardPiece(NamedTuple):
    """A piece of a streamed transcription; the last one has the `transcript`.

    `done` is the share of the sound that is heard, 0 where it is not told.
    """

    text: str = ""
    done: float = 0.0
    transcript: Transcript | None = None


def check(response: httpx.Response) -> None:
    """Raise what an answer tells, unless it is a success."""
    if response.is_success:
        return
    try:
        told = response.json()
    except ValueError:
        told = {}
    error = told.get("error", told.get("detail", response.text))
    code, message = told.get("code"), error
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
    raise BY_CODE.get(str(code), LMaaSError)(str(message), hint=told.get("hint"))


class explained:
    """Connection failures as errors that say what to do."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx.TransportError):
            raise Unavailable(
                f"No answer from {self._url}: {error}.", hint="Start a server with `lmaas serve`."
            ) from error


def pause_s(request: httpx.Request, response: httpx.Response, tries: int) -> float | None:
    """How long to wait before `request` is sent again; None when it is not."""
    if response.status_code not in (429, 503) or tries > RETRIES:
        return None
    if not isinstance(request.stream, httpx.ByteStream):
        return None
    if response.headers.get("x-should-retry") == "false":
        return None
    told = response.headers.get("retry-after", "")
    return min(LONGEST_PAUSE_S, float(told)) if told.isdigit() else None


def event_of(line: str) -> StoredEvent | None:
    """The event of a job that one line of a stream holds."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    return msgspec.json.decode(line[5:], type=StoredEvent)


def piece_of(line: str) -> ChatPiece | None:
    """What one line of a stream of events adds. Raises the error that it tells."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    return whole_of(line[5:].encode())


def whole_of(body: bytes) -> ChatPiece:
    """An answer, or one event of it. Raises the error that it tells."""
    told = msgspec.json.decode(body)
    if "error" in told:
        error = told["error"]
        raise BY_CODE.get(str(error.get("code")), LMaaSError)(str(error.get("message")))
    usage = told.get("usage")
    if not told["choices"]:
        return ChatPiece("", usage=usage)
    choice = told["choices"][0]
    message = choice.get("delta") or choice.get("message") or {}
    return ChatPiece(
        message.get("content") or "",
        message.get("reasoning_content") or "",
        choice.get("finish_reason"),
        usage,
    )


def heard_of(line: str) -> HeardPiece | None:
    """What one line of a stream of events adds to a transcription. Raises the error it tells."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    told = msgspec.json.decode(line[5:])
    if "error" in told:
        error = told["error"]
        raise BY_CODE.get(str(error.get("code")), LMaaSError)(str(error.get("message")))
    if "transcript" in told:
        return HeardPiece(done=1.0, transcript=msgspec.convert(told["transcript"], Transcript))
    return HeardPiece(str(told.get("delta", "")), float(told.get("done", 0.0)))
