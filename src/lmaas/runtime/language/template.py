"""Chat templates: a conversation as the prompt that a model was trained on.

A template comes with the model and is not trusted: it runs in Jinja's sandbox, without attributes
that reach Python, for a bounded time and with bounded output.
"""

import ctypes
import datetime
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.language import ChatMessage, Tool

RENDER_TIMEOUT_S: Final = 0.5
MAX_PROMPT_CHARS: Final = 16 << 20
MAX_TEMPLATE_CHARS: Final = 1 << 20
LONGEST_TEXT: Final = MAX_PROMPT_CHARS
"""Longest text that one operation may make."""
RESERVED: Final = ("messages", "tools", "add_generation_prompt")


class TooLong(Exception):
    """The time of a rendering is over."""


class Template:
    """One model's chat template."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        import jinja2

        if len(source) > MAX_TEMPLATE_CHARS:
            raise ModelRefused(f"The chat template has more than {MAX_TEMPLATE_CHARS} characters.")
        self.source = source
        self._variables = dict(variables)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            names = environment.parse(source).find_all(jinja2.nodes.Name)
            self._read = frozenset(name.name for name in names if name.ctx == "load")
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelRefused(f"The chat template is not valid: {error}.") from None

    @classmethod
    def load(cls, folder: Path) -> "Template | None":
        """The template of a checkpoint: `chat_template.jinja`, or in tokenizer_config.json."""
        config: dict[str, Any] = {}
        path = folder / "tokenizer_config.json"
        if path.is_file():
            config = json.loads(path.read_text("utf-8"))
        source = config.get("chat_template")
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source}
            source = named.get("default")
        path = folder / "chat_template.jinja"
        if path.is_file():
            source = path.read_text("utf-8")
        if not isinstance(source, str):
            return None
        return cls(
            source, {name: _text_of(config.get(name)) for name in ("bos_token", "eos_token")}
        )

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
        import jinja2

        more = more or {}
        for name in RESERVED:
            if name in more:
                raise InvalidInput(
                    f"The template variable {name!r} is not yours to set.",
                    param="chat_template_kwargs",
                )
        shown = [_shown(message) for message in messages]
        offered = [_offered(tool) for tool in tools] or None
        pieces: list[str] = []
        size = 0
        try:
            with _bounded(RENDER_TIMEOUT_S):
                for piece in self._template.generate(
                    messages=shown,
                    tools=offered,
                    add_generation_prompt=not complete,
                    **self._variables,
                    **more,
                ):
                    size += len(piece)
                    if size > MAX_PROMPT_CHARS:
                        raise InvalidInput("The rendered prompt is too long.", param="messages")
                    pieces.append(piece)
        except TooLong:
            raise InvalidInput(
                f"The model's chat template took longer than {RENDER_TIMEOUT_S:g} s.",
                hint="Send fewer messages, or push the model with another template.",
                param="messages",
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError,
                AttributeError, RecursionError, MemoryError) as error:  # fmt: skip
            raise InvalidInput(
                f"The model's chat template does not take this conversation: "
                f"{str(error)[:300] or type(error).__name__}.",
                param="messages",
            ) from None
        return "".join(pieces)


def _text_of(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _shown(message: ChatMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        shown["name"] = message.name
    if message.reasoning is not None:
        shown["reasoning_content"] = message.reasoning
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        shown["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return shown


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _offered(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _environment() -> Any:
    import jinja2
    from jinja2.compiler import CodeGenerator
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Code(CodeGenerator):
        """Has `~` make its text within bounds."""

        def visit_Concat(self, node: Any, frame: Any) -> None:
            self.write("environment.concatenate((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's sandbox, with a bound on what one operation can make."""

        code_generator_class = Code
        intercepted_binops = frozenset({"*", "**", "%", "+", "<<"})

        def concatenate(self, parts: Sequence[Any]) -> str:
            return _join("", [str(part) for part in parts])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "*":
                for text, times in ((left, right), (right, left)):
                    if isinstance(text, (str, bytes, list, tuple)) and isinstance(times, int):
                        _check_length(len(text) * times)
            elif operator == "+" and isinstance(left, (str, list, tuple)):
                _check_length(len(left) + len(right))
            elif operator in ("**", "<<") or (operator == "%" and isinstance(left, str)):
                raise jinja2.TemplateRuntimeError(f"the operator {operator} is not allowed")
            if isinstance(left, int) and abs(left) > 1 << 256:
                raise jinja2.TemplateRuntimeError("a number is too large")
            return super().call_binop(context, operator, left, right)

        def is_safe_callable(self, obj: Any) -> bool:
            name = getattr(obj, "__name__", "")
            return name not in UNBOUNDED and super().is_safe_callable(obj)

        def call(self, context: Any, called: Any, *args: Any, **named: Any) -> Any:
            text = getattr(called, "__self__", None)
            if isinstance(text, str):
                name = called.__name__
                if name == "replace":
                    return _replace(text, *args)
                if name == "join":
                    return _join(text, list(*args))
            return super().call(context, called, *args, **named)

    class Generation(Extension):
        """`{% generation %}` marks the assistant's part for training; here it only shows it."""

        tags = {"generation"}  # noqa: RUF012 - the library's way of declaring it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateRuntimeError(str(message)[:300])

    def strftime_now(pattern: str) -> str:
        return datetime.datetime.now().strftime(pattern[:100])

    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    for name in ("center", "format", "indent", "wordwrap", "filesizeformat", "pprint", "slice"):
        environment.filters.pop(name, None)
    environment.filters["tojson"] = tojson
    environment.filters["replace"] = _replace
    environment.filters["join"] = lambda parts, by="": _join(by, [str(part) for part in parts])
    environment.globals.pop("lipsum", None)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def _check_length(length: int) -> None:
    if length > LONGEST_TEXT:
        raise ValueError("a text or list is too long")


def _join(by: str, parts: list[str]) -> str:
    _check_length(sum(map(len, parts)) + len(by) * len(parts))
    return by.join(parts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    times = text.count(old) if count is None or count < 0 else count
    _check_length(len(text) + times * len(new))
    return text.replace(old, new, times)


UNBOUNDED: Final = frozenset(
    {"format", "format_map", "center", "ljust", "rjust", "zfill", "expandtabs"}
)
"""Methods of texts that make as much text as a number says."""


class _bounded:
    """Raises TooLong into this thread's own code when the block takes longer than `limit_s`."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def __enter__(self) -> None:
        _watch.begin(threading.get_ident(), self._limit_s)

    def __exit__(self, *_: object) -> None:
        ending = True
        while ending:
            try:
                _watch.disarm()
                ending = False
            except TooLong:
                pass  # it came when the block was over
        _watch.end()


class _Watch:
    """One thread that looks after a rendering that takes long. One rendering at a time.

    What it raises is raised again until the rendering ends: Python drops an exception that comes
    while a finalizer runs. Its locks are plain ones: an exception that another thread raises here
    could leave a lock held whose taking is written in Python.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changing = threading.Lock()
        self._deadline: float | None = None
        self._target = 0
        self._thread: threading.Thread | None = None

    def begin(self, target: int, limit_s: float) -> None:
        """From now on, the thread `target` has `limit_s`."""
        self._turn.acquire()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="template watch", daemon=True)
            self._thread.start()
        with self._changing:
            self._target, self._deadline = target, time.monotonic() + limit_s

    def disarm(self) -> None:
        """Nothing is raised once this returns. Called by the thread of the rendering."""
        with self._changing:
            self._deadline = None
            _raise_in(self._target, None)

    def end(self) -> None:
        """The next rendering may begin."""
        self._turn.release()

    def _run(self) -> None:
        while True:
            time.sleep(RENDER_TIMEOUT_S / 5)
            with self._changing:
                if self._deadline is not None and time.monotonic() > self._deadline:
                    _raise_in(self._target, TooLong)


def _raise_in(thread: int, kind: type[Exception] | None) -> None:
    """Have `thread` raise `kind` soon; None: nothing, whatever it was told before."""
    raised = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_watch = _Watch()
