"""The kit of encoder-decoders: what every family writes is what transformers' `generate` writes.

The checkpoints are tiny and random. A new family is tested by adding its name to
`sequence_checkpoints.KINDS`.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaas.errors import InvalidInput, LMaaSError, ModelRefused, ParityFailed, PayloadTooLarge
from lmaas.frameworks import checkpoint
from lmaas.frameworks.sequence import families
from lmaas.frameworks.sequence.checkpoint import build
from lmaas.frameworks.sequence.families import FAMILIES
from lmaas.runtime import verify
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.sequence import lane, references
from lmaas.runtime.sequence.calls import Decoding, SequenceCall, SequenceResult, Written
from lmaas.runtime.sequence.engine import Output, SequenceEngine
from lmaas.runtime.sequence.sources import Encoder, Source, as_bfloat16
from lmaas.types import PushOptions, SequenceSpec
from sequence_checkpoints import END, KINDS, PAD, VOCABULARY, make, source_of

MOST_STEPS = 2000


class Made:
    """A checkpoint, its package, and the torch model that it came from."""

    def __init__(self, kind: str, folder: Path) -> None:
        import transformers

        self.kind = kind
        self.package = folder / "package"
        checkpoint.keep(make(kind, folder / "checkpoint"), self.package / "source")
        self.manifest = build(
            self.package / "source", PushOptions(name="tiny", task="summarization"), self.package
        )
        assert self.manifest.signature.sequence is not None
        self.spec: SequenceSpec = self.manifest.signature.sequence
        loads = {
            "whisper": "AutoModelForSpeechSeq2Seq",
            "trocr": "VisionEncoderDecoderModel",
        }.get(kind, "AutoModelForSeq2SeqLM")
        loaded = getattr(transformers, loads).from_pretrained(self.package / "source")
        self.torch = loaded.eval()
        # Else it fills in what a call does not set.
        self.torch.generation_config = transformers.GenerationConfig()

    def engine(self, **options: Any) -> SequenceEngine:
        engine = SequenceEngine()
        given: dict[str, Any] = {"precision": "f32", "threads": 1, "max_sequences": 48} | options
        engine.load(self.package / "compiled", self.spec, EngineOptions(**given))
        return engine

    def inputs(self, source: np.ndarray) -> dict[str, Any]:
        import torch

        name = {1: "input_ids", 2: "input_features", 3: "pixel_values"}[source.ndim]
        told = {name: torch.from_numpy(source)[None]}
        if source.ndim == 1:
            told["attention_mask"] = torch.ones_like(told[name])
        return told

    def generate(
        self, source: np.ndarray, prompt: tuple[int, ...], **asked: Any
    ) -> list[list[int]]:
        """What transformers' own `generate` gives after the prompt, up to the stop token."""
        import torch
        from transformers import GenerationConfig
        from transformers.generation.utils import GenerationMixin

        config = GenerationConfig(
            eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=prompt[0],
            do_sample=False, **asked,
        )  # fmt: skip
        with torch.inference_mode():
            rows = GenerationMixin.generate(
                self.torch,
                **self.inputs(source),
                decoder_input_ids=torch.tensor([prompt]),
                generation_config=config,
            ).tolist()
        written = [row[len(prompt) :] for row in rows]
        return [row[: row.index(END)] if END in row else row for row in written]


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("marian", tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("whisper", tmp_path_factory.mktemp("whisper"))


def decoding(spec: SequenceSpec, **changes: Any) -> Decoding:
    told: dict[str, Any] = {"prompt": spec.start, "max_tokens": 24, "stop_token_ids": (END,)}
    return Decoding(**(told | changes))


def finish(engine: SequenceEngine, count: int) -> dict[int, SequenceResult]:
    """The results of the next `count` sequences to end."""
    results: dict[int, SequenceResult] = {}
    for _ in range(MOST_STEPS):
        results |= {o.sequence: o.result for o in engine.step() if o.result is not None}
        if len(results) == count:
            return results
    raise AssertionError("the engine does not end")


def write(engine: SequenceEngine, source: np.ndarray, how: Decoding) -> SequenceResult:
    engine.add(0, SequenceCall(tag="alone", source=source, decoding=how))
    return finish(engine, 1)[0]


def test_every_family_is_in_the_kit() -> None:
    assert {kind.replace("trocr", "vision-encoder-decoder") for kind in KINDS} == set(FAMILIES)


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bfloat16")
def test_sources_in_bfloat16_change_nothing_that_bfloat16_does_not(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin rounds them in every step where they come as float32: the same numbers."""
    chance = np.random.default_rng(5)
    found = [source_of(made.kind, chance) for _ in range(5)]

    def told(engine: SequenceEngine) -> list[tuple[float, ...]]:
        results: dict[int, SequenceResult] = {}
        for number, source in enumerate(found):
            how = decoding(made.spec, max_tokens=12 + number, watched=tuple(range(VOCABULARY)))
            engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
            results |= {o.sequence: o.result for o in engine.step() if o.result is not None}
        if len(results) < len(found):
            results |= finish(engine, len(found) - len(results))
        engine.close()
        return [results[number].watched for number in range(len(found))]

    ours = told(made.engine(precision="bf16"))
    monkeypatch.setattr("lmaas.runtime.sequence.sources.CROSS", re.compile("none"))
    np.testing.assert_allclose(ours, told(made.engine(precision="bf16")), atol=0.02)


def test_rounding_to_bfloat16_is_to_the_nearest() -> None:
    values = np.array([1.0, -2.5, 1.00390625, 1.01171875, 1e38, 0.0], np.float32)
    back = (as_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(back[:5], values[:5], rtol=2**-8)
    assert back[2] == 1.0  # half way: to the even one
    assert back[3] == 1.015625


def test_tokens_are_those_of_generate_however_calls_join(made: Made) -> None:
    """Greedy, beams of several widths and rules, in one engine, joining while others run."""
    chance = np.random.default_rng(1)
    engine = made.engine()
    wanted: dict[int, list[list[int]]] = {}
    results: dict[int, SequenceResult] = {}
    for number in range(18):
        source = source_of(made.kind, chance)
        beams = (1, 4, 1, 2, 4, 1)[number % 6]
        asked: dict[str, Any] = {
            "max_length": int(chance.integers(8, 30)),
            "repetition_penalty": 1.3 if number % 5 == 0 else 1.0,
            "no_repeat_ngram_size": 2 if number % 7 == 0 else 0,
            "min_length": 6 if number % 4 == 0 else 0,
        }
        if beams > 1:
            asked |= {
                "num_beams": beams,
                "length_penalty": (1.0, 0.5, 2.0)[number % 3],
                "early_stopping": number % 4 == 1,
                "num_return_sequences": 2,
            }
        how = decoding(
            made.spec,
            max_tokens=asked["max_length"],
            min_tokens=asked["min_length"],
            beams=beams,
            returned=2 if beams > 1 else 1,
            length_penalty=asked.get("length_penalty", 1.0),
            early_stop=asked.get("early_stopping", False),
            repetition_penalty=asked["repetition_penalty"],
            no_repeat_ngram=asked["no_repeat_ngram_size"],
        )
        wanted[number] = made.generate(source, made.spec.start, **asked)
        engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
        for _ in range(number % 3):
            results |= {o.sequence: o.result for o in engine.step() if o.result is not None}
    results |= finish(engine, len(wanted) - len(results))
    for number, rows in wanted.items():
        assert [list(each.tokens) for each in results[number].candidates] == rows, number
        assert results[number].tag == number
    assert not engine.busy()
    assert engine.stats().running == 0
    engine.close()


def test_a_package_is_verified_again(made: Made, tmp_path: Path) -> None:
    if made.spec.source != "tokens":
        pytest.skip("the task in the manifest reads texts")
    body = msgspec.json.encode(verify.VerifyRequest(folder=str(made.package)))
    reply = msgspec.json.decode(verify.run(body), type=verify.Reply)
    assert reply.parity.passed("f32")
    assert {check.batch_size for check in reply.parity.checks} == {1, 4}


def test_log_probabilities_are_those_of_the_source(made: Made) -> None:
    import torch

    source = source_of(made.kind, np.random.default_rng(3))
    engine = made.engine()
    for beams in (1, 3):
        best = write(engine, source, decoding(made.spec, scores=True, beams=beams)).candidates[0]
        whole = torch.tensor([[*made.spec.start, *best.tokens]])
        with torch.inference_mode():
            logits = made.torch(**made.inputs(source), decoder_input_ids=whole).logits[0]
        shares = torch.log_softmax(logits, -1)[len(made.spec.start) - 1 :]
        tokens = [*best.tokens, END] if best.finish == "stop" else [*best.tokens]
        told = [float(shares[place, token]) for place, token in enumerate(tokens)]
        np.testing.assert_allclose(best.scores, told[: len(best.tokens)], atol=1e-3)
        assert best.logprob == pytest.approx(sum(told), abs=5e-3)


def test_the_first_token_may_be_given_and_counts(made: Made) -> None:
    """A forced first token, as transformers counts it where beams are compared by length."""
    source = source_of(made.kind, np.random.default_rng(8))
    want = made.generate(source, made.spec.start, max_length=20, num_beams=4, length_penalty=2.0,
                         forced_bos_token_id=9)  # fmt: skip
    how = decoding(made.spec, prompt=(*made.spec.start, 9), counted=1, max_tokens=20, beams=4,
                   length_penalty=2.0)  # fmt: skip
    got = write(made.engine(), source, how).candidates[0]
    assert [9, *got.tokens] == want[0]


def test_tokens_are_suppressed_and_forced(marian: Made) -> None:
    engine, source = marian.engine(), np.array([9, 10, 11, END])
    free = write(engine, source, decoding(marian.spec)).candidates[0].tokens
    first, others = free[0], tuple(set(free))
    want = marian.generate(source, marian.spec.start, max_length=24, suppress_tokens=list(others))
    got = write(engine, source, decoding(marian.spec, suppressed=others)).candidates[0]
    assert list(got.tokens) == want[0]
    begun = write(engine, source, decoding(marian.spec, suppressed_first=(first,))).candidates[0]
    assert (
        list(begun.tokens)
        == marian.generate(source, marian.spec.start, max_length=24, begin_suppress_tokens=[first])[
            0
        ]
    )
    for beams in (1, 4):
        last = write(
            engine, source, decoding(marian.spec, max_tokens=6, forced_last=7, beams=beams)
        ).candidates[0]
        asked: dict[str, Any] = {"num_beams": beams} if beams > 1 else {}
        want = marian.generate(source, marian.spec.start, max_length=6, forced_eos_token_id=7,
                               **asked)  # fmt: skip
        assert list(last.tokens) == want[0]


def test_time_tokens_keep_whispers_rules(whisper: Made) -> None:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
    from transformers.generation.utils import GenerationMixin

    engine, first = whisper.engine(), 40
    for seed in range(6):
        source = source_of("whisper", np.random.default_rng(seed))
        config = GenerationConfig(
            eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=1, max_length=24,
            no_timestamps_token_id=first - 1, max_initial_timestamp_index=5,
        )  # fmt: skip
        rules = LogitsProcessorList([WhisperTimeStampLogitsProcessor(config, begin_index=1)])
        with torch.inference_mode():
            want = GenerationMixin.generate(
                whisper.torch, **whisper.inputs(source), decoder_input_ids=torch.tensor([[1]]),
                generation_config=config, logits_processor=rules,
            )[0].tolist()[1:]  # fmt: skip
        want = want[: want.index(END)] if END in want else want
        how = decoding(whisper.spec, timestamps=first, most_first_timestamp=5)
        assert list(write(engine, source, how).candidates[0].tokens) == want


def test_attention_tells_where_heads_looked(whisper: Made) -> None:
    import torch

    source = source_of("whisper", np.random.default_rng(2))
    engine = whisper.engine()
    result = write(engine, source, decoding(whisper.spec, attention=True, watched=(5, 6)))
    best = result.candidates[0]
    whole = torch.tensor([[*whisper.spec.start, *best.tokens]])
    whisper.torch.set_attn_implementation("eager")
    with torch.inference_mode():
        told = whisper.torch(
            **whisper.inputs(source), decoder_input_ids=whole, output_attentions=True
        )
    whisper.torch.set_attn_implementation("sdpa")
    assert result.attention is not None
    heads = ((0, 1), (1, 2))
    want = np.stack([told.cross_attentions[layer][0, head].numpy() for layer, head in heads])
    np.testing.assert_allclose(result.attention, want, atol=1e-5)
    shares = torch.softmax(told.logits[0, 0], -1)
    np.testing.assert_allclose(result.watched, shares[[5, 6]].numpy(), rtol=1e-3)


def test_chance_is_the_same_with_the_same_seed_whoever_is_beside(marian: Made) -> None:
    engine, source = marian.engine(), np.array([9, 10, END])
    how = decoding(marian.spec, temperature=1.0, top_p=0.95, top_k=30, seed=5, returned=3)
    alone = write(engine, source, how).candidates
    assert len(alone) == 3
    assert len({each.tokens for each in alone}) > 1
    for number in range(1, 6):
        engine.add(number, SequenceCall(tag=0, source=source + number % 2, decoding=how))
        engine.step()
    engine.add(0, SequenceCall(tag=0, source=source, decoding=how))
    again = finish(engine, 6)[0].candidates
    assert [each.tokens for each in again] == [each.tokens for each in alone]
    greedy = write(engine, source, decoding(marian.spec)).candidates[0].tokens
    cold = decoding(marian.spec, temperature=1.0, top_k=1, seed=1)
    assert write(engine, source, cold).candidates[0].tokens == greedy


def test_drawn_tokens_have_the_models_shares(marian: Made) -> None:
    import torch

    engine, source = marian.engine(), np.array([9, 10, END])
    with torch.inference_mode():
        given_ = torch.tensor([marian.spec.start])
        logits = marian.torch(**marian.inputs(source), decoder_input_ids=given_).logits[0, 0]
    shares = torch.softmax(logits / 2.0, -1).numpy()
    counts = np.zeros(VOCABULARY)
    for seed in range(40):
        how = decoding(marian.spec, temperature=2.0, seed=seed, returned=32, max_tokens=2)
        for each in write(engine, source, how).candidates:
            counts[each.tokens[0] if each.tokens else END] += 1
    assert np.abs(counts / counts.sum() - shares).max() < 0.05


def test_cancelled_ones_leave_and_others_go_on(marian: Made) -> None:
    engine = marian.engine()
    how = decoding(marian.spec, max_tokens=40)
    sources = [np.array([8 + n, 20 + n, END]) for n in range(6)]
    alone = [write(engine, source, how).candidates for source in sources]
    for number, source in enumerate(sources):
        engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
    engine.step()
    engine.step()
    for number in (0, 3):
        engine.cancel(number)
    engine.cancel(99)
    engine.step()
    engine.cancel(5)
    results = finish(engine, 3)
    assert {n: each.candidates for n, each in results.items()} == {n: alone[n] for n in (1, 2, 4)}
    assert not engine.busy()
    assert engine.stats().cache_used == 0


def test_waiting_ones_are_bounded_by_rows_and_memory(marian: Made) -> None:
    engine = marian.engine(max_sequences=4)
    how = decoding(marian.spec, max_tokens=12)
    for number in range(9):
        beams = 4 if number == 4 else 1
        source = np.array([8 + number, END])
        call = SequenceCall(tag=number, source=source, decoding=decoding(
            marian.spec, max_tokens=12, beams=beams))  # fmt: skip
        engine.add(number, call)
    seen = 0
    results: dict[int, SequenceResult] = {}
    for _ in range(MOST_STEPS):
        results |= {o.sequence: o.result for o in engine.step() if o.result is not None}
        stats = engine.stats()
        seen = max(seen, stats.running)
        if len(results) == 9:
            break
    assert seen <= 4
    assert len(results) == 9
    small = marian.engine(cache_bytes=1)
    small.add(0, SequenceCall(tag=0, source=np.array([9, END]), decoding=how))
    small.add(1, SequenceCall(tag=0, source=np.array([9, END]), decoding=how))
    small.step()
    assert (small.stats().running, small.stats().waiting) == (1, 1)
    assert len(finish(small, 2)) == 2
    with pytest.raises(InvalidInput, match="at most 4 at once"):
        engine.add(0, SequenceCall(tag=0, source=np.array([9, END]),
                                   decoding=decoding(marian.spec, beams=5)))  # fmt: skip


@pytest.mark.parametrize("kind", ["marian", "whisper"])
def test_an_array_is_encoded_once_however_often_it_is_asked_about(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Made = request.getfixturevalue(kind)
    engine = made.engine()
    chance = np.random.default_rng(6)
    source, other = source_of(kind, chance), source_of(kind, chance)
    hows = [decoding(made.spec, beams=beams) for beams in (1, 3, 1)]
    alone = [write(made.engine(), source, how).candidates for how in hows]
    runs: list[int] = []
    run = Encoder.run

    def counted(self: Encoder, sources: list[Source]) -> None:
        runs.append(len(sources))
        run(self, sources)

    monkeypatch.setattr(Encoder, "run", counted)
    engine.add(9, SequenceCall(tag=9, source=other, decoding=hows[0]))
    for number, how in enumerate(hows[:2]):
        engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
        engine.step()
    results = finish(engine, 3)
    engine.add(2, SequenceCall(tag=2, source=source, decoding=hows[2]))
    results |= finish(engine, 1)
    assert [results[number].candidates for number in range(3)] == alone
    assert sum(runs) == 2
    copy = source.copy()
    for number in range(20):
        write(engine, copy + 0, decoding(made.spec, max_tokens=3, stop_token_ids=()))
        assert len(engine._sources._kept) <= 4, number
    assert not engine._holders


def test_streamed_tokens_are_those_of_the_result(marian: Made) -> None:
    engine, source = marian.engine(), np.array([9, 10, END])
    call = SequenceCall(tag=0, source=source, stream=True,
                        decoding=decoding(marian.spec, scores=True))  # fmt: skip
    engine.add(0, call)
    outputs: list[Output] = []
    for _ in range(MOST_STEPS):
        outputs += engine.step()
        if outputs and outputs[-1].result is not None:
            break
    result = outputs[-1].result
    assert result is not None
    best = result.candidates[0]
    assert sum((each.tokens for each in outputs), ()) == best.tokens
    assert sum((each.scores for each in outputs), ()) == best.scores


def test_a_past_that_is_mostly_hidden_is_written_anew(
    marian: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come and go for long: the columns stay bounded, and the tokens the same."""
    monkeypatch.setattr(lane, "SPARE", 4)
    engine = marian.engine()
    how = decoding(marian.spec, max_tokens=12)
    sources = [np.array([7 + n % 40, 8 + n % 7, END]) for n in range(60)]
    alone = [write(engine, source, how).candidates[0].tokens for source in sources[:10]]
    results: dict[int, SequenceResult] = {}
    most = 0
    for number, source in enumerate(sources):
        engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
        for _ in range(3):
            results |= {o.sequence: o.result for o in engine.step() if o.result is not None}
            most = max(most, engine._lanes[1].columns)
    results |= finish(engine, len(sources) - len(results))
    assert [results[n].candidates[0].tokens for n in range(10)] == alone
    assert most <= 2 * 12 + 4 + 1


MENU = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 1, 2, 3]), st.integers(0, 3)),
    min_size=1,
    max_size=10,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(menu=MENU, cancelled=st.sets(st.integers(0, 9), max_size=3))
def test_any_order_of_joins_gives_what_each_gives_alone(
    known: dict[tuple[int, int], tuple[Written, ...]],
    shared: SequenceEngine,
    sources: list[np.ndarray],
    menu: list[tuple[int, int, int]],
    cancelled: set[int],
) -> None:
    spec = shared._spec
    assert spec is not None
    results: dict[int, SequenceResult] = {}
    for number, (which, beams, steps) in enumerate(menu):
        how = decoding(spec, max_tokens=10 + which, beams=beams)
        shared.add(number, SequenceCall(tag=number, source=sources[which], decoding=how))
        for _ in range(steps):
            results |= {o.sequence: o.result for o in shared.step() if o.result is not None}
        if number in cancelled:
            shared.cancel(number)
    for _ in range(MOST_STEPS):
        if not shared.busy():
            break
        results |= {o.sequence: o.result for o in shared.step() if o.result is not None}
    for number, (which, beams, _) in enumerate(menu):
        if number in results:
            got = [each.tokens for each in results[number].candidates]
            assert got == [each.tokens for each in known[which, beams]]
        else:
            assert number in cancelled


@pytest.fixture(scope="module", params=["t5", "m2m_100"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Made(request.param, tmp_path_factory.mktemp("shared")).engine()


@pytest.fixture(scope="module")
def sources() -> list[np.ndarray]:
    chance = np.random.default_rng(4)
    return [chance.integers(7, VOCABULARY, length) for length in (1, 3, 5, 8, 13, 30)]


@pytest.fixture(scope="module")
def known(
    shared: SequenceEngine, sources: list[np.ndarray]
) -> dict[tuple[int, int], tuple[Written, ...]]:
    spec = shared._spec
    assert spec is not None
    return {
        (which, beams): write(
            shared, source, decoding(spec, max_tokens=10 + which, beams=beams)
        ).candidates
        for which, source in enumerate(sources)
        for beams in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("source", "how", "error", "text"),
    [
        (np.zeros((2, 2), np.int64), {}, InvalidInput, "1 axes"),
        (np.zeros(0, np.int64), {}, InvalidInput, "shape"),
        (np.zeros(65, np.int64), {}, PayloadTooLarge, "at most 64"),
        (np.array([9]), {"max_tokens": 65}, InvalidInput, "at most 64"),
        (np.array([9]), {"prompt": ()}, InvalidInput, "0 of them given"),
        (np.array([9]), {"suppressed": (VOCABULARY,)}, InvalidInput, "outside the vocabulary"),
        (np.array([9]), {"beams": 2, "temperature": 1.0}, InvalidInput, "without chance"),
        (np.array([9]), {"returned": 2}, InvalidInput, "2 candidates of 1 beams"),
        (np.array([9]), {"attention": True}, InvalidInput, "no heads"),
        (np.array([9]), {"beams": 33, "returned": 1}, InvalidInput, "At most 32"),
        (np.array([9]), {"counted": 2}, InvalidInput, "cannot count"),
        (np.array([VOCABULARY]), {}, InvalidInput, "outside the vocabulary"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    marian: Made, source: np.ndarray, how: dict[str, Any], error: type[LMaaSError], text: str
) -> None:
    engine = marian.engine()
    call = SequenceCall(tag=0, source=source, decoding=decoding(marian.spec, **how))
    with pytest.raises(error, match=text):
        engine.add(0, call)
    assert not engine.busy()


def test_broken_weights_are_an_error_and_no_text(marian: Made, tmp_path: Path) -> None:
    from lmaas.frameworks.sequence.compile import compile_network
    from lmaas.frameworks.sequence.stored import Stored

    stored = Stored(marian.package / "source")
    config = json.loads((marian.package / "source" / "config.json").read_text())
    network, weights = families.read(config, stored)
    weights["decoder.layers.1.feed.out.bias"] = np.full(network.decoder.width, np.nan, np.float32)
    compile_network(network, weights, tmp_path)
    engine = SequenceEngine()
    engine.load(tmp_path, marian.spec, EngineOptions(precision="f32"))
    result = write(engine, np.array([9, END]), decoding(marian.spec))
    assert isinstance(result.error, LMaaSError)
    assert not engine.busy()
    del weights["decoder.layers.1.feed.out.bias"], weights["decoder.layers.1.feed.out.weight"]
    with pytest.raises(ModelRefused, match=r"decoder.layers.1.feed.out.weight"):
        compile_network(network, weights, tmp_path)


def test_a_package_that_writes_something_else_fails(marian: Made) -> None:
    from lmaas.runtime.sequence import parity

    sample = marian.package / "sample.safetensors"
    told = references.read(sample)
    wrong = (*told[0].tokens[:-1], (told[0].tokens[-1] + 1) % VOCABULARY)
    scores = told[0].scores - np.eye(len(wrong), dtype=np.float32)[-1]
    copy = sample.with_name("other.safetensors")
    references.write(
        copy, [msgspec.structs.replace(told[0], tokens=wrong, scores=scores), *told[1:]]
    )
    report = parity.measure(marian.package / "compiled", copy, marian.spec)
    with pytest.raises(ParityFailed, match="1 of 10 cases"):
        parity.require(report)


@pytest.mark.skipif(not has_bf16(), reason="the CPU has no bf16")
def test_bf16_is_measured_token_by_token(marian: Made) -> None:
    from lmaas.runtime.sequence import parity

    sample = marian.package / "sample.safetensors"
    told = references.read(sample)
    greedy = [each for each in told if each.how.beams == 1]
    report = parity.measure(marian.package / "compiled", sample, marian.spec, bf16=True)
    checks = [check for check in report.checks if check.precision == "bf16"]
    assert len(checks) == len(greedy)
    assert any(check.max_abs_error > 0 for check in checks)
    # Another token that is as good is no error, and one that is not is.
    longest = max(range(len(told)), key=lambda n: (told[n].how.beams == 1) * len(told[n].tokens))
    case = told[longest]
    for error, passed in ((0.0, True), (3.0, False)):
        tokens = (*case.tokens[:1], (case.tokens[1] + 1) % VOCABULARY, *case.tokens[2:])
        scores = case.scores - error * np.eye(len(case.scores), dtype=np.float32)[1]
        copy = sample.with_name("bf16.safetensors")
        case_told = msgspec.structs.replace(case, tokens=tokens[:2], scores=scores[:2])
        references.write(copy, [case_told])
        report = parity.measure(marian.package / "compiled", copy, marian.spec, bf16=True)
        (check,) = [each for each in report.checks if each.precision == "bf16"]
        assert check.passed is passed, check


def test_unknown_families_are_refused_by_name() -> None:
    with pytest.raises(ModelRefused, match=r"'longt5' cannot be built here; known: .*marian"):
        families.read({"model_type": "longt5"}, {})
    with pytest.raises(ModelRefused, match="lacks 'd_model'"):
        families.read({"model_type": "marian"}, {})
