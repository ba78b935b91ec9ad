"""Conversations and prompts as Ollama's clients write them, turned into our records."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.generation_types import (
    MAX_SEED,
    MAX_TOOLS,
    ChatMessage,
    FilePart,
    Format,
    GenerateRequest,
    Part,
    Role,
    Sampling,
    ToolCall,
    check,
    content_of,
)
from lmaas.http.body import MAX_TURNS, refuse
from lmaas.http.openai_types import Body, ChatFunction, Stops, Top

MAX_CALLS: Final = 128
Images = Annotated[tuple[str, ...], Meta(max_length=MAX_TURNS)]
"""Images of a message, each as base64."""
TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.9
"""What Ollama takes where a request does not say."""
LATEST: Final = ":latest"
HOSTS: Final = ("hf.co/", "huggingface.co/")
"""Where models of the hub are, in names of Ollama's clients."""


class OllamaOptions(Body, frozen=True, kw_only=True):
    """How tokens are chosen. What follows `stop` is fixed when a model is loaded, by the server."""

    num_predict: Annotated[int, Meta(ge=-2, le=1 << 30)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1 << 30)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stop: Stops | None = None
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    num_keep: int | None = None
    num_thread: int | None = None
    main_gpu: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None
    penalize_newline: bool | None = None
    repeat_last_n: Any = None
    typical_p: Any = None
    tfs_z: Any = None
    mirostat: Any = None
    mirostat_eta: Any = None
    mirostat_tau: Any = None


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repeat_last_n": (None, -1, 64),
    "typical_p": (None, 1),
    "tfs_z": (None, 1),
    "mirostat": (None, 0),
    "mirostat_eta": (None, 0.1),
    "mirostat_tau": (None, 5),
}


class Asked(Body, frozen=True, kw_only=True):
    """What both routes take. `keep_alive` is the operator's here: the setting idle_unload_s."""

    model: str
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    stream: bool | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    truncate: Any = None
    shift: Any = None

    def request(self, **given: Any) -> GenerateRequest:
        """The same as a record. Raises InvalidInput naming the field that is wrong."""
        refuse(self, {"truncate": (None, False), "shift": (None, False)})
        return check(
            GenerateRequest(
                sampling=self._sampling(),
                format=self._format(),
                template=self._template(),
                stream=self.stream is not False,
                **given,
            )
        )

    def _sampling(self) -> Sampling:
        options = self.options or OllamaOptions()
        try:
            refuse(options, _NEUTRAL)
        except InvalidInput as error:
            param = f"options.{error.param}"
            raise InvalidInput(f"options.{error.message}", hint=error.hint, param=param) from None
        most, stop = options.num_predict, options.stop
        return Sampling(
            max_tokens=None if most is None or most < 0 else most,
            temperature=_or(options.temperature, TEMPERATURE),
            top_k=max(0, TOP_K if options.top_k is None else options.top_k),
            top_p=_or(options.top_p, TOP_P),
            min_p=options.min_p or 0.0,
            seed=options.seed or None,  # 0: a new one each time
            repetition_penalty=_or(options.repeat_penalty, 1.0),
            presence_penalty=options.presence_penalty or 0.0,
            frequency_penalty=options.frequency_penalty or 0.0,
            stop=(stop,) if isinstance(stop, str) else stop or (),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def _format(self) -> Format | None:
        if not self.format:
            return None
        if isinstance(self.format, str):
            return Format(kind="json_object")
        return Format(kind="json_schema", schema=self.format)

    def _template(self) -> dict[str, Any]:
        if self.think is None:
            return {}
        if isinstance(self.think, bool):
            return {"enable_thinking": self.think}
        return {"reasoning_effort": self.think, "enable_thinking": True}


class OllamaNamed(Body, frozen=True, kw_only=True):
    """A function that was called."""

    name: str
    arguments: dict[str, Any] | None = None
    index: int | None = None
    description: str | None = None


class OllamaMadeCall(Body, frozen=True, kw_only=True):
    """A call that the model made in an earlier turn; most clients give it no `id`."""

    function: OllamaNamed
    id: str | None = None
    type: str | None = None


class OllamaTurn(Body, frozen=True, kw_only=True):
    """One turn. `tool_name` says which function a tool's answer is of."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[tuple[OllamaMadeCall, ...], Meta(max_length=MAX_CALLS)] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    images: Images | None = None


class OfferedTool(Body, frozen=True, kw_only=True):
    """A tool; only functions are known."""

    type: Literal["function"] | None = None
    function: ChatFunction


class OllamaChat(Asked, frozen=True, kw_only=True):
    """A conversation to be continued; without messages the model is only loaded."""

    messages: Annotated[tuple[OllamaTurn, ...], Meta(max_length=MAX_TURNS)] | None = None
    tools: Annotated[tuple[OfferedTool, ...], Meta(max_length=MAX_TOOLS)] | None = None


class OllamaGenerate(Asked, frozen=True, kw_only=True):
    """A prompt to be answered or, where it is `raw`, continued; without one, the model is loaded.

    What follows `images` is known, but has one value.
    """

    prompt: str | None = None
    raw: bool | None = None
    system: str | None = None
    images: Images | None = None
    suffix: Any = None
    template: Any = None
    context: Any = None
    width: Any = None
    height: Any = None
    steps: Any = None


def chat_request(body: OllamaChat) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    waiting: list[tuple[str, str]] = []
    return body.request(
        messages=tuple(
            _turn(turn, f"messages[{i}]", waiting) for i, turn in enumerate(body.messages or ())
        ),
        tools=tuple(tool.function.tool() for tool in body.tools or ()),
    )


def generate_request(body: OllamaGenerate) -> GenerateRequest:
    """What is asked for, as a record. Raises InvalidInput naming the field that is wrong."""
    nothing: dict[str, tuple[Any, ...]] = {
        name: (None, "", []) for name in ("suffix", "template", "context")
    }
    refuse(body, nothing | {name: (None, 0) for name in ("width", "height", "steps")})
    if body.raw:
        if body.system or body.think is not None or body.images:
            raise InvalidInput(
                "A raw prompt is continued as it is: system, think and images have no place in it.",
                hint="Leave out raw, or the other field.",
                param="raw",
            )
        return body.request(prompt=body.prompt)
    messages = [ChatMessage(role="user", content=_content(body.prompt, body.images, ""))]
    if body.system:
        messages.insert(0, ChatMessage(role="system", content=body.system))
    return body.request(messages=tuple(messages))


def _turn(turn: OllamaTurn, place: str, waiting: list[tuple[str, str]]) -> ChatMessage:
    """`waiting`: calls without an answer yet, by name and id. Clients name neither reliably."""
    if turn.images and turn.role not in ("user", "tool"):
        raise InvalidInput("Only messages of user and tool have images.", param=f"{place}.images")
    if turn.role != "assistant" and (turn.tool_calls or turn.thinking):
        raise InvalidInput("Only an assistant's message has tool_calls and thinking.", param=place)
    calls: list[ToolCall] = []
    for call in turn.tool_calls or ():
        id_ = call.id or f"call_{place[9:-1]}_{len(calls)}"
        waiting.append((call.function.name, id_))
        calls.append(
            ToolCall(
                id=id_,
                name=call.function.name,
                arguments=msgspec.json.encode(call.function.arguments or {}).decode(),
            )
        )
    role: Role = turn.role
    return ChatMessage(
        role=role,
        content=_content(turn.content, turn.images, f"{place}."),
        reasoning=turn.thinking,
        tool_calls=tuple(calls),
        tool_call_id=_answered(turn, place, waiting) if role == "tool" else None,
    )


def _content(
    text: str | None, images: tuple[str, ...] | None, place: str
) -> str | tuple[Part, ...]:
    """Images first, as Ollama shows them to a model."""
    if not images:
        return text or ""
    files = [
        FilePart(kind="image", data=data, place=f"{place}images[{i}]")
        for i, data in enumerate(images)
    ]
    return content_of([*files, *([text] if text else [])])


def _answered(turn: OllamaTurn, place: str, waiting: list[tuple[str, str]]) -> str:
    """The id of the call that a tool's message answers: by its id, its name, or the first one."""
    name = turn.tool_name or turn.name
    for call in waiting:
        if turn.tool_call_id == call[1] or (turn.tool_call_id is None and name in (None, call[0])):
            waiting.remove(call)
            return call[1]
    if turn.tool_call_id is not None:
        return turn.tool_call_id
    raise InvalidInput(f"{place} answers no call of a tool.", param=place)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def model_of(name: str) -> str:
    """Our name of a model that Ollama's clients name.

    `tiny:latest` is `tiny`; what was pulled as `hf.co/ORG/NAME` is NAME in lower case.
    """
    name = name.removesuffix(LATEST)
    if name.startswith(HOSTS):
        return name.rpartition("/")[2].lower()
    return name
