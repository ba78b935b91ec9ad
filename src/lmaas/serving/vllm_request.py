"""What one model's requests may have when vLLM runs them, and how their answers are read.

vLLM renders the chat template and encodes the text itself, so that text which spells a special
token would become one: such requests are refused by name. What would be refused by our own engines
is refused here before vLLM sees it. Knows no connection.
"""

from pathlib import Path
from typing import Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.generation_types import GenerateRequest, LanguageSpec
from lmaas.runtime.language import schema_grammar, tiles
from lmaas.runtime.language.calls import THINK
from lmaas.runtime.language.pattern_grammar import Unfit
from lmaas.runtime.language.template import RESERVED, Template
from lmaas.runtime.language.tokens import any_of, texts_of

FORBIDDEN: Final = (
    *RESERVED, "chat_template", "tokenize", "continue_final_message", "return_dict", "documents",
    "add_special_tokens", "truncation", "padding", "max_length", "return_tensors",
)  # fmt: skip
"""Template variables that are vLLM's own arguments."""
PARSERS: Final = (
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
)
"""What a chat template writes for a call, and the parser of such calls; the first that fits."""


class AddedToken(msgspec.Struct):
    """A token beside the vocabulary."""

    content: str
    special: bool = False


class TokenizerFile(msgspec.Struct):
    """What is read of tokenizer.json."""

    added_tokens: list[AddedToken] = []


class Requests:
    """The rules of one model, read from its checkpoint. Reading them blocks: use a thread."""

    def __init__(self, folder: Path, spec: LanguageSpec) -> None:
        self._spec = spec
        path = folder / "tokenizer.json"
        read = (
            msgspec.json.decode(path.read_bytes(), type=TokenizerFile)
            if path.is_file()
            else TokenizerFile()
        )
        self._special = any_of(token.content for token in read.added_tokens if token.special)
        template = self._template = Template.load(folder)
        source = template.source if template is not None else ""
        self.parser = next((parser for mark, parser in PARSERS if mark in source), None)
        self._thinks = {
            wanted: spec.reasoning and template is not None and _opens(template, wanted)
            for wanted in (None, True, False)
        }
        if template is not None:
            template.close()  # vLLM renders what is asked

    def thinks(self, request: GenerateRequest) -> bool:
        """Whether the prompt itself opens the model's reasoning."""
        wanted = request.template.get("enable_thinking")
        return bool(request.messages) and self._thinks.get(
            wanted if isinstance(wanted, bool) else None, False
        )

    def reasons(self, request: GenerateRequest) -> bool:
        """Whether the answer may hold reasoning that is to be told apart."""
        return self._spec.reasoning and bool(request.messages)

    def checked(self, request: GenerateRequest) -> GenerateRequest:
        """The request as vLLM is asked. Raises InvalidInput naming what it cannot honour."""
        if request.tool_choice == "none":
            # vLLM would show the model tools that it may not call.
            request = msgspec.structs.replace(request, tools=(), tool_choice="auto")
        self._check_files(request)
        self._check_text(request)
        self._check_tokens(request)
        self._check_chat(request)
        sampling = request.sampling
        if not sampling.ignore_eos:
            stops = tuple(dict.fromkeys((*sampling.stop_token_ids, *self._spec.stop_token_ids)))
            sampling = msgspec.structs.replace(sampling, stop_token_ids=stops)
        return msgspec.structs.replace(request, sampling=sampling)

    def grammar(self, request: GenerateRequest) -> str | None:
        """What the answer keeps to: our rules, as with the other engines, not vLLM's of a schema.

        May take a third of a second. Raises InvalidInput naming what of a schema cannot be kept.
        """
        if request.format is None:
            return None
        try:
            return schema_grammar.grammar(request.format.schema or {"type": "object"})
        except (Unfit, RecursionError) as error:
            raise InvalidInput(
                f"The schema cannot be used: {str(error)[:300]}.", param="response_format"
            ) from None

    def images(self, request: GenerateRequest) -> tuple[GenerateRequest, int]:
        """A request to be counted, without its images, and the tokens that these are.

        vLLM counts an image as the one placeholder that stands for it in the prompt.
        """
        vision = self._spec.vision
        if not request.files or vision is None:
            return request, 0
        messages = tuple(
            msgspec.structs.replace(message, content="\n".join(message.texts))
            if message.files
            else message
            for message in request.messages
        )
        plain = msgspec.structs.replace(request, messages=messages)
        return plain, tiles.most_tokens(vision) * len(request.files)

    def _check_files(self, request: GenerateRequest) -> None:
        for file in request.files:
            if file.kind != "image" or self._spec.vision is None:
                raise InvalidInput(
                    f"{file.place} is of the type {file.kind!r}, which this model does not take.",
                    param=file.place,
                )
            if file.detail not in ("auto", "high"):
                raise InvalidInput(
                    f"The detail {file.detail!r} is not supported by the engine vllm.",
                    hint="Leave it out, or send auto or high.",
                    param=f"{file.place}.detail",
                )

    def _check_text(self, request: GenerateRequest) -> None:
        if self._special is None:
            return
        texts = texts_of(request.messages)
        if isinstance(request.prompt, str):
            texts.append(request.prompt)
        for text in texts:
            found = self._special.search(text)
            if found is not None:
                raise InvalidInput(
                    f"The text spells the special token {found.group()!a}, which the engine vllm "
                    "would read as one.",
                    hint="Leave it out, or have the model served by another engine.",
                    param="messages" if request.messages else "prompt",
                )

    def _check_tokens(self, request: GenerateRequest) -> None:
        prompt = request.prompt if isinstance(request.prompt, tuple) else ()
        for name, tokens in (
            ("logit_bias", request.sampling.logit_bias),
            ("stop_token_ids", request.sampling.stop_token_ids),
            ("prompt", prompt),
        ):
            for token in tokens:
                if not 0 <= token < self._spec.vocabulary_size:
                    raise InvalidInput(
                        f"{name} has the token {token}; the model's are 0 to "
                        f"{self._spec.vocabulary_size - 1}.",
                        param=name,
                    )
        if not request.messages and not request.prompt:
            raise InvalidInput("The prompt is empty.", param="prompt")

    def _check_chat(self, request: GenerateRequest) -> None:
        if request.messages and not self._spec.chat_template:
            raise InvalidInput(
                "This model has no chat template.",
                hint="Use /v1/completions, or push the model with a chat_template.jinja.",
                param="messages",
            )
        if self._template is not None:
            self._template.check_named(request.named)
        for name in FORBIDDEN:
            if name in request.template:
                raise InvalidInput(
                    f"The template variable {name!r} is not yours to set.",
                    param="chat_template_kwargs",
                )
        if request.tools:
            if not self._spec.tools or self.parser is None:
                raise InvalidInput(
                    "This model's chat template takes no tools."
                    if not self._spec.tools
                    else "The engine vllm does not know how this model writes tool calls.",
                    param="tools",
                )
            if request.format is not None:
                raise InvalidInput(
                    "The engine vllm does not combine response_format with tools.",
                    hint="Leave one out, or have the model served by another engine.",
                    param="response_format",
                )


def _opens(template: Template, enable_thinking: bool | None) -> bool:
    """Whether the prompt of a simple conversation ends inside the reasoning."""
    from lmaas.generation_types import ChatMessage

    more = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    try:
        text = template.render([ChatMessage(role="user", content="Hello")], (), more)
    except InvalidInput:
        return False
    return text.rstrip().endswith(THINK)
