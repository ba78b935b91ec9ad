"""What a sequence may write next, so that its text fits a JSON schema or calls its tools.

llguidance reads the text as it grows and tells the tokens that fit. It bounds its own work, and a
grammar that it cannot take is refused before anything runs.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lmaas.errors import InvalidInput, MissingExtra
from lmaas.runtime.language.calls import CALL, END_CALL, END_THINK, THINK
from lmaas.runtime.language.engine import Grammar

REMEMBERED: Final = 64
ANY_OBJECT: Final = '{"type": "object"}'
JSON_OPTIONS: Final = {"lenient": False, "whitespace_pattern": r"[\x20\x0A]{1,16}"}
"""Nothing in a schema is passed over, and a model cannot write blanks without end."""
CALL_OPTIONS: Final = {
    "lenient": False,
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""Calls are written as chat templates write them."""


class Grammars:
    """Compiles grammars for one model's tokenizer, in `folder`; `stop_ids` end its texts."""

    def __init__(self, folder: Path, vocabulary_size: int, stop_ids: Sequence[int]) -> None:
        self._file = folder / "tokenizer.json"
        self._vocabulary_size = vocabulary_size
        self._stop_ids = [stop for stop in stop_ids if stop < vocabulary_size]
        self._tokenizer: Any = None
        self._added: dict[int, str] = {}
        self._known: OrderedDict[Grammar, Any] = OrderedDict()

    def matcher(self, grammar: Grammar) -> "Matcher":
        """One sequence's matcher. Raises InvalidInput for a grammar that cannot be used."""
        if grammar not in self._known:
            self._known[grammar] = self._compile(grammar)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(grammar)
        return Matcher(self._known[grammar].deep_copy(), self._vocabulary_size)

    def _compile(self, grammar: Grammar) -> Any:
        param = "tools" if grammar.kind == "tools" else "response_format"
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise MissingExtra(
                "Structured output with the engine torch needs the package llguidance.",
                hint="pip install 'lmaas[language]'",
            ) from None
        self._read_tokenizer(param)
        text = self._text(grammar, param)
        matcher = LLMatcher(self._tokenizer, text, log_level=0)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _refused(matcher.get_error(), param)
        if matcher.is_stopped() and not matcher.is_accepting():
            raise _refused("no text fits it", param)
        return matcher

    def _read_tokenizer(self, param: str) -> None:
        from llguidance import LLTokenizer

        if self._tokenizer is not None:
            return
        try:
            raw = json.loads(self._file.read_bytes())
            # Nobody's text is cut or filled up here.
            raw["padding"] = raw["truncation"] = None
            self._tokenizer = LLTokenizer(
                json.dumps(raw), n_vocab=self._vocabulary_size, eos_token=self._stop_ids or None
            )
        except (OSError, ValueError) as error:
            raise InvalidInput(
                "Structured output is not possible with this model: its tokenizer.json cannot be "
                f"used: {_gist(str(error))}.",
                param=param,
            ) from error
        self._added = {
            token["id"]: token["content"]
            for token in raw.get("added_tokens", ())
            if not token["special"]
        }

    def _text(self, grammar: Grammar, param: str) -> str:
        """The grammar in Lark's notation, as llguidance extends it."""
        if grammar.kind == "tools":
            body, rules = self._tools(json.loads(grammar.text))
        else:
            schema = json.loads(grammar.text or ANY_OBJECT)
            if not isinstance(schema, dict):
                raise _refused("it must be a JSON object", param)
            body, rules = "json", [f"json: {_json_rule(schema)}"]
        if grammar.reasoning != "none":
            rules += [
                *self._thought(),
                'blanks: "\\n" "\\n" | "\\n" | ""',
                f"answer: {body}",
            ]
            body = "thought blanks answer"
            if grammar.reasoning == "may":
                body = f"answer | {self._tag(THINK) or json.dumps(THINK)} {body}"
        return "\n".join(["%llguidance {}", f"start: {body}", *rules])

    def _tools(self, wanted: dict[str, Any]) -> tuple[str, list[str]]:
        """What stands at the start, and the rules of all else."""
        kinds = [f"call_{position}" for position in range(len(wanted["tools"]))]
        rules = [
            f"{kind}: {_call_rule(tool)}" for kind, tool in zip(kinds, wanted["tools"], strict=True)
        ]
        begin, end = self._tag(CALL), self._tag(END_CALL)
        rules += [
            f"call: {begin or json.dumps(CALL)} inside",
            f'inside: "\\n" ({" | ".join(kinds)}) "\\n" {end or json.dumps(END_CALL)}',
        ]
        start = 'call ("\\n" call)*' if wanted["parallel"] else "call"
        if wanted["required"]:
            return start, rules
        if wanted["schema"] is not None:
            return f"{start} | json", [*rules, f"json: {_json_rule(wanted['schema'])}"]
        # Text goes up to a tag: a token of its own, or spelled (then matched lazily).
        rules += [
            f"free_call: {'free ' + begin if begin else 'head'} inside",
            f"free: (TEXT{self._tokens_but(CALL, END_CALL)})*",
            "TEXT: /(.|\\n)+/",
        ]
        if begin is None:
            rules.append(f"head[lazy]: /(.|\\n)*/ {json.dumps(CALL)}")
        return "(free_call)* free" if wanted["parallel"] else "free_call | free", rules

    def _thought(self) -> list[str]:
        """The rules of what is thought, to its end tag."""
        end = self._tag(END_THINK)
        if end is None:
            return [f"thought[lazy]: /(.|\\n)*/ {json.dumps(END_THINK)}"]
        others = self._tokens_but(END_THINK)
        return [f"thought: (THOUGHT{others})* {end}", "THOUGHT: /(.|\\n)+/"]

    def _tokens_but(self, *texts: str) -> str:
        """Further choices beside a text: tokens that no text matches."""
        return "".join(
            f" | <[{token}]>"
            for token, text in self._added.items()
            if text not in texts and self._is_special(token)
        )

    def _tag(self, text: str) -> str | None:
        """How a grammar names the special token that is spelled so; None: it is plain text."""
        tokens = self._tokenizer.tokenize_str(text, parse_special=True)
        return f"<[{tokens[0]}]>" if len(tokens) == 1 and self._is_special(tokens[0]) else None

    def _is_special(self, token: int) -> bool:
        return bool(self._tokenizer.is_special_token(token))


class Matcher:
    """Follows one sequence's text."""

    def __init__(self, matcher: Any, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size

    def allowed(self, device: Any) -> Any:
        """Which tokens may come next: (V) of bool, on `device`."""
        import torch

        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = packed.to(device)[:, None] >> torch.arange(8, device=device, dtype=torch.uint8)
        mask = (bits & 1).bool().flatten()[: self._vocabulary_size]
        short = self._vocabulary_size - len(mask)
        return torch.nn.functional.pad(mask, (0, short)) if short else mask

    def take(self, token: int) -> bool:
        """Note the next token; whether the text is over.

        It is over, too, where the rest would need more work than the matcher's bounds allow.
        """
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


def _json_rule(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}"


def _call_rule(tool: dict[str, Any]) -> str:
    """A call of a tool. Its parameters stay a schema of their own, in which `$ref` is at home."""
    begin = f'{{"name": {json.dumps(tool["name"])}, "arguments": '
    schema = {**(tool["parameters"] or {"type": "object"}), "x-guidance": CALL_OPTIONS}
    return f'{json.dumps(begin)} %json {json.dumps(schema)} "}}"'


def _refused(problem: str, param: str) -> InvalidInput:
    return InvalidInput(f"The schema cannot be used: {_gist(problem)}.", param=param)


def _gist(problem: str) -> str:
    return " ".join(problem.partition("<state>")[0].split())[:300].rstrip(".")
