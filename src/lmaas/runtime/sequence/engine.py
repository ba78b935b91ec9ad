"""The engine `encoder-decoder`: sequences of many callers, written together step by step.

It knows sources, token ids and how they are chosen; nothing of tasks, requests or protocols. What
arrives is encoded in batches and joins a lane at the next step; what is complete leaves it.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.runtime import ov
from lmaas.runtime.language.engine import EngineOptions, EngineStats
from lmaas.runtime.sequence.calls import Decoding, SequenceCall, SequenceResult
from lmaas.runtime.sequence.lane import Lane
from lmaas.runtime.sequence.limits import MOST_ROWS_EACH, SLACK
from lmaas.runtime.sequence.rules import Rules
from lmaas.runtime.sequence.search import Beams, Sampled, candidates, share_of
from lmaas.runtime.sequence.sources import (
    Encoded,
    Encoder,
    Source,
    Sources,
    compile_graph,
    takes_halves,
)
from lmaas.types import SequenceSpec


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What a sequence gained in a step: tokens where it is streamed, the result once it is over."""

    sequence: int
    tokens: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    result: SequenceResult | None = None


class Running(msgspec.Struct, kw_only=True, eq=False):
    """A sequence that waits or is written. `cost` is what it keeps, in bytes."""

    id: int
    call: SequenceCall
    source: Source
    search: Sampled | Beams
    rules: Rules
    cost: int
    watched: tuple[float, ...] = ()
    lane: "Lane[Running] | None" = None


class SequenceEngine:
    """Verbs as a language engine's: one thread calls all of them."""

    name = "encoder-decoder"

    def __init__(self) -> None:
        self._spec: SequenceSpec | None = None
        self._options: EngineOptions | None = None
        self._decoder: Any = None
        self._encoder: Encoder | None = None
        self._lanes: dict[int, Lane[Running]] = {}
        self._aligner: Lane[Running] | None = None
        self._aligns = False
        self._known: dict[int, Running] = {}
        self._waiting: list[Running] = []
        self._sources = Sources()
        self._holders: dict[int, list[Running]] = {}
        self._rows = 0
        self._bytes = 0

    def warm(self) -> None:
        """Import OpenVINO."""
        ov.load()

    def load(self, folder: Path, spec: SequenceSpec, options: EngineOptions) -> None:
        """Compile `encoder.xml` and `decoder.xml` of `folder`. Raises LMaaSError."""
        try:
            encoder, self._decoder = (
                compile_graph(folder / f"{name}.xml", options.precision, options.threads)
                for name in ("encoder", "decoder")
            )
        except RuntimeError as error:
            raise LMaaSError(
                f"OpenVINO cannot load the compiled model: {str(error).strip()[-300:]}.",
                hint="Publish the model again.",
            ) from error
        self._spec, self._options = spec, options
        self._encoder = Encoder(encoder, spec, halves=takes_halves(self._decoder))
        self._aligns = any("attention" in port.get_names() for port in self._decoder.outputs)

    def add(self, sequence: int, call: SequenceCall) -> None:
        """Queue a sequence under its number. Raises InvalidInput, PayloadTooLarge; then nothing
        was added."""
        spec = self._spec
        assert spec is not None
        decoding = call.decoding
        check_source(call.source, spec)
        check_decoding(decoding, spec)
        if decoding.attention and not self._aligns:
            raise InvalidInput("This model has no heads that tell where it looks.")
        search = Beams(decoding) if decoding.beams > 1 else Sampled(decoding)
        assert self._options is not None
        if search.width > self._options.max_sequences:
            raise InvalidInput(
                f"{search.width} beams or candidates are asked for; this server writes at most "
                f"{self._options.max_sequences} at once."
            )
        source = self._sources.take(call.source)
        running = Running(
            id=sequence,
            call=call,
            source=source,
            search=search,
            rules=Rules(decoding),
            cost=SLACK * search.width * decoding.max_tokens * spec.cache_bytes_per_token
            + source.length * spec.cache_bytes_per_source,
        )
        self._known[sequence] = running
        self._waiting.append(running)

    def step(self) -> list[Output]:
        """Encode what can join, and write one token of all that runs. An error raised here ends
        the worker; what is wrong with one sequence is told as its result."""
        outputs: list[Output] = []
        self._admit()
        for lane in self._lanes.values():
            if lane.members:
                outputs += self._run(lane)
        return outputs

    def cancel(self, sequence: int) -> None:
        """Drop a sequence, waiting or running. Unknown ones are no error."""
        running = self._known.get(sequence)
        if running is not None:
            self._drop(running)

    def busy(self) -> bool:
        """Whether a `step` would do anything."""
        return bool(self._known)

    def stats(self) -> EngineStats:
        """How full it is."""
        assert self._options is not None
        size = self._options.cache_bytes
        return EngineStats(
            cache_bytes=size,
            cache_used=min(1.0, self._bytes / size) if size else 0.0,
            running=len(self._known) - len(self._waiting),
            waiting=len(self._waiting),
        )

    def close(self) -> None:
        """Release the model."""
        for lane in (*self._lanes.values(), *([self._aligner] if self._aligner else [])):
            lane.close()
        self._lanes, self._aligner = {}, None
        self._decoder = self._encoder = None

    def _admit(self) -> None:
        """Let those join for whom there is room, the first come first."""
        assert self._options is not None
        assert self._encoder is not None
        chosen: list[Running] = []
        rows, size = self._rows, self._bytes
        for running in self._waiting:
            rows, size = rows + running.search.width, size + running.cost
            full = rows > self._options.max_sequences or (
                self._options.cache_bytes and size > self._options.cache_bytes
            )
            if full and (self._rows or chosen):
                break
            chosen.append(running)
        if not chosen:
            return
        waiting = {r.source.key: r.source for r in chosen if not self._known_source(r.source)}
        if waiting:
            self._encoder.run(self._encoder.fit(list(waiting.values()), busy=self._rows > 0))
        for running in chosen:
            if not self._known_source(running.source):
                break
            self._waiting.remove(running)
            self._begin(running)

    def _known_source(self, source: Source) -> bool:
        """Whether a source need not be encoded any more."""
        return source.encoded is not None or source.key in self._holders

    def _read_back(self, source: Source) -> Encoded:
        """What was encoded, from the lane of a sequence that is written about it."""
        holder = self._holders[source.key][0]
        assert holder.lane is not None
        return holder.lane.source_of(holder)

    def _begin(self, running: Running) -> None:
        assert self._encoder is not None
        source = running.source
        encoded = source.encoded or self._read_back(source)
        width = running.search.width
        lane = self._lanes.get(width)
        if lane is None:
            lane = self._lanes[width] = Lane(self._decoder, self._encoder.names, width)
        running.lane = lane
        lane.join(running, running.call.decoding.prompt, encoded)
        source.encoded = None
        self._holders.setdefault(source.key, []).append(running)
        self._rows += width
        self._bytes += running.cost

    def _drop(self, running: Running) -> None:
        del self._known[running.id]
        if running.lane is None:
            self._waiting.remove(running)
        else:
            holders = self._holders[running.source.key]
            if len(holders) == 1:
                running.source.encoded = running.lane.source_of(running)
                del self._holders[running.source.key]
            else:
                holders.remove(running)
            running.lane.leave(running)
            self._rows -= running.search.width
            self._bytes -= running.cost
        self._sources.give_back(running.source)

    def _run(self, lane: "Lane[Running]") -> list[Output]:
        logits, normalizers, complete = lane.run()
        told = complete[:: lane.width]
        numbers = np.flatnonzero(told).tolist()
        outputs: list[Output] = []
        sound = np.isfinite(normalizers[:, 0]).reshape(-1, lane.width).all(1)
        if not sound.all():
            broken = [lane.members[n] for n in np.flatnonzero(~sound)]
            outputs += [self._failed(running) for running in broken]
            numbers = [n for n in numbers if sound[n]]
        for number in numbers:
            self._watch(lane.members[number], logits, normalizers, number * lane.width)
        beams = [n for n in numbers if isinstance(lane.members[n].search, Beams)]
        drawn = [n for n in numbers if isinstance(lane.members[n].search, Sampled)]
        members = list(lane.members)
        if drawn:
            outputs += self._extend(lane, logits, normalizers, drawn)
        if beams:
            self._search(lane, logits, normalizers, beams)
        for running in [members[n] for n in numbers]:
            if running.search.over:
                outputs.append(self._finish(running))
        for output in outputs:
            if output.result is not None:
                self._drop(self._known[output.sequence])
        return outputs

    def _watch(
        self, running: Running, logits: np.ndarray, normalizers: np.ndarray, row: int
    ) -> None:
        watched = running.call.decoding.watched
        if watched and not running.watched:
            running.watched = share_of(logits[row], float(normalizers[row, 0]), watched)

    def _extend(
        self, lane: "Lane[Running]", logits: np.ndarray, normalizers: np.ndarray,
        numbers: Sequence[int],
    ) -> Iterator[Output]:  # fmt: skip
        """One more token of each row that is written greedily or by chance."""
        width = lane.width
        raw: dict[int, np.ndarray] = {}
        chosen: dict[int, int] = {}
        for number in numbers:
            running = lane.members[number]
            search, rules, decoding = running.search, running.rules, running.call.decoding
            assert isinstance(search, Sampled)
            for offset in range(width):
                row = number * width + offset
                length = len(decoding.prompt) + len(search.rows[offset])
                if search.finish[offset] is None and rules.active(length):
                    if rules.changes_values:
                        raw[row] = logits[row].copy()
                    history = (*decoding.prompt, *search.rows[offset])
                    rules.apply(logits[row], history, 0.0)
                if decoding.temperature:
                    chosen[row] = search.draw(offset, logits[row])
        tokens = logits.argmax(1)
        for row, token in chosen.items():
            tokens[row] = token
        values = logits[np.arange(len(tokens)), tokens] - normalizers[:, 0]
        for row, before in raw.items():
            values[row] = before[tokens[row]] - normalizers[row, 0]
        token_list, value_list = tokens.tolist(), values.tolist()
        for number in numbers:
            running = lane.members[number]
            search, decoding = running.search, running.call.decoding
            assert isinstance(search, Sampled)
            first = number * width
            before_count = len(search.rows[0])
            for offset in range(width):
                length = len(decoding.prompt) + len(search.rows[offset])
                value = 0.0 if running.rules.forces(length) else value_list[first + offset]
                search.take(offset, token_list[first + offset], value)
            if not search.over:
                lane.go_on(number, token_list[first : first + width], None)
            if running.call.stream and len(search.rows[0]) > before_count:
                yield Output(
                    sequence=running.id,
                    tokens=(search.rows[0][-1],),
                    scores=(search.scores[0][-1],) if decoding.scores else (),
                )

    def _search(
        self, lane: "Lane[Running]", logits: np.ndarray, normalizers: np.ndarray,
        numbers: Sequence[int],
    ) -> None:  # fmt: skip
        """One more token of each beam."""
        width = lane.width
        searches: list[Beams] = []
        for number in numbers:
            running = lane.members[number]
            search, prompt = running.search, running.call.decoding.prompt
            assert isinstance(search, Beams)
            searches.append(search)
            if not running.rules.active(search.length):
                continue
            for offset in range(width):
                row = number * width + offset
                history = (*prompt, *search.history(offset))
                running.rules.apply(logits[row], history, float(normalizers[row, 0]))
        if len(numbers) < len(lane.members):
            rows = np.concatenate([np.arange(n * width, n * width + width) for n in numbers])
            logits, normalizers = logits[rows], normalizers[rows]
        found = candidates(logits, normalizers, searches)
        for number, search, best in zip(numbers, searches, found, strict=True):
            following = search.take(*best)
            if not search.over:
                lane.go_on(number, following.tokens, following.parents)

    def _finish(self, running: Running) -> Output:
        call = running.call
        written = running.search.written()
        attention = None
        if call.decoding.attention and written:
            attention = self._align(running, (*call.decoding.prompt, *written[0].tokens))
        result = SequenceResult(
            tag=call.tag,
            candidates=written,
            source_tokens=running.source.length,
            watched=running.watched,
            attention=attention,
        )
        return Output(sequence=running.id, result=result)

    def _align(self, running: Running, tokens: Sequence[int]) -> np.ndarray:
        """Where the alignment heads look for each token, in one run over all of them."""
        assert self._encoder is not None
        if self._aligner is None:
            self._aligner = Lane(self._decoder, self._encoder.names, 1)
        self._aligner.join(running, tokens, self._read_back(running.source))
        self._aligner.run()
        found: np.ndarray = self._aligner.attention()[0]
        self._aligner.leave(running)
        return found

    def _failed(self, running: Running) -> Output:
        error = LMaaSError("The model's answer is no number.", hint="Its weights may be damaged.")
        result = SequenceResult(tag=running.call.tag, error=error)
        return Output(sequence=running.id, result=result)


def check_source(source: np.ndarray, spec: SequenceSpec) -> None:
    """Raise InvalidInput for what the encoder does not read, PayloadTooLarge for too much of it."""
    axes = {"tokens": 1, "audio": 2, "image": 3}[spec.source]
    if source.ndim != axes or 0 in source.shape:
        raise InvalidInput(
            f"The model reads {spec.source} of {axes} axes; received the shape {source.shape}."
        )
    if spec.source != "image" and source.shape[-1] > spec.most_source:
        unit = "tokens" if spec.source == "tokens" else "frames"
        raise PayloadTooLarge(
            f"The source has {source.shape[-1]} {unit}; the model reads at most "
            f"{spec.most_source}.",
            hint="Send it in parts.",
        )
    if spec.source == "tokens" and not (
        source.dtype.kind == "i" and source.min() >= 0 and source.max() < spec.vocabulary_size
    ):
        raise InvalidInput(
            f"The source has a token that is outside the vocabulary of {spec.vocabulary_size}."
        )
    if spec.source != "tokens" and not np.isfinite(source).all():
        raise InvalidInput("The source has values that are no numbers.")


def check_decoding(decoding: Decoding, spec: SequenceSpec) -> None:
    """Raise InvalidInput for what cannot be honoured, naming it."""
    size = spec.vocabulary_size
    prompt, most = len(decoding.prompt), min(decoding.max_tokens, spec.most_target)
    if not 0 <= decoding.counted <= prompt:
        raise InvalidInput(f"{decoding.counted} of {prompt} given tokens cannot count as written.")
    if not prompt or prompt >= most or decoding.max_tokens > spec.most_target:
        raise InvalidInput(
            f"An answer of at most {decoding.max_tokens} tokens, {prompt} of them given, does not "
            f"fit: the model writes at most {spec.most_target}."
        )
    named = itertools.chain(
        decoding.prompt, decoding.suppressed, decoding.suppressed_first, decoding.watched,
        decoding.stop_token_ids, () if decoding.forced_last is None else (decoding.forced_last,),
        () if decoding.timestamps is None else (decoding.timestamps,),
    )  # fmt: skip
    if any(not 0 <= token < size for token in named):
        raise InvalidInput(f"A token is named that is outside the vocabulary of {size}.")
    if decoding.beams > 1 and decoding.temperature:
        raise InvalidInput("Beams are searched without chance: temperature must be 0.")
    rows = max(decoding.beams, decoding.returned)
    if rows > MOST_ROWS_EACH or min(decoding.beams, decoding.returned) < 1:
        raise InvalidInput(f"At most {MOST_ROWS_EACH} beams or candidates are written.")
    if decoding.returned > decoding.beams and not decoding.temperature:
        raise InvalidInput(
            f"{decoding.returned} candidates of {decoding.beams} beams are asked for; ask for as "
            "many beams."
        )
