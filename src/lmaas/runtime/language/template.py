"""Chat templates: a conversation as the prompt that a model was trained on.

A template comes with the model and is not trusted: another process renders it, with a bound on time
and memory (`runtime.language.template_helper`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.generation_types import ChatMessage, Part, TextPart, Tool
from lmaas.runtime.language.helper import Died, Helper, Slow

RENDER_TIMEOUT_S: Final = 0.5
PATIENCE_S: Final = 4.0
"""On a busy machine, while the rendering itself has worked for less than its time."""
MAX_PROMPT_CHARS: Final = 16 << 20
MAX_TEMPLATE_CHARS: Final = 1 << 20
MEMORY_BYTES: Final = 256 << 20
"""What a rendering may take beside what its process has at its beginning."""
RESERVED: Final = ("messages", "tools", "add_generation_prompt")
PROBE: Final = "Is this text shown?"
HELPER: Final = "lmaas.runtime.language.template_helper"
NAMED_TOKENS: Final = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)


class Sources(msgspec.Struct, tag=True):
    """The templates of a model by their names, and the variables that are always set."""

    texts: dict[str, str]
    variables: dict[str, str]


class Rendering(msgspec.Struct, tag=True):
    """A conversation to be rendered; calls have their arguments as text."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    more: dict[str, Any]
    add_generation_prompt: bool


class Loaded(msgspec.Struct, tag=True):
    """The templates are compiled; they read these variables."""

    read: tuple[str, ...]


class Rendered(msgspec.Struct, tag=True):
    """The prompt."""

    text: str


class Refused(msgspec.Struct, tag=True):
    """What is wrong with the template, or with the conversation for it."""

    problem: str


_told = msgspec.msgpack.Decoder(Loaded | Rendered | Refused)


class Template:
    """The chat template of one model: one text, or several by their names."""

    def __init__(self, source: str | Mapping[str, str], variables: Mapping[str, str]) -> None:
        texts = {"default": source} if isinstance(source, str) else dict(source)
        if sum(map(len, texts.values())) > MAX_TEMPLATE_CHARS:
            raise ModelRefused(f"The chat template has more than {MAX_TEMPLATE_CHARS} characters.")
        self.source = "\n".join(texts.values())
        """All of its texts."""
        sources = msgspec.msgpack.encode(Sources(texts, dict(variables)))
        self._helper = Helper(HELPER, first=sources)
        try:
            told = _told.decode(self._helper.begin())
        except (Slow, Died):
            raise ModelRefused("The chat template cannot be read within its bounds.") from None
        if isinstance(told, Refused):
            raise ModelRefused(f"The chat template is not valid: {told.problem}.")
        assert isinstance(told, Loaded)
        self._read = frozenset(told.read)

    @classmethod
    def load(cls, folder: Path) -> "Template | None":
        """The template of a checkpoint, from where its library finds it: `chat_template.jinja` and
        those beside it, or tokenizer_config.json, as one text or as a list of named ones.
        """
        config = _json_of(folder / "tokenizer_config.json")
        texts: dict[str, str] = {}
        given = config.get("chat_template")
        if isinstance(given, str):
            texts["default"] = given
        elif isinstance(given, list):
            for entry in given:
                if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                    texts[str(entry.get("name"))] = entry["template"]
        path = folder / "chat_template.jinja"
        if path.is_file():
            texts = {"default": path.read_text("utf-8")}
            for more in sorted((folder / "additional_chat_templates").glob("*.jinja")):
                texts[more.stem] = more.read_text("utf-8")
        texts = {name: text for name, text in texts.items() if name in ("default", "tool_use")}
        if not texts:
            return None
        return cls(texts, named_tokens(folder, config))

    @property
    def takes_tools(self) -> bool:
        """Whether it reads the tools that it is given."""
        return "tools" in self._read

    def check_named(self, names: Sequence[str]) -> None:
        """Raise InvalidInput for a variable that the template reads nowhere."""
        for name in names:
            if name not in self._read and name not in RESERVED:
                raise InvalidInput(
                    f"The model's chat template has no variable {name[:100]!r}.",
                    hint="Leave it out.",
                    param="chat_template_kwargs",
                )

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        more: Mapping[str, Any] | None = None,
        *,
        complete: bool = False,
    ) -> str:
        """The prompt, ending where the assistant's turn begins; `complete`: without that beginning.

        Raises InvalidInput when the template refuses the conversation or passes its bounds.
        """
        more = dict(more or {})
        for name in RESERVED:
            if name in more:
                raise InvalidInput(
                    f"The template variable {name!r} is not yours to set.",
                    param="chat_template_kwargs",
                )
        asked = Rendering(
            [_told_of(message) for message in messages],
            [_offered(tool) for tool in tools],
            more,
            not complete,
        )
        try:
            frame = msgspec.msgpack.encode(asked)
        except (OverflowError, RecursionError, TypeError) as error:
            raise _refused(str(error)) from None
        try:
            answer = self._helper.ask(frame, limit_s=RENDER_TIMEOUT_S, patience_s=PATIENCE_S)
        except Slow:
            self._helper.renew()
            raise InvalidInput(
                f"The model's chat template took longer than {RENDER_TIMEOUT_S:g} s.",
                hint="Send fewer messages, or push the model with another template.",
                param="messages",
            ) from None
        except Died:
            self._helper.renew()
            raise _refused("it ends the process that renders it") from None
        told = _told.decode(answer)
        if isinstance(told, Refused):
            raise _refused(told.problem)
        assert isinstance(told, Rendered)
        return told.text

    def wants_parts(self) -> bool:
        """Whether it shows the text of a message that has parts, and not that of a plain one."""
        plain = ChatMessage(role="user", content=PROBE)
        parts = ChatMessage(role="user", content=(TextPart(text=PROBE),))
        return self._shows(parts) and not self._shows(plain)

    def _shows(self, message: ChatMessage) -> bool:
        try:
            return PROBE in self.render([message])
        except InvalidInput:
            return False

    def close(self) -> None:
        """End the process that renders."""
        self._helper.close()


def _refused(problem: str) -> InvalidInput:
    return InvalidInput(
        f"The model's chat template does not take this conversation: {problem}.", param="messages"
    )


def named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a checkpoint names: `bos_token` and others, as templates see them."""
    older = _json_of(folder / "special_tokens_map.json")
    found = {name: _text_of(config.get(name, older.get(name))) for name in NAMED_TOKENS}
    return {name: text for name, text in found.items() if text is not None}


def _json_of(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _text_of(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _told_of(message: ChatMessage) -> dict[str, Any]:
    """A message with the names that templates know; calls still as they are."""
    content: Any = message.content
    if isinstance(content, tuple):
        content = [_told_of_part(part) for part in content]
    told: dict[str, Any] = {"role": message.role, "content": content}
    if message.name is not None:
        told["name"] = message.name
    if message.reasoning is not None:
        told["reasoning_content"] = message.reasoning
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]
    return told


def _told_of_part(part: Part) -> dict[str, Any]:
    """A part as templates of models for images and audio know it: a file is its kind alone."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": part.kind}


def _offered(tool: Tool) -> dict[str, Any]:
    """A tool as clients write it; what they did not say is left out."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}
