"""What is asked of a language model and what comes back, whatever protocol asked.

Doors (OpenAI, Anthropic, Hugging Face) translate their bodies into a `GenerateRequest` and its
`Delta`s into their answers; engines know neither. This module knows no transport and no engine.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.types import LanguageSpec as LanguageSpec
from lmaas.types import Record

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMAS_BYTES = 524_288
MAX_SCHEMA_DEPTH = 64
MAX_SEED = (1 << 63) - 1
MAX_FILES = 32
MAX_FILE_BYTES = 5 << 20
"""Of one image or audio file in a message."""

Detail = Literal["auto", "low", "high", "original"]
Finish = Literal["stop", "length", "tool_calls"]
Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(Record, frozen=True, kw_only=True):
    """A call that the model made: `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class TextPart(Record, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A part of a message that is text."""

    text: str


class FilePart(Record, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A part of a message that is an image or audio.

    `data` is base64 or a `data:` URL, as it came: only the worker decodes it
    (`codecs.media.from_base64`), and what `media_type` says is judged there. Nothing is fetched.
    `place` is where the caller wrote it, for errors. `detail` is how finely an image is to be read:
    "auto" and "high" as finely as the model can, "low" at less cost.
    """

    kind: Literal["image", "audio"]
    data: str
    media_type: str | None = None
    place: str = "messages"
    detail: Detail = "auto"


Part = TextPart | FilePart


def content_of(pieces: Sequence[str | FilePart]) -> str | tuple[Part, ...]:
    """A message's content: texts side by side are one, a line each; texts alone are a text."""
    if all(isinstance(piece, str) for piece in pieces):
        return "\n".join(str(piece) for piece in pieces)
    parts: list[Part] = []
    for piece in pieces:
        last = parts[-1] if parts else None
        if isinstance(piece, FilePart):
            parts.append(piece)
        elif isinstance(last, TextPart):
            parts[-1] = TextPart(text=f"{last.text}\n{piece}")
        else:
            parts.append(TextPart(text=piece))
    return tuple(parts)


class ChatMessage(Record, frozen=True, kw_only=True):
    """One turn of a conversation. `tool_call_id` names the call that a tool's answer is for.

    `content` is a text, or parts where some are files. A turn that only calls tools may have no
    content, which is not the same as an empty one: chat templates ask for it.
    """

    role: Role
    content: str | tuple[Part, ...] | None = ""
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def texts(self) -> list[str]:
        """What its content has as text, part by part."""
        if isinstance(self.content, tuple):
            return [part.text for part in self.content if isinstance(part, TextPart)]
        return [self.content] if self.content else []

    @property
    def files(self) -> list[FilePart]:
        """What its content has beside text."""
        if isinstance(self.content, tuple):
            return [part for part in self.content if isinstance(part, FilePart)]
        return []


class Tool(Record, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments.

    What is None was not said, and the model is not shown it.
    """

    name: Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,128}\Z")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Sampling(Record, frozen=True, kw_only=True):
    """How tokens are chosen. `temperature` 0 is greedy; `max_tokens` None: as many as fit, 0: none.
    After messages, `max_tokens` beyond the context is as many as fit too.

    `top_k` 0 and `min_p` 0 switch these filters off. `logit_bias` maps token ids to what is added.
    `logprobs`: None, or how many alternatives beside the chosen token are told (0: only itself).
    """

    max_tokens: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    seed: Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)], ...],
        Meta(max_length=MAX_STOPS),
    ] = ()
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=MAX_STOPS)] = ()
    ignore_eos: bool = False
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class Format(Record, frozen=True, kw_only=True):
    """What the answer must look like: any JSON object, or JSON that fits `schema`."""

    kind: Literal["json_object", "json_schema"]
    schema: dict[str, Any] = msgspec.field(default_factory=dict)


class GenerateRequest(Record, frozen=True, kw_only=True):
    """One request to a language model: `messages` (a conversation) or `prompt` (text or token ids).

    `tool_choice`: "auto", "none", "required", or "=NAME" for the one tool that must be called.
    `echo` puts the prompt before the answer; `prompt_logprobs` tells the prompt's own log
    probabilities (as `Sampling.logprobs`). `template` holds variables for the chat template
    (`enable_thinking`); those that are `named` by the caller must be known to it. With `continued`
    the last message is the assistant's, and the answer goes on where it ends. With `stream`
    each piece is sent when it is there; without, all at the end. With `count_only` nothing runs:
    the answer is the number of tokens in the prompt.
    """

    messages: tuple[ChatMessage, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    choices: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    tools: Annotated[tuple[Tool, ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    format: Format | None = None
    echo: bool = False
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    template: dict[str, Any] = msgspec.field(default_factory=dict)
    named: tuple[str, ...] = ()
    continued: bool = False
    stream: bool = False
    count_only: bool = False

    @property
    def deterministic(self) -> bool:
        """Whether the same request gives the same answer again: greedy, or seeded."""
        return self.sampling.temperature == 0 or self.sampling.seed is not None

    @property
    def files(self) -> list[FilePart]:
        """All files of its messages, in their order."""
        return [file for message in self.messages for file in message.files]


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token, its text as far as it is text, and its natural-log probability (None: first).

    `raw` are its bytes in the text, which may be part of a character; None: it is no text.
    """

    id: int
    token: str
    raw: bytes | None
    logprob: float | None
    top: tuple[tuple[int, str, bytes | None, float], ...] = ()


class CallDelta(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a tool call. The first piece of call `position` has `id` and `name`."""

    position: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What choice `index` gained: text, reasoning, pieces of tool calls. `tokens` were made.

    The last delta of a choice has `finish`, and `stop` where a stop string ended it. `logprobs` has
    one entry for each token of `text`. `done` is the share of the work that is over by then; 0: not
    told.
    """

    index: int
    text: str = ""
    tokens: int = 0
    finish: Finish | None = None
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str = ""
    done: float = 0.0


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one request, over all its choices.

    `cached` are known to have been found in the prefix cache; not every engine tells. `audio_ms` is
    the length of the sound that was heard.
    """

    prompt: int
    completion: int = 0
    reasoning: int = 0
    cached: int = 0
    audio_ms: int = 0


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """The end of a request: all deltas where it was not streamed, and what it used."""

    usage: Usage
    deltas: tuple[Delta, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


def check(request: GenerateRequest) -> GenerateRequest:
    """`request` if its parts fit together. Raises InvalidInput naming the field that does not."""
    if (request.prompt is None) == (not request.messages):
        raise InvalidInput("Give either messages or a prompt, not empty.", param="messages")
    if len(request.sampling.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidInput(
            f"logit_bias has {len(request.sampling.logit_bias)} entries; at most "
            f"{MAX_LOGIT_BIAS} are taken.",
            param="logit_bias",
        )
    for value in request.sampling.logit_bias.values():
        if not -100 <= value <= 100:
            raise InvalidInput("A logit_bias must be within -100 to 100.", param="logit_bias")
    _check_files(request.files)
    if request.continued:
        _check_begun(request)
    _check_tools(request)
    _check_schemas([tool.parameters or {} for tool in request.tools], "tools")
    if request.format is not None:
        _check_schemas([request.format.schema], "response_format")
    return request


def _check_files(files: Sequence[FilePart]) -> None:
    """Bound files by what they are as text: nothing is decoded."""
    if len(files) > MAX_FILES:
        raise InvalidInput(
            f"The messages have {len(files)} images and audio files; at most {MAX_FILES} are "
            "taken at once.",
            param=files[MAX_FILES].place,
        )
    for file in files:
        if len(file.data) // 4 * 3 > MAX_FILE_BYTES:
            raise PayloadTooLarge(
                f"{file.place} has about {len(file.data) // 4 * 3} bytes; at most "
                f"{MAX_FILE_BYTES} are taken.",
                hint="Scale it down before sending.",
                param=file.place,
            )


def _check_begun(request: GenerateRequest) -> None:
    last = request.messages[-1] if request.messages else None
    if last is None or last.role != "assistant":
        problem = "Only an assistant's last message is continued."
    elif last.tool_calls:
        problem = "The last message ends with calls of tools: their results are missing."
    elif request.format is not None:
        problem = "The last message begins the answer, whose format would hold for the rest alone."
    else:
        return
    raise InvalidInput(problem, hint="End with a message of the user.", param="messages")


def _check_tools(request: GenerateRequest) -> None:
    names = [tool.name for tool in request.tools]
    if len(set(names)) != len(names):
        raise InvalidInput("Two tools have the same name.", param="tools")
    choice = request.tool_choice
    if choice.startswith("=") and choice[1:] not in names:
        raise InvalidInput(f"tool_choice names {choice[1:]!r}, no such tool.", param="tool_choice")
    if choice not in ("auto", "none", "required") and not choice.startswith("="):
        raise InvalidInput(f"Unknown tool_choice {choice!r}.", param="tool_choice")
    if choice not in ("auto", "none") and not names:
        raise InvalidInput("tool_choice asks for a call, but there are no tools.", param="tools")


def _check_schemas(schemas: Sequence[dict[str, Any]], param: str) -> None:
    """Bound the size and depth of JSON schemas. Cheap to refuse, whatever was sent."""
    sizes = [len(msgspec.json.encode(schema)) for schema in schemas]
    if sum(sizes) > MAX_SCHEMAS_BYTES or max(sizes, default=0) > MAX_SCHEMA_BYTES:
        raise InvalidInput(
            f"A schema has at most {MAX_SCHEMA_BYTES} bytes, all of a request together "
            f"{MAX_SCHEMAS_BYTES}; received {max(sizes)} and {sum(sizes)}.",
            param=param,
        )
    level: list[Any] = list(schemas)
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            break
    else:
        raise InvalidInput(f"A schema is nested deeper than {MAX_SCHEMA_DEPTH}.", param=param)
    if any(_follows_far(schema) for schema in schemas):
        raise InvalidInput(
            f"A schema's references lead over more than {MAX_SCHEMA_DEPTH} others in a row.",
            hint="Put definitions into each other where only one place uses them.",
            param=param,
        )


def _follows_far(schema: dict[str, Any]) -> bool:
    """Whether following references one after the other, each target once, goes too deep.

    Whoever reads a schema recurses over this path; here nothing does.
    """
    seen: set[str] = set()
    stack = [iter(_references(schema))]
    while stack:
        pointer = next(stack[-1], None)
        if pointer is None:
            stack.pop()
        elif pointer not in seen:
            seen.add(pointer)
            stack.append(iter(_references(_target(schema, pointer))))
            if len(stack) > MAX_SCHEMA_DEPTH + 1:
                return True
    return False


def _references(value: Any) -> list[str]:
    """What a part of a schema refers to, in its order, without following it."""
    found, waiting = [], [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            pointer = inner.get("$ref")
            if isinstance(pointer, str):
                found.append(pointer)
            waiting += [
                part for name, part in inner.items() if name not in ("$defs", "definitions")
            ]
        elif isinstance(inner, list):
            waiting += inner
    return found


def _target(schema: Any, pointer: str) -> Any:
    """What a JSON pointer in a fragment names; None where it names nothing."""
    for part in pointer.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(schema, dict):
            return None
        schema = schema.get(name)
    return schema
