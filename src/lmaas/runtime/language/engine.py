"""The contract of a language engine: token ids and files in, token ids out, many at once.

An engine knows no text, no requests and no protocols: `runtime.language.session` turns requests
into sequences and tokens into text. Every engine passes the kit in tests/conformance.
"""

import importlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

import msgspec

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import Finish, LanguageSpec
from lmaas.runtime.engine_spec import MIB, EngineMemory, EngineSpec
from lmaas.types import Precision, Record

if TYPE_CHECKING:
    from lmaas.runtime.language.pictures import Picture


class EngineOptions(Record, frozen=True, kw_only=True):
    """How a model is run. `threads` 0 means all cores; `lookup` is prompt lookup decoding's number
    of guessed tokens (0: off); `draft` is the folder of a draft model for speculative decoding.
    `exact_cache` keeps keys and values in the precision of the products, to measure by."""

    precision: Precision
    threads: int = 0
    cache_bytes: int = 0
    max_sequences: int = 64
    lookup: int = 0
    draft: str | None = None
    exact_cache: bool = False


class Grammar(Record, frozen=True, kw_only=True):
    """What a sequence's text must fit.

    "json_object": any JSON object. "json_schema": `text` is the schema. "tools": `text` is JSON
    `{"required": bool, "parallel": bool, "tools": [{"name", "parameters"}], "schema"}`: calls are
    written `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>` and their arguments fit the
    tool's schema. There is but one of them unless `parallel`. With `required` there is nothing but
    calls; with a `schema` that is not null there are calls, or else a text that fits it.

    `reasoning` is what may stand before it: nothing, the rest of a reasoning that the prompt has
    "opened", or a whole one that "may" be there. It goes to the first `</think>`.
    """

    kind: Literal["json_object", "json_schema", "tools"]
    text: str
    reasoning: Literal["none", "opened", "may"] = "none"


class TokenSampling(Record, frozen=True, kw_only=True):
    """How one sequence is continued; the meaning of each field is `language.Sampling`'s.

    `max_tokens` is always set and fits the context. `logprobs`: None, or how many alternatives.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    logprobs: int | None = None
    grammar: Grammar | None = None


class TokenScore(msgspec.Struct, frozen=True, array_like=True):
    """The natural-log probability of one token, and the most probable ones at its place."""

    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


Scores = Generator[list[TokenScore], None, None]
"""Scores that come in pieces."""


class Output(msgspec.Struct, frozen=True, array_like=True):
    """What one sequence gained in a step. `finish` is set once, with the last of its tokens.

    A stop token is the last of `tokens`. `scores` has one entry for each token where asked for.
    `error` is what went wrong about this sequence alone, which the engine has dropped then.
    """

    sequence: int
    tokens: list[int]
    scores: Sequence[TokenScore] = ()
    finish: Finish | None = None
    error: BaseException | None = None


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """How full the engine is."""

    cache_bytes: int
    cache_used: float
    running: int
    waiting: int = 0


class LanguageEngine(Protocol):
    """Verbs of an engine. One thread calls all of them."""

    name: str
    unsupported: frozenset[str]
    """Fields of `TokenSampling`, and "prompt_logprobs", that it cannot honour."""

    def warm(self) -> None:
        """Import what `load` takes; it may be called before the files are there."""
        ...

    def load(self, folder: Path, spec: LanguageSpec, options: EngineOptions) -> None:
        """Make the model in `folder` ready. Raises DoesNotFit, LMaaSError."""
        ...

    def add(
        self,
        sequence: int,
        prompt: Sequence[int],
        sampling: TokenSampling,
        pictures: "Sequence[Picture]" = (),
    ) -> None:
        """Begin to continue `prompt`, in which each of `pictures` has its placeholders, in order.

        Raises InvalidInput, also for pictures that its spec does not accept; nothing was added
        then.
        """
        ...

    def step(self) -> list[Output]:
        """Run the model once for what is there. An error that is raised here ends the worker."""
        ...

    def cancel(self, sequence: int) -> None:
        """Drop a sequence and free its cache, queued or running. Unknown ones are no error."""
        ...

    def busy(self) -> bool:
        """Whether a `step` would do anything."""
        ...

    def score(self, prompt: Sequence[int], top: int) -> Scores:
        """The log probability of each token of `prompt` given those before it (None: the first).

        It comes in pieces, and a piece may be empty, so that running answers go on in between.
        Closing it frees what it holds. Raises InvalidInput, DoesNotFit.
        """
        ...

    def stats(self) -> EngineStats:
        """How full it is now."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


ENGINES: Final[dict[str, EngineSpec]] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="openvino-genai",
            made_by="lmaas.runtime.language.openvino_genai:OpenVINOGenAI",
            files="compiled",
            memory=EngineMemory(overhead_bytes=128 * MIB),
            accepts=("text", "image"),
            worker="text",
            needs=("openvino_genai",),
            extra="language",
            precisions=("f32", "bf16"),
            variants=True,
            drafts=True,
            proves_grammars=True,
        ),
        EngineSpec(
            name="torch",
            made_by="lmaas.runtime.language.torch_engine:TorchEngine",
            files="source",
            memory=EngineMemory(overhead_bytes=128 * MIB, typed_weights=True),
            accepts=("text",),
            worker="text",
            needs=("torch", "transformers"),
            extra="language",
            precisions=("f32", "bf16"),
        ),
        EngineSpec(
            name="vllm",
            made_by="",
            files="source",
            # Three processes with torch: measured 1.3 to 1.7 GiB for its CPU build.
            memory=EngineMemory(
                overhead_bytes=2048 * MIB, typed_weights=True, typed_cache=True, on_gpu=True
            ),
            accepts=("text", "image"),
            worker="text",
            precisions=("f32", "bf16"),
        ),
    )
}
"""Every engine that generates text; its class is imported when it is chosen."""


def refuse_pictures(engine: str, pictures: "Sequence[Picture]") -> None:
    """Raise InvalidInput where there are images, for an engine or a model that takes none."""
    if pictures:
        raise InvalidInput(
            f"The engine {engine} takes text only for this model; received {len(pictures)} images.",
            param="messages",
        )


def make_language_engine(name: str) -> LanguageEngine:
    """A new engine. Raises LMaaSError listing the known ones."""
    made_by = {spec.name: spec.made_by for spec in ENGINES.values() if spec.made_by}
    if name not in made_by:
        raise LMaaSError(f"Unknown engine {name!r}; known: {', '.join(made_by)}.")
    module, _, attribute = made_by[name].partition(":")
    return cast(LanguageEngine, getattr(importlib.import_module(module), attribute)())
