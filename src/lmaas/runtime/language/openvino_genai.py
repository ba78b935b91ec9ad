"""OpenVINO GenAI: continuous batching, paged and shared KV cache, on CPUs (and Intel GPUs).

The pipeline takes token ids, or for models that take images a row of numbers for each token
(`runtime.language.embedded`), and gives token ids; its own handling of texts and images is not
used. A grammar that its matcher cannot compile breaks the whole pipeline, so
`runtime.language.grammar` proves each grammar in another process before it comes here.
"""

import importlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.generation_types import Finish, LanguageSpec
from lmaas.runtime.language.embedded import Rows, told_apart
from lmaas.runtime.language.engine import (
    EngineOptions,
    EngineStats,
    Output,
    Scores,
    TokenSampling,
    TokenScore,
    refuse_pictures,
)
from lmaas.runtime.language.grammar_openvino import structured
from lmaas.runtime.language.pattern_grammar import Unfit
from lmaas.runtime.language.pictures import Picture
from lmaas.runtime.language.prefixes import Prefixes
from lmaas.runtime.language.scoring import Scorer, Text, score

BLOCK_TOKENS: Final = 32
"""Tokens in one block of the paged cache on a CPU."""
BATCHED_TOKENS: Final = 512
"""Most tokens in one step: long prompts are split, so that running answers go on beside them."""
LIKELY_TOKENS: Final = 2048
"""An answer is expected to have at most so many, where memory is asked for."""


class OpenVINOGenAI:
    """The engine `openvino-genai`."""

    name = "openvino-genai"
    unsupported = frozenset({"logit_bias"})

    def __init__(self) -> None:
        self._pipe: Any = None
        self._handles: dict[int, tuple[Any, bool]] = {}
        # With split prompts the scheduler does not bound how many sequences run: we do.
        self._waiting: dict[int, _Waiting] = {}
        self._room = 0
        self._begun: dict[int, int] = {}
        """Tokens of prompts whose rows the pipeline holds."""
        self._prefixes = Prefixes(BLOCK_TOKENS, 0)
        self._max_sequences = self._max_tokens = 0
        self._idle = self._settled = True
        self._lookup = 0
        self._vocabulary = 0
        self._rows: Rows | None = None
        self._placeholder = -1
        self._scorer: Scorer | None = None
        self._scored: dict[int, _Scored] = {}

    def warm(self) -> None:
        """Import the pipeline."""
        importlib.import_module("openvino_genai")

    def load(self, folder: Path, spec: LanguageSpec, options: EngineOptions) -> None:
        """Read and compile the model; the cache is allocated as it is used."""
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        block_bytes = max(1, spec.kv_bytes_per_token) * BLOCK_TOKENS
        scheduler.num_kv_blocks = max(2, options.cache_bytes // block_bytes)
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = options.max_sequences
        scheduler.max_num_batched_tokens = max(BATCHED_TOKENS, options.max_sequences)
        scheduler.dynamic_split_fuse = True
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": options.precision}
        if options.threads:
            properties["INFERENCE_NUM_THREADS"] = options.threads
        if options.exact_cache:
            properties["KV_CACHE_PRECISION"] = options.precision
        if spec.vision is not None:
            if options.lookup or options.draft:
                raise LMaaSError("Nothing is guessed ahead for a model that takes images.")
            self._rows = Rows(folder, spec.vision)
            self._placeholder = spec.vision.token_id
        if options.lookup:
            properties["prompt_lookup"] = True
        if options.draft:
            properties["draft_model"] = genai.draft_model(options.draft, "CPU")
        try:
            self._pipe = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        except RuntimeError as error:
            raise LMaaSError(f"OpenVINO GenAI cannot load the model: {_gist(error)}.") from error
        self._max_sequences = options.max_sequences
        self._max_tokens = scheduler.max_num_batched_tokens
        self._prefixes = Prefixes(BLOCK_TOKENS, scheduler.num_kv_blocks)
        self._room = scheduler.num_kv_blocks * BLOCK_TOKENS
        self._lookup = options.lookup or (5 if options.draft else 0)
        self._by_lookup = bool(options.lookup)
        self._vocabulary = spec.vocabulary_size
        self._scorer = Scorer(
            folder, self._vocabulary, spec.kv_bytes_per_token, lambda: not self._handles, self._rows
        )

    def add(
        self,
        sequence: int,
        prompt: Sequence[int],
        sampling: TokenSampling,
        pictures: Sequence[Picture] = (),
    ) -> None:
        """Begin to continue `prompt`. Raises InvalidInput for what it cannot do."""
        import numpy as np

        config = self._config(sampling)
        self._check_prompt(prompt)
        ids = np.asarray(prompt, np.int64)
        if self._rows is None:
            refuse_pictures(self.name, pictures)
        else:
            self._rows.check(ids, pictures)
        try:
            config.validate()
        except RuntimeError as error:
            raise InvalidInput(f"The engine refuses the request: {_gist(error)}.") from error
        self._idle = False
        scored = sampling.logprobs is not None
        if sampling.logprobs:
            text = Text(prompt, sampling.logprobs, first=len(ids), pictures=pictures)
            assert self._scorer is not None
            self._scorer.add(text, len(ids) + min(sampling.max_tokens, LIKELY_TOKENS))
            self._scored[sequence] = _Scored(text)
        self._waiting[sequence] = _Waiting(ids, tuple(pictures), config, scored)
        self._prefixes.add(sequence, told_apart(ids, self._placeholder, pictures))

    def step(self) -> list[Output]:
        """One forward pass for all running sequences."""
        import openvino_genai as genai

        self._begin()
        answering = len(self._handles) - len(self._prefixes)
        self._pipe.step()
        self._prefixes.step(self._max_tokens - answering * (1 + self._lookup))
        finished: dict[Any, Finish] = {
            genai.GenerationFinishReason.STOP: "stop",
            genai.GenerationFinishReason.LENGTH: "length",
        }
        outputs: list[Output] = []
        over: list[int] = []
        for sequence, (handle, scored) in self._handles.items():
            tokens: list[int] = []
            scores: list[TokenScore] = []
            finish: Finish | None = None
            while handle.can_read():
                for part in handle.read().values():
                    tokens += part.generated_ids
                    if scored:
                        scores += [TokenScore(value) for value in part.generated_log_probs]
                    finish = finished.get(part.finish_reason, finish)
            if handle.get_status() == genai.GenerationStatus.IGNORED:
                # The scheduler gives a sequence up that the whole cache cannot hold.
                finish = "length"
            if tokens or finish:
                waiting = self._scored.get(sequence)
                if waiting is None:
                    outputs.append(Output(sequence, tokens, scores, finish))
                else:
                    waiting.take(tokens, finish)
                self._prefixes.end(sequence, computed=bool(tokens))
            if finish:
                over.append(sequence)
        for sequence in over:
            del self._handles[sequence]
        outputs += self._score()
        self._settled = self._idle
        held = self._handles or self._waiting or self._scored
        self._idle = not held and not self._pipe.has_non_finished_requests()
        return outputs

    def _begin(self) -> None:
        """Give the pipeline what there is room for, but no two that begin alike at once."""
        import openvino as ov

        for sequence in list(self._waiting):
            if len(self._handles) >= self._max_sequences:
                return
            if not self._prefixes.ready(sequence):
                continue
            if self._rows is not None and not self._make_room(self._waiting[sequence]):
                return
            waiting = self._waiting.pop(sequence)
            ids, scored = waiting.ids, waiting.scored
            given = ids[None, :] if self._rows is None else self._rows.of(ids, waiting.pictures)
            handle = self._pipe.add_request(sequence, ov.Tensor(given), waiting.config)
            self._handles[sequence] = handle, scored
            self._begun[sequence] = len(ids)
            self._prefixes.begin(sequence)

    def _make_room(self, waiting: "_Waiting") -> bool:
        """Whether one more prompt's rows may be there: as many as the cache has tokens."""
        if len(self._begun) > len(self._handles):
            self._begun = {key: self._begun[key] for key in self._handles}
        held = sum(self._begun.values())
        return not held or held + len(waiting.ids) <= self._room

    def cancel(self, sequence: int) -> None:
        """Drop a sequence; its blocks are free after the next step."""
        self._waiting.pop(sequence, None)
        self._prefixes.end(sequence, computed=False)
        scored = self._scored.pop(sequence, None)
        if scored is not None and self._scorer is not None:
            self._scorer.remove(scored.text)
        running = self._handles.pop(sequence, None)
        if running is not None:
            running[0].cancel()
            self._idle = False

    def busy(self) -> bool:
        """Whether there is anything to run, to clean up after a cancel, or to count anew.

        The pipeline counts its blocks before a step, so one more tells that all are free.
        """
        return not (self._idle and self._settled)

    def score(self, prompt: Sequence[int], top: int) -> Scores:
        """The log probability of each token of `prompt` given those before it (None: the first)."""
        assert self._scorer is not None
        self._check_prompt(prompt)
        return score(self._scorer, prompt, top)

    def _score(self) -> list[Output]:
        """What is known now of the tokens of those who want the best ones told, too."""
        if not self._scored:
            return []
        assert self._scorer is not None
        outputs = []
        turn = self._scorer.turn
        try:
            self._scorer.step()
        except BaseException as error:  # noqa: BLE001 - becomes the answer to this one sequence
            for sequence, held in list(self._scored.items()):
                if held.text is turn:
                    self.cancel(sequence)
                    outputs.append(Output(sequence, [], error=error))
        for sequence, held in list(self._scored.items()):
            output = held.output(sequence)
            if output is not None:
                outputs.append(output)
                if output.finish:
                    del self._scored[sequence]
                    self._scorer.remove(held.text)
        return outputs

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not prompt or min(prompt) < 0 or max(prompt) >= self._vocabulary:
            raise InvalidInput(
                f"The prompt must hold token ids from 0 to {self._vocabulary - 1}.", param="prompt"
            )

    def stats(self) -> EngineStats:
        """How full the cache is."""
        metrics = self._pipe.get_metrics()
        return EngineStats(
            cache_bytes=int(metrics.kv_cache_size_in_bytes),
            cache_used=float(metrics.cache_usage) / 100,
            running=len(self._handles),
            waiting=len(self._waiting),
        )

    def close(self) -> None:
        """Release the model."""
        self._handles.clear()
        self._waiting.clear()
        self._scored.clear()
        if self._scorer is not None:
            self._scorer.close()
        self._pipe = None

    def _config(self, sampling: TokenSampling) -> Any:
        import openvino_genai as genai

        if sampling.logit_bias:
            raise _cannot("logit_bias")
        if self._rows is not None and sampling.repetition_penalty != 1:
            raise InvalidInput(
                "repetition_penalty is not supported for models that take images: the engine does "
                "not see the tokens of their prompts.",
                hint="Send presence_penalty or frequency_penalty, which count the answer's tokens.",
                param="repetition_penalty",
            )
        config = genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.min_new_tokens = min(sampling.min_tokens, sampling.max_tokens)
        config.stop_token_ids = set(sampling.stop_token_ids)
        config.ignore_eos = not sampling.stop_token_ids
        config.apply_chat_template = False
        config.repetition_penalty = sampling.repetition_penalty
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.logprobs = 0 if sampling.logprobs is None else 1
        # No token is likelier than the likeliest, so min_p 1 is greedy; the engine takes less only.
        if sampling.temperature > 0 and sampling.min_p < 1:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.min_p = sampling.min_p
            # Its default is the same for every sequence.
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            config.rng_seed = seed % (1 << 63)
        if self._lookup:
            config.num_assistant_tokens = self._lookup
            if self._by_lookup:
                config.max_ngram_size = 3
        if sampling.grammar is not None:
            if sampling.min_tokens:
                # Where only an end fits, it would write anything else.
                raise InvalidInput(
                    "The engine openvino-genai does not keep min_tokens with response_format or "
                    "tools.",
                    hint="Leave it out, or serve the model with engine=torch.",
                    param="min_tokens",
                )
            try:
                config.structured_output_config = structured(sampling.grammar)
            except Unfit as error:
                raise InvalidInput(f"The schema cannot be used: {error}.") from None
        return config


class _Waiting(NamedTuple):
    """A sequence that the pipeline does not have yet."""

    ids: Any
    pictures: tuple[Picture, ...]
    config: Any
    scored: bool


class _Scored:
    """The tokens of a sequence that wait for their scores."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self._waiting: list[int] = []
        self._finish: Finish | None = None

    def take(self, tokens: list[int], finish: Finish | None) -> None:
        """What the sequence gained."""
        self.text.tokens += tokens
        self._waiting += tokens
        self._finish = finish or self._finish

    def output(self, sequence: int) -> Output | None:
        """What has its scores now; the end comes with the last of it."""
        scores, self.text.scores = self.text.scores, []
        tokens, self._waiting = self._waiting[: len(scores)], self._waiting[len(scores) :]
        finish = None if self._waiting else self._finish
        return Output(sequence, tokens, scores, finish) if tokens or finish else None


def _cannot(field: str) -> InvalidInput:
    return InvalidInput(
        f"The engine openvino-genai does not support {field}.",
        hint="Leave it out, or serve the model with engine=torch.",
        param=field,
    )


def _gist(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300].rstrip(".") if lines else type(error).__name__
