"""The shapes of one line of conversations, and how each becomes messages and tools.

OpenAI's is `{"messages": [...], "tools": [...]}`; ShareGPT's, `{"conversations": [{"from": …,
"value": …}]}`, and Alpaca's, `{"instruction": …, "input": …, "output": …}`, become the same. Knows
no files.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from lmaas.generation_types import ChatMessage, Tool, ToolCall

Text = Annotated[str, Meta(min_length=1)]
T = TypeVar("T")

SAYING_NOTHING: Final = frozenset(
    {
        "id", "_id", "uuid", "idx", "index", "conversation_id", "conversation_hash", "prompt_id",
        "source", "dataset", "data_source", "category", "topic", "domain", "language", "lang",
        "model", "timestamp", "created", "created_at", "date", "url", "tags", "split", "meta",
        "metadata", "hash", "turn", "num_turns",
    }
)  # fmt: skip
"""Fields beside a sample that tell where it is from: they are passed over. Others are refused."""


class ChatPart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message's content; only texts can be learned from."""

    type: Literal["text"]
    text: str


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """What was called, with its arguments: an object, or the JSON text of one."""

    name: Text
    arguments: str | dict[str, Any] = "{}"


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A tool call of the assistant."""

    function: Function
    id: str = ""
    type: Literal["function"] = "function"


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A message. `weight` 0 says that an assistant's turn is not to be learned.

    The fields that are None or empty are those of an answer of OpenAI's API, kept as it came.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ChatPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] = 1
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None


class Offered(msgspec.Struct, forbid_unknown_fields=True):
    """A function that was offered. `strict` binds an engine; what is learned is the same."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Declared(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that was offered."""

    function: Offered
    type: Literal["function"] = "function"


class Chat(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    tools: list[Declared] | None = None
    parallel_tool_calls: bool | None = None


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """A message of ShareGPT."""

    speaker: str = msgspec.field(name="from")
    value: str
    weight: Literal[0, 1] = 1


class ShareGPT(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation of ShareGPT. `tools` are OpenAI's, or their functions alone, or JSON of it."""

    conversations: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    system: str | None = None
    tools: str | list[dict[str, Any]] | None = None


class Alpaca(msgspec.Struct, forbid_unknown_fields=True):
    """An instruction and its answer. `history` are questions and answers before it.

    `text`, which some files have, is the other fields written as one.
    """

    instruction: str
    output: Text
    input: str | None = None
    system: str | None = None
    history: list[tuple[str, str]] | None = None
    text: str | None = None


SPEAKERS: Final = {
    "system": "system",
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "call",
}  # fmt: skip
"""Who ShareGPT's speakers are. A function_call is the assistant's, as JSON."""


def chat_of(given: Chat | ShareGPT | Alpaca) -> Chat:
    """A line of any shape as one of OpenAI's. Raises ValueError that says what is wrong."""
    if isinstance(given, Chat):
        return given
    if isinstance(given, Alpaca):
        asked = "\n\n".join(filter(None, (given.instruction, given.input)))
        before: list[Turn] = []
        for question, answer in given.history or ():
            before.append(Turn(role="user", content=question))
            before.append(Turn(role="assistant", content=answer))
        turns = [*before, Turn(role="user", content=asked)]
        turns.append(Turn(role="assistant", content=given.output))
        return Chat([*_system(given.system), *turns])
    said = [_turn(number, turn) for number, turn in enumerate(given.conversations, 1)]
    return Chat([*_system(given.system), *said], tools=_tools(given.tools))


def message_of(turn: Turn) -> ChatMessage:
    """A message as a template takes it. Raises ValueError that says what is wrong."""
    content = turn.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if not content and not turn.tool_calls and turn.role != "tool":
        raise ValueError(f"a message of the {turn.role} is empty")
    if turn.tool_calls and turn.role != "assistant":
        raise ValueError(f"a message of the {turn.role} has tool calls; only the assistant calls")
    return ChatMessage(
        role="system" if turn.role == "developer" else turn.role,
        content=content or "",
        name=turn.name,
        reasoning=turn.reasoning_content,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=_arguments(call.function))
            for call in turn.tool_calls or ()
        ),
        tool_call_id=turn.tool_call_id,
    )


def tools_of(chat: Chat) -> tuple[Tool, ...]:
    """The tools that were offered. Raises ValueError for a name that no tool can have."""
    try:
        return tuple(
            msgspec.convert(
                {
                    "name": tool.function.name,
                    "description": tool.function.description or "",
                    "parameters": tool.function.parameters or {},
                },
                Tool,
            )
            for tool in chat.tools or ()
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"a tool: {error}") from None


def _system(text: str | None) -> list[Turn]:
    return [Turn(role="system", content=text)] if text else []


def _turn(number: int, given: dict[str, Any]) -> Turn:
    """A turn of ShareGPT, whose files also hold turns as OpenAI has them."""
    where = f"conversations[{number - 1}]"
    if "from" not in given:
        return _converted(given, Turn, where)
    said = _converted(given, Said, where)
    role = SPEAKERS.get(said.speaker.lower())
    if role is None:
        known = ", ".join(SPEAKERS)
        raise ValueError(f"{where} is from {said.speaker[:40]!r}; known are {known}")
    if role != "call":
        return msgspec.convert({"role": role, "content": said.value, "weight": said.weight}, Turn)
    try:
        calls = msgspec.json.decode(said.value, type=Function | list[Function])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{where} is no call as JSON: {error}") from None
    made = calls if isinstance(calls, list) else [calls]
    return Turn(role="assistant", tool_calls=[Call(each) for each in made], weight=said.weight)


def _tools(given: str | list[dict[str, Any]] | None) -> list[Declared] | None:
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given, type=list[dict[str, Any]]) if given.strip() else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"tools are no JSON list: {error}") from None
    return [
        _converted(tool, Declared, "a tool")
        if "function" in tool
        else Declared(_converted(tool, Offered, "a tool"))
        for tool in given or ()
    ] or None


def _converted(given: dict[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(given, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None


def _arguments(function: Function) -> str:
    """The arguments as JSON text. Raises ValueError for a text that is no object."""
    given = function.arguments
    if not isinstance(given, str):
        return msgspec.json.encode(given).decode()
    try:
        msgspec.json.decode(given or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the arguments of {function.name} are no JSON object: {error}") from None
    return given or "{}"
