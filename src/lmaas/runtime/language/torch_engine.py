"""The engine `torch`: transformers models on CPUs and GPUs, many sequences at once.

Transformers' own continuous batching is not used: it has one sampling for all requests and gives
no logits. Here each step continues all running sequences by one token and reads a bounded piece of
one new prompt. A sequence is put back to wait, and read again later, when the cache runs over.
"""

import importlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError
from lmaas.generation_types import Finish, LanguageSpec
from lmaas.runtime.language.engine import (
    EngineOptions,
    EngineStats,
    Output,
    Scores,
    TokenSampling,
    TokenScore,
    refuse_pictures,
)
from lmaas.runtime.language.grammar_torch import Grammars, Matcher
from lmaas.runtime.language.pictures import Picture
from lmaas.runtime.language.sampling import Sampler, choose, scores_of
from lmaas.runtime.language.torch_cache import Slab
from lmaas.runtime.language.torch_model import TorchModel
from lmaas.runtime.language.torch_model import load as load_model
from lmaas.runtime.language.torch_states import States

PROMPT_TOKENS: Final = 512
"""Most prompt tokens in one step: long prompts are split, so that running answers go on."""
SCORED_TOKENS: Final = 128
"""Tokens of a scored prompt whose logits are held at once."""
SLACK_TOKENS: Final = 16
"""Room that each sequence must find before one more begins, so that it is not put back at once."""


class Entry:
    """A sequence: its tokens so far, and how it goes on."""

    def __init__(
        self, number: int, prompt: Sequence[int], sampling: TokenSampling, matcher: Matcher | None
    ) -> None:
        self.number = number
        self.tokens = list(prompt)
        self.sampling = sampling
        self.sampler = Sampler(prompt, sampling)
        self.matcher = matcher
        self.stops = frozenset(sampling.stop_token_ids)


class TorchEngine:
    """The engine `torch`."""

    name = "torch"
    unsupported: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._model: TorchModel | None = None
        self._grammars: Grammars | None = None
        self._most_rows = 1
        self._cache_bytes = 0
        self._waiting: deque[Entry] = deque()
        self._reading: Entry | None = None
        self._read: Slab | States = States()
        self._running: list[Entry] = []
        self._slab: Slab | States = States()

    def warm(self) -> None:
        """Import PyTorch and transformers, which tells of kernels and progress on the terminal."""
        importlib.import_module("torch")
        logging = importlib.import_module("transformers.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def load(self, folder: Path, spec: LanguageSpec, options: EngineOptions) -> None:
        """Read the weights. Raises LMaaSError for a model that it cannot run."""
        for field in ("lookup", "draft"):
            if getattr(options, field):
                raise _cannot(field)
        self._model = load_model(folder, options.precision, options.threads)
        self._grammars = Grammars(folder, self._model.vocabulary_size, spec.stop_token_ids)
        self._most_rows = options.max_sequences
        self._cache_bytes = options.cache_bytes
        most = 0
        if options.cache_bytes and self._model.bytes_per_token:
            most = max(1, options.cache_bytes // self._model.bytes_per_token)
        self._slab = self._model.store(most)

    def add(
        self,
        sequence: int,
        prompt: Sequence[int],
        sampling: TokenSampling,
        pictures: Sequence[Picture] = (),
    ) -> None:
        """Begin to continue `prompt`. Raises InvalidInput for what it cannot do."""
        assert self._grammars is not None
        refuse_pictures(self.name, pictures)
        self._check_prompt(prompt)
        size = self._vocabulary
        for token in sampling.logit_bias:
            if not 0 <= token < size:
                raise InvalidInput(
                    f"logit_bias has the token {token}; the model's are 0 to {size - 1}.",
                    param="logit_bias",
                )
        matcher = None
        if sampling.grammar is not None:
            matcher = self._grammars.matcher(sampling.grammar)
        self._waiting.append(Entry(sequence, prompt, sampling, matcher))

    def step(self) -> list[Output]:
        """Continue what runs by one token, then read a piece of the next prompt."""
        outputs = self._make_room()
        if self._running:
            assert self._model is not None
            self._slab.reserve(self._slab.rows, self._slab.columns + 1)
            logits = self._model.forward(self._slab, [[run.tokens[-1]] for run in self._running])
            gained = self._sample(logits, self._running)
            outputs += gained
            # Backwards, as the last row takes the place of one that leaves.
            for row in reversed(range(len(gained))):
                if _over(gained[row]):
                    self._drop(row)
        budget = PROMPT_TOKENS
        while budget > 0 and self._begin_next():
            budget -= self._read_piece(budget, outputs)
        return outputs

    def cancel(self, sequence: int) -> None:
        """Drop a sequence and free its cache at once."""
        if self._reading is not None and self._reading.number == sequence:
            self._stop_reading()
        for row, entry in enumerate(self._running):
            if entry.number == sequence:
                self._drop(row)
                break
        self._waiting = deque(entry for entry in self._waiting if entry.number != sequence)

    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._running or self._reading or self._waiting)

    def score(self, prompt: Sequence[int], top: int) -> Scores:
        """The log probability of each token of `prompt` given those before it (None: the first)."""
        assert self._model is not None
        self._check_prompt(prompt)
        yield [TokenScore(None)]
        slab = self._model.store()
        slab.open(len(prompt))
        size = SCORED_TOKENS if self._model.in_pieces else len(prompt)
        for start in range(0, len(prompt) - 1, size):
            piece = prompt[start : min(start + size, len(prompt) - 1)]
            logits = self._model.forward(slab, [list(piece)], every=True)[0]
            told = prompt[start + 1 : start + 1 + len(piece)]
            yield scores_of(logits, told, [top] * len(piece))

    def stats(self) -> EngineStats:
        """How full the cache is."""
        assert self._model is not None
        held = self._held_bytes()
        most = self._cache_bytes or max(1, held, self._slab.stored_bytes)
        return EngineStats(
            cache_bytes=most,
            cache_used=held / most,
            running=len(self._running) + (self._reading is not None),
            waiting=len(self._waiting),
        )

    def close(self) -> None:
        """Release the model."""
        self._waiting.clear()
        self._running.clear()
        self._reading = None
        self._read, self._slab = States(), States()
        self._model = self._grammars = None

    @property
    def _vocabulary(self) -> int:
        assert self._model is not None
        return self._model.vocabulary_size

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        size = self._vocabulary
        if not prompt or min(prompt) < 0 or max(prompt) >= size:
            raise InvalidInput(
                f"The prompt must hold token ids from 0 to {size - 1}.", param="prompt"
            )
        if not self._fits(1, len(prompt)):
            assert self._model is not None
            room = self._cache_bytes - self._model.state_bytes
            most = max(0, room // max(1, self._model.bytes_per_token))
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt)} tokens; the cache holds {most}.",
                hint="Shorten the prompt, or give the model a larger cache.",
                param="prompt",
            )

    # The cache: all rows are as wide as the longest one

    def _bytes(self, rows: int, columns: int) -> int:
        assert self._model is not None
        return rows * (self._model.state_bytes + columns * self._model.bytes_per_token)

    def _held_bytes(self) -> int:
        """What of the cache is taken, unused columns of short sequences included."""
        reading = 0 if self._reading is None else self._bytes(1, len(self._reading.tokens))
        return self._bytes(self._slab.rows, self._slab.columns) + reading

    def _fits(self, rows: int, columns: int) -> bool:
        return not self._cache_bytes or self._bytes(rows, columns) <= self._cache_bytes

    def _stop_reading(self) -> None:
        assert self._model is not None
        self._reading = None
        self._read = self._model.store()

    def _begin_next(self) -> bool:
        """Whether a prompt is being read now."""
        if self._reading is None and self._waiting:
            entry = self._waiting[0]
            rows = len(self._running) + 1
            columns = max(self._slab.columns, len(entry.tokens))
            alone = rows == 1
            if rows <= self._most_rows and (alone or self._fits(rows, columns + SLACK_TOKENS)):
                assert self._model is not None
                self._reading = self._waiting.popleft()
                self._read = self._model.store()
                self._read.open(len(entry.tokens))
        return self._reading is not None

    def _read_piece(self, most: int, outputs: list[Output]) -> int:
        """Read up to `most` tokens of the prompt, or all where pieces are not possible; at its end
        it runs. How many were read.
        """
        assert self._model is not None
        entry = self._reading
        assert entry is not None
        done = self._read.columns
        piece = entry.tokens[done : done + most] if self._model.in_pieces else entry.tokens
        logits = self._model.forward(self._read, [piece])
        if done + len(piece) == len(entry.tokens):
            output = self._sample(logits, [entry])[0]
            outputs.append(output)
            if not _over(output):
                self._slab.join(self._read)  # type: ignore[arg-type]  # both are the model's kind
                self._running.append(entry)
            self._stop_reading()
        return len(piece)

    def _make_room(self) -> list[Output]:
        """Put the newest sequences back until one more column fits. Who is alone has to end."""
        over: list[Output] = []
        while self._running:
            columns = self._slab.columns + 1
            rows = len(self._running)
            if self._reading is not None:
                rows += 1
                columns = max(columns, len(self._reading.tokens))
            if self._fits(rows, columns):
                break
            if self._reading is not None:
                self._waiting.appendleft(self._reading)
                self._stop_reading()
            elif rows > 1:
                newest = max(range(rows), key=lambda row: self._running[row].number)
                self._waiting.appendleft(self._running[newest])
                self._drop(newest)
            else:
                over.append(Output(self._running[0].number, [], (), "length"))
                self._drop(0)
        return over

    def _drop(self, row: int) -> None:
        self._slab.remove(row)
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last

    # Sampling

    def _sample(self, logits: Any, entries: Sequence[Entry]) -> list[Output]:
        """One more token for each of `entries`, from `logits` (B, V), or what went wrong."""
        import torch

        with torch.inference_mode():
            errors: dict[int, BaseException] = {
                row: LMaaSError(
                    "The model computed something that is no number.",
                    hint="Its weights may be damaged, or too large for this precision: "
                    "set precision=f32.",
                )
                for row in logits.isnan().any(-1).nonzero()[:, 0].tolist()
            }
            adjusted = self._adjusted(logits, entries, errors)
            tokens = choose(adjusted, [entry.sampler for entry in entries])
            scores: list[Sequence[TokenScore]] = [()] * len(entries)
            asked = [
                row for row, entry in enumerate(entries) if entry.sampling.logprobs is not None
            ]
            if asked:
                told = scores_of(
                    logits[asked],
                    [tokens[row] for row in asked],
                    [entries[row].sampling.logprobs or 0 for row in asked],
                )
                for row, score in zip(asked, told, strict=True):
                    scores[row] = (score,)
        return [
            _output(entry, token, score, errors.get(row))
            for row, (entry, token, score) in enumerate(zip(entries, tokens, scores, strict=True))
        ]

    def _adjusted(
        self, logits: Any, entries: Sequence[Entry], errors: dict[int, BaseException]
    ) -> Any:
        """The logits after penalties and grammars; `errors` gets those of single rows."""
        changed = [
            row for row, entry in enumerate(entries) if entry.sampler.adjusts or entry.matcher
        ]
        if not changed:
            return logits
        logits = logits.clone()
        for row in changed:
            matcher = entries[row].matcher
            try:
                allowed = None if matcher is None else matcher.allowed(logits.device)
                entries[row].sampler.adjust(logits[row], allowed)
            except BaseException as error:  # noqa: BLE001 - becomes the answer to this one sequence
                errors[row] = error
        return logits


def _output(
    entry: Entry, token: int, score: Sequence[TokenScore], error: BaseException | None
) -> Output:
    """What a sequence gets of a step. Its error ends it alone."""
    if error is None:
        try:
            return Output(entry.number, [token], score, _taken(entry, token))
        except BaseException as raised:  # noqa: BLE001 - becomes the answer to this one sequence
            error = raised
    return Output(entry.number, [], error=error)


def _over(output: Output) -> bool:
    return output.finish is not None or output.error is not None


def _taken(entry: Entry, token: int) -> Finish | None:
    """Note a token; whether and why the sequence ends with it."""
    entry.tokens.append(token)
    entry.sampler.take(token)
    over = entry.matcher is not None and entry.matcher.take(token)
    if token in entry.stops or over:
        return "stop"
    return "length" if entry.sampler.made >= entry.sampling.max_tokens else None


def _cannot(field: str) -> InvalidInput:
    return InvalidInput(f"The engine torch does not support {field}.", param=field)
