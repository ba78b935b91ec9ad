"""The inside of the process that renders chat templates: Jinja as `transformers` sets it up.

A template comes with the model and is not trusted. It runs in Jinja's sandbox, without attributes
that reach Python. How long it takes and how much memory is bounded from outside, so that every
filter and method may be here.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import jinja2
import msgspec
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmaas.runtime.language.helper import serve
from lmaas.runtime.language.template import (
    MAX_PROMPT_CHARS,
    MEMORY_BYTES,
    Loaded,
    Refused,
    Rendered,
    Rendering,
    Sources,
)

MAX_DEPTH: Final = 200
ID_CHARS: Final = 9
_SHORT_ID: Final = re.compile(r"[a-zA-Z0-9]{9}\Z")
ERRORS: Final = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError,
    RecursionError, MemoryError, AssertionError, NameError,
)  # fmt: skip


class Null(str):
    """A content that is null: as text it is empty, and tests find that it is none.

    So templates that ask whether there is a content see what `transformers` shows them, and those
    that only write it do not write "None".
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here it only shows it."""

    tags = {"generation"}  # noqa: RUF012 - the library's way of declaring it

    def parse(self, parser: Any) -> Any:
        """The statements up to the end of the part, wrapped as `transformers` wraps them."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("show"), [], [], body).set_lineno(line)

    def show(self, caller: Callable[[], str]) -> str:
        """What stands inside."""
        return caller()


def environment() -> Any:
    """Jinja's sandbox with the settings, filters and globals that templates are written for."""
    made: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.tests["none"] = lambda value: value is None or isinstance(value, Null)
    for name in ("string", "iterable", "sequence"):
        test: Any = made.tests[name]
        made.tests[name] = partial(_unless_null, test)
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return made


def _unless_null(test: Callable[[Any], bool], value: Any) -> bool:
    return not isinstance(value, Null) and test(value)


def raise_exception(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise jinja2.TemplateError(str(message))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, with the arguments that templates give."""
    text = json.dumps(
        _plain(value), ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # A mark stays as it is, so that the prompt is cut there.
    return re.sub(r"[^\x00-\x7f\ufdd0-\ufdef]", _escaped, text) if ensure_ascii else text


def _escaped(found: "re.Match[str]") -> str:
    return json.dumps(found.group())[1:-1]


def _plain(value: Any) -> Any:
    """The same without `Null`, which JSON would take for a text."""
    if isinstance(value, Null):
        return None
    if isinstance(value, Mapping) and any(isinstance(inner, Null) for inner in value.values()):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        return [_plain(inner) for inner in value]
    return value


class Templates:
    """The templates of one model, compiled: one, or one of its own for conversations with tools."""

    def __init__(self, sources: Sources) -> None:
        jinja = environment()
        self._variables = sources.variables
        self._compiled = {name: jinja.from_string(text) for name, text in sources.texts.items()}
        names = [
            name.name
            for text in sources.texts.values()
            for name in jinja.parse(text).find_all(jinja2.nodes.Name)
            if name.ctx == "load"
        ]
        self.read = frozenset(names)

    def render(self, asked: Rendering) -> str:
        """The prompt. Where the template does not take the conversation as it is, it gets call ids
        of nine characters (Mistral's) and arguments as text (DeepSeek's), too. Raises ERRORS.
        """
        template = self._compiled.get("tool_use" if asked.tools else "default")
        template = template or next(iter(self._compiled.values()))
        first: Exception | None = None
        for messages in _ways(asked.messages):
            try:
                return self._render(template, messages, asked)
            except MemoryError:
                raise
            except ERRORS as error:
                first = first or error
        assert first is not None
        raise first

    def _render(self, template: Any, messages: Sequence[Any], asked: Rendering) -> str:
        pieces: list[str] = []
        size = 0
        shown = {
            "documents": None,
            **self._variables,
            **asked.more,
            "messages": messages,
            "tools": asked.tools or None,
            "add_generation_prompt": asked.add_generation_prompt,
        }
        for piece in template.generate(shown):
            size += len(piece)
            if size > MAX_PROMPT_CHARS:
                raise ValueError("the rendered prompt is too long")
            pieces.append(piece)
        return "".join(pieces)


def _ways(messages: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The conversation as templates may want it; the usual way first."""
    yield [_shown(message) for message in messages]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    ids = [call["id"] for call in calls]
    ids += [message["tool_call_id"] for message in messages if "tool_call_id" in message]
    if not ids:
        return
    if not all(map(_SHORT_ID.match, ids)):
        yield [_shown(message, short=True) for message in messages]
    yield [_shown(message, as_text=True) for message in messages]
    yield [_shown(message, as_text=True, short=True) for message in messages]


def _shown(
    message: dict[str, Any], *, short: bool = False, as_text: bool = False
) -> dict[str, Any]:
    shown = {**message}
    if shown["content"] is None:
        shown["content"] = Null()
    if short and "tool_call_id" in shown:
        shown["tool_call_id"] = _short(shown["tool_call_id"])
    if "tool_calls" in shown:
        shown["tool_calls"] = [
            {
                "id": _short(call["id"]) if short else call["id"],
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": call["arguments"] if as_text else _arguments(call["arguments"]),
                },
            }
            for call in shown["tool_calls"]
        ]
    return shown


def _short(id_: str) -> str:
    """The same nine letters and digits for the same id."""
    return id_ if _SHORT_ID.match(id_) else hashlib.sha256(id_.encode()).hexdigest()[:ID_CHARS]


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


class Service:
    """Answers what `Template` asks."""

    def __init__(self) -> None:
        self._templates: Templates | None = None
        self._asked = msgspec.msgpack.Decoder(Sources | Rendering)

    def answer(self, frame: bytes) -> bytes:
        """What became of a request."""
        told: Loaded | Rendered | Refused
        try:
            asked = self._asked.decode(frame)
            if isinstance(asked, Sources):
                self._templates = Templates(asked)
                told = Loaded(read=tuple(sorted(self._templates.read)))
            else:
                assert self._templates is not None
                told = Rendered(text=self._templates.render(asked))
            return msgspec.msgpack.encode(told)
        except MemoryError:
            problem = f"it takes more than {MEMORY_BYTES >> 20} MiB"
        except (*ERRORS, msgspec.DecodeError) as error:
            problem = str(error)[:300] or type(error).__name__
        return msgspec.msgpack.encode(Refused(problem=problem))


if __name__ == "__main__":
    serve(lambda: Service().answer, MEMORY_BYTES)
