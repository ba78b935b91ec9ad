"""Requests over an engine: prompts rendered and bounded, sequences run, answers written.

Knows no socket: the worker gives it requests and sends what it returns. One thread calls it.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from lmaas.errors import ContextLengthExceeded, InvalidInput
from lmaas.generation_types import (
    ChatMessage,
    Delta,
    Ended,
    FilePart,
    GenerateRequest,
    LanguageSpec,
    TextPart,
    TokenLogprob,
    Usage,
)
from lmaas.runtime.language.calls import CALL, END_CALL, END_THINK, THINK
from lmaas.runtime.language.engine import (
    Grammar,
    LanguageEngine,
    Output,
    Scores,
    TokenSampling,
)
from lmaas.runtime.language.pictures import Picture, Pictures
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.text import Writer
from lmaas.runtime.language.tokens import Tokens, free_mark, texts_of

Reasoning = Literal["none", "opened", "may"]


class Prepared(msgspec.Struct, kw_only=True, frozen=True):
    """A request as the engine takes it. `thinking`: the prompt has opened the reasoning.

    `prompt` has the placeholders of all images, whose rows are `pictures`.
    """

    request: GenerateRequest
    prompt: tuple[int, ...]
    sampling: TokenSampling
    pictures: tuple[Picture, ...] = ()
    thinking: bool = False


class Running(msgspec.Struct, kw_only=True, eq=False):
    """A request with its answers; `sequences` are those that still run."""

    id: int
    prepared: Prepared
    writers: list[Writer]
    sequences: dict[int, int]
    began: bool = False
    kept: list[Delta] = msgspec.field(default_factory=list)
    scoring: Scores | None = None
    prompt_logprobs: list[TokenLogprob] = msgspec.field(default_factory=list)

    def ended(self) -> Ended:
        """The end of the request, as it stands."""
        usage = Usage(
            len(self.prepared.prompt),
            sum(writer.made for writer in self.writers),
            sum(writer.reasoned for writer in self.writers),
        )
        return Ended(usage, tuple(self.kept), tuple(self.prompt_logprobs))


class Step(msgspec.Struct, kw_only=True):
    """What one step of the model brought."""

    began: list[tuple[int, int]] = msgspec.field(default_factory=list)
    parts: list[tuple[int, Delta]] = msgspec.field(default_factory=list)
    ended: list[tuple[int, Ended]] = msgspec.field(default_factory=list)
    failed: list[tuple[int, BaseException]] = msgspec.field(default_factory=list)


class Session:
    """A model run by `engine`, which is loaded already, with its tokenizer and chat template."""

    def __init__(
        self,
        engine: LanguageEngine,
        tokens: Tokens,
        template: Template | None,
        spec: LanguageSpec,
        context_length: int,
        pictures: Pictures | None = None,
    ) -> None:
        self._engine = engine
        self._pictures = pictures
        self._parts: bool | None = None
        self._spec = spec
        self._context = context_length
        self._tokens = tokens
        self._template = template
        self._hidden = frozenset(
            token
            for token in self._tokens.special
            if self._tokens.text_of(token) not in (CALL, END_CALL, THINK, END_THINK)
        )
        self._ids = itertools.count(1)
        self._running: dict[int, Running] = {}
        self._of_sequence: dict[int, Running] = {}
        self._only_prompts: list[Running] = []
        self._scoring: list[Running] = []

    def __len__(self) -> int:
        return len(self._running)

    def ids(self) -> list[int]:
        """The requests that run."""
        return list(self._running)

    # Into the engine

    def prepare(
        self, request: GenerateRequest, wanted: Callable[[], bool] = lambda: True
    ) -> Prepared:
        """Render and encode a request, and see its images, as long as it is `wanted`.

        Thread-safe for requests without files; those with files take one thread. Raises
        InvalidInput.
        """
        thinking = False
        reasoning: Reasoning = "none"
        self._check_files(request.files)
        if request.messages:
            text, mark = self._render(request)
            self._check_prompt(self._tokens.at_least(text), request)
            prompt = self._with_places(self._tokens.encode_prompt(text, mark), request)
            thinking = self._spec.reasoning and text.rstrip().endswith(THINK)
            reasoning = "opened" if thinking else self._may_reason(text)
        elif isinstance(request.prompt, str):
            self._check_prompt(self._tokens.at_least(request.prompt), request)
            prompt = self._tokens.encode(request.prompt, add_special=True)
        else:
            prompt = list(request.prompt or ())
            self._check_ids(prompt)
        sampling = self._sampling(request, len(prompt), reasoning)
        return Prepared(
            request=request,
            prompt=tuple(prompt),
            sampling=sampling,
            pictures=() if request.count_only else self._seen(request.files, wanted),
            thinking=thinking,
        )

    def _check_files(self, files: Sequence[FilePart]) -> None:
        for file in files:
            if self._pictures is None or file.kind != "image":
                raise InvalidInput(
                    f"{file.place} is of the type {file.kind!r}, which this model does not take "
                    f"where the engine {self._engine.name} runs it.",
                    param=file.place,
                )

    def _with_places(self, ids: list[int], request: GenerateRequest) -> list[int]:
        """The prompt with as many placeholders for each image as it has tokens.

        The only ones that are there come from the template, one for each image: what a caller
        spells is none.
        """
        files = request.files
        if self._pictures is None:
            return ids
        placeholder = self._pictures.spec.token_id
        if ids.count(placeholder) != len(files):
            raise InvalidInput(
                f"The model's chat template shows {ids.count(placeholder)} of the {len(files)} "
                "images.",
                hint="Put the images into messages of the user.",
                param=files[0].place if files else "messages",
            )
        sizes = map(self._pictures.count, files)
        told: list[int] = []
        for id_ in ids:
            told += [id_] * next(sizes) if id_ == placeholder else [id_]
        return told

    def _seen(self, files: Sequence[FilePart], wanted: Callable[[], bool]) -> tuple[Picture, ...]:
        seen: list[Picture] = []
        for file in files:
            if not wanted():
                break
            assert self._pictures is not None
            seen.append(self._pictures.read(file))
        return tuple(seen)

    def begin(self, id_: int, prepared: Prepared) -> None:
        """Run it. Raises InvalidInput; then nothing runs."""
        request = prepared.request
        writers = [
            Writer(
                index,
                self._tokens,
                stream=request.stream,
                stops=request.sampling.stop,
                reasoning=self._spec.reasoning and bool(request.messages),
                thinking=prepared.thinking,
                tools=bool(request.tools) and request.tool_choice != "none",
                formatted=request.format is not None or request.tool_choice != "auto",
                hidden=self._hidden,
                before=() if request.messages else prepared.prompt,
            )
            for index in range(request.choices)
        ]
        running = Running(id=id_, prepared=prepared, writers=writers, sequences={})
        if request.prompt_logprobs is None:
            self._go(running)
        else:
            running.scoring = self._engine.score(prepared.prompt, request.prompt_logprobs)
            self._scoring.append(running)
        self._running[id_] = running

    def _go(self, running: Running) -> None:
        """Begin what it wants to be written. Raises InvalidInput; then nothing runs."""
        prepared = running.prepared
        if not prepared.sampling.max_tokens:
            self._only_prompts.append(running)
            return
        try:
            for index in range(prepared.request.choices):
                sampling = prepared.sampling
                if sampling.seed is not None and index:
                    sampling = msgspec.structs.replace(sampling, seed=sampling.seed + index)
                sequence = next(self._ids)
                self._engine.add(sequence, prepared.prompt, sampling, prepared.pictures)
                running.sequences[sequence] = index
            # The engine has them: they are not held any longer than it needs them.
            running.prepared = msgspec.structs.replace(prepared, pictures=())
        except BaseException:
            for sequence in running.sequences:
                self._engine.cancel(sequence)
            raise
        self._of_sequence.update(dict.fromkeys(running.sequences, running))

    def cancel(self, id_: int) -> Ended | None:
        """Stop a request; what it used so far. None when it is not running."""
        running = self._running.pop(id_, None)
        if running is None:
            return None
        if running.scoring is not None:
            self._stop_scoring(running)
        for sequence in running.sequences:
            del self._of_sequence[sequence]
            self._engine.cancel(sequence)
        return running.ended()

    def _render(self, request: GenerateRequest) -> tuple[str, str]:
        if self._template is None:
            raise InvalidInput(
                "This model has no chat template.",
                hint="Use /v1/completions, or push the model with a chat_template.jinja.",
                param="messages",
            )
        tools = () if request.tool_choice == "none" else request.tools
        if tools and not (self._spec.tools or self._template.takes_tools):
            raise InvalidInput("This model's chat template takes no tools.", param="tools")
        self._template.check_named(request.named)
        asked = self._tokens.guard_chat(request.messages, tools, request.template)
        if not request.continued:
            messages = self._shaped(asked.messages)
            return self._template.render(messages, asked.tools, asked.more), asked.mark
        # What a template puts after a turn is cut off: the turn goes on.
        messages = list(asked.messages)
        end = free_mark(texts_of(messages))
        begun = "\n".join(messages[-1].texts) + end
        messages[-1] = msgspec.structs.replace(messages[-1], content=begun)
        text = self._template.render(self._shaped(messages), asked.tools, asked.more, complete=True)
        place = text.rfind(end)
        if place < 0:
            raise InvalidInput(
                "This model's chat template does not show the answer that is begun.",
                hint="End with a message of the user.",
                param="messages",
            )
        return text[:place], asked.mark

    def _shaped(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The messages as the template reads them: some read parts only, and drop a text."""
        if self._pictures is None or self._template is None:
            return list(messages)
        if self._parts is None:
            self._parts = self._template.wants_parts()
        if not self._parts:
            return list(messages)
        return [
            msgspec.structs.replace(message, content=(TextPart(text=message.content),))
            if isinstance(message.content, str)
            else message
            for message in messages
        ]

    def _may_reason(self, prompt: str) -> Reasoning:
        """Whether a model that has learned to think first may do so before a structured answer."""
        assert self._template is not None
        learned = self._spec.reasoning and THINK in self._template.source
        return "may" if learned and not prompt.rstrip().endswith(END_THINK) else "none"

    def _sampling(
        self, request: GenerateRequest, prompt: int, reasoning: Reasoning
    ) -> TokenSampling:
        given = request.sampling
        self._check_length(prompt, request)
        for token in given.logit_bias:
            if not 0 <= token < self._spec.vocabulary_size:
                raise InvalidInput(
                    f"logit_bias has the token {token}; the model's are 0 to "
                    f"{self._spec.vocabulary_size - 1}.",
                    param="logit_bias",
                )
        for token in given.stop_token_ids:
            if not 0 <= token < self._spec.vocabulary_size:
                raise InvalidInput(
                    f"stop_token_ids has the token {token}; the model's are 0 to "
                    f"{self._spec.vocabulary_size - 1}.",
                    param="stop_token_ids",
                )
        room = self._context - prompt
        stops = () if given.ignore_eos else self._spec.stop_token_ids
        return TokenSampling(
            max_tokens=self._most(room, request),
            min_tokens=given.min_tokens,
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=given.top_k,
            min_p=given.min_p,
            presence_penalty=given.presence_penalty,
            frequency_penalty=given.frequency_penalty,
            repetition_penalty=given.repetition_penalty,
            seed=given.seed,
            stop_token_ids=tuple({*stops, *given.stop_token_ids}),
            logit_bias=given.logit_bias,
            logprobs=given.logprobs,
            grammar=grammar_of(request, reasoning),
        )

    def _most(self, room: int, request: GenerateRequest) -> int:
        """How many tokens the answer may have. After a conversation, what fits is the ceiling."""
        wanted = request.sampling.max_tokens
        if wanted is None:
            return room
        return min(wanted, room) if request.messages else wanted

    def _check_prompt(self, least: int, request: GenerateRequest) -> None:
        """Refuse what is too long however it is encoded, before time is spent on it."""
        if least >= self._context:
            raise ContextLengthExceeded(
                f"The model's context is {self._context} tokens; the prompt has at least {least}.",
                hint="Shorten the prompt.",
                param="messages" if request.messages else "prompt",
            )

    def _check_ids(self, prompt: Sequence[int]) -> None:
        size = self._spec.vocabulary_size
        if prompt and not 0 <= min(prompt) <= max(prompt) < size:
            raise InvalidInput(
                f"The prompt must hold token ids from 0 to {size - 1}.", param="prompt"
            )
        if self._pictures is not None and self._pictures.spec.token_id in prompt:
            raise InvalidInput(
                f"The token {self._pictures.spec.token_id} stands for an image, which a prompt "
                "has not.",
                hint="Send messages with images.",
                param="prompt",
            )

    def _check_length(self, prompt: int, request: GenerateRequest) -> None:
        if prompt < 1 and not request.messages and not request.prompt:
            raise InvalidInput("The prompt is empty.", param="prompt")
        most = request.sampling.max_tokens
        wanted = prompt + (1 if most is None or (most and request.messages) else most)
        if wanted > self._context:
            raise ContextLengthExceeded(
                f"The model's context is {self._context} tokens; the request needs {wanted}: "
                f"{prompt} in the prompt and {wanted - prompt} for the answer.",
                hint="Shorten the prompt, or ask for fewer tokens.",
                param="messages" if request.messages else "prompt",
            )

    # Out of the engine

    def step(self) -> Step:
        """Run the model once. What goes wrong about one request ends that request alone."""
        step = Step()
        if self._scoring:
            self._score(self._scoring[0], step)
        while self._only_prompts:
            over = self._only_prompts.pop()
            try:
                self._end_prompt(over, step)
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
                step.failed.append((over.id, error))
        for output in self._engine.step() if self._engine.busy() else ():
            running = self._of_sequence.get(output.sequence)
            if running is None:
                continue
            try:
                self._take(running, output, step)
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
                self.cancel(running.id)
                step.failed.append((running.id, error))
        return step

    def _take(self, running: Running, output: Output, step: Step) -> None:
        """What one sequence gained. What is raised here is this request's alone."""
        if output.error is not None:
            raise output.error
        if not running.began:
            running.began = True
            step.began.append((running.id, len(running.prepared.prompt)))
            self._echo(running, step)
        writer = running.writers[running.sequences[output.sequence]]
        delta = writer.feed(output.tokens, output.scores)
        if output.finish or writer.stopped:
            if not output.finish:
                self._engine.cancel(output.sequence)
            if delta is not None:
                self._give(running, delta, step)
            self._give(running, writer.end(output.finish or "stop"), step)
            del self._of_sequence[output.sequence], running.sequences[output.sequence]
        elif delta is not None:
            self._give(running, delta, step)
        if not running.sequences:
            del self._running[running.id]
            step.ended.append((running.id, running.ended()))

    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scoring or self._only_prompts) or self._engine.busy()

    def _score(self, running: Running, step: Step) -> None:
        """One more piece of the scores of a prompt; then its answer begins."""
        assert running.scoring is not None
        try:
            piece = next(running.scoring, None)
            if piece is None:
                self._stop_scoring(running)
                self._go(running)
                return
            for score in piece:
                token = running.prepared.prompt[len(running.prompt_logprobs)]
                first = all(entry.raw is None for entry in running.prompt_logprobs)
                told = self._tokens.scored(token, score, hidden=self._tokens.special, first=first)
                running.prompt_logprobs.append(told)
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one request
            self.cancel(running.id)
            step.failed.append((running.id, error))

    def _stop_scoring(self, running: Running) -> None:
        if running.scoring is not None:
            running.scoring.close()
            running.scoring = None
            self._scoring.remove(running)

    def _end_prompt(self, running: Running, step: Step) -> None:
        """End a request that wants no token."""
        if self._running.pop(running.id, None) is None:
            return
        step.began.append((running.id, len(running.prepared.prompt)))
        self._echo(running, step)
        for writer in running.writers:
            self._give(running, writer.end("length"), step)
        step.ended.append((running.id, running.ended()))

    def _echo(self, running: Running, step: Step) -> None:
        request = running.prepared.request
        if not request.echo:
            return
        text = request.prompt
        if not isinstance(text, str):
            text = self._tokens.decode(running.prepared.prompt)
        for index in range(request.choices):
            self._give(running, Delta(index, text), step)

    def _give(self, running: Running, delta: Delta, step: Step) -> None:
        if running.prepared.request.stream:
            step.parts.append((running.id, delta))
        else:
            running.kept.append(delta)


def grammar_of(request: GenerateRequest, reasoning: Reasoning = "none") -> Grammar | None:
    """What the answer's text must fit after the `reasoning`; None where it is free."""
    choice, format_ = request.tool_choice, request.format
    text = ""
    if format_ is not None and format_.kind == "json_schema":
        text = json.dumps(format_.schema)
    if not request.tools or choice == "none":
        if format_ is None:
            return None
        return Grammar(kind=format_.kind, text=text, reasoning=reasoning)
    wanted = [t for t in request.tools if not choice.startswith("=") or t.name == choice[1:]]
    schema = format_.schema if text else {"type": "object"}  # type: ignore[union-attr]
    told = {
        "required": choice != "auto",
        "parallel": request.parallel_tool_calls and not choice.startswith("="),
        "tools": [{"name": tool.name, "parameters": tool.parameters} for tool in wanted],
        "schema": None if format_ is None else schema,
    }
    return Grammar(kind="tools", text=json.dumps(told), reasoning=reasoning)
