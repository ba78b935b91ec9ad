"""Every language engine passes the kit, on a checkpoint whose answers transformers knows."""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from checkpoints import make_falcon_h1, make_qwen3
from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError
from lmaas.generation_types import Finish, LanguageSpec
from lmaas.runtime.language.engine import ENGINES as SPECS
from lmaas.runtime.language.engine import (
    EngineOptions,
    Grammar,
    LanguageEngine,
    TokenSampling,
    TokenScore,
    make_language_engine,
)
from lmaas.runtime.language.grammar import Prover
from lmaas.runtime.language.pictures import Picture
from lmaas.types import PushOptions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

STATES = "torch with states"
ENGINES = ["openvino-genai", "torch", STATES]
"""By name; torch runs models with a recurrent state in another way, so it is there twice."""
LENGTHS = (3, 40, 7, 100, 1, 17)
GREEDY = TokenSampling(max_tokens=24, temperature=0)
TOLERANCE = 0.01
"""Of log probabilities in f32: an engine may keep its cache in 16 bits."""
OPTIONS = EngineOptions(precision="f32", cache_bytes=1 << 22)


class Made(NamedTuple):
    """A checkpoint, its compiled form, and the source model that says what is right."""

    source: Path
    compiled: Path
    spec: LanguageSpec
    model: Any
    tokenizer: Any

    def folder(self, engine: str) -> Path:
        return self.compiled if engine == "openvino-genai" else self.source


class Answer:
    """What one sequence got."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.scores: list[TokenScore] = []
        self.finish: Finish | None = None


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    from transformers import AutoModelForCausalLM

    from lmaas.frameworks import causal, checkpoint

    source = tmp_path_factory.mktemp("source")
    package = tmp_path_factory.mktemp("package")
    # Weights so large that some tokens are clearly likelier than others.
    make = make_falcon_h1 if name == STATES else make_qwen3
    make(source, initializer_range=0.15, max_position_embeddings=1600)
    with warnings.catch_warnings():
        # The exporter's own, which the server meets in a child process.
        warnings.simplefilter("ignore")
        manifest = causal.build(source, PushOptions(name="tiny"), package)
    assert manifest.signature.language is not None
    assert ("not_compiled" in manifest.lineage.recipe) == (name == STATES)
    return Made(
        source,
        package / "compiled",
        manifest.signature.language,
        checkpoint.load_model(AutoModelForCausalLM, source, torch.float32),
        checkpoint.load_tokenizer(source),
    )


@pytest.fixture(scope="module")
def engine(name: str, made: Made) -> Iterator[LanguageEngine]:
    loaded = load(name, made)
    yield loaded
    loaded.close()


def load(name: str, made: Made, **options: Any) -> LanguageEngine:
    engine = make_language_engine(name.partition(" ")[0])
    engine.load(made.folder(name), made.spec, msgspec.structs.replace(OPTIONS, **options))
    return engine


def prompts(made: Made, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(3, made.spec.vocabulary_size, (length,), generator=generator).tolist()
        for length in lengths
    ]


def logprobs(made: Made, prompt: list[int], tokens: list[int]) -> Any:
    """The source's log probabilities at the place of each of `tokens`: (tokens, vocabulary)."""
    with torch.inference_mode():
        logits = made.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


def check_greedy(made: Made, prompt: list[int], tokens: list[int]) -> None:
    """Each token is the one that the source holds most likely, or as good as that."""
    assert tokens
    values = logprobs(made, prompt, tokens)
    own = values.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    short = values.amax(-1) - own
    assert float(short.max()) < TOLERANCE, f"token {int(short.argmax())} is not the likeliest"


def drain(engine: LanguageEngine, answers: dict[int, Answer] | None = None) -> dict[int, Answer]:
    """Run to the end; what each sequence got."""
    answers = {} if answers is None else answers
    while engine.busy():
        advance(engine, answers)
    return answers


def advance(engine: LanguageEngine, answers: dict[int, Answer]) -> None:
    for output in engine.step():
        answer = answers.setdefault(output.sequence, Answer())
        assert answer.finish is None, "nothing comes after the end"
        answer.tokens += output.tokens
        answer.scores += output.scores
        answer.finish = output.finish


def run(
    engine: LanguageEngine, prompt: list[int], sampling: TokenSampling | None = None, **fields: Any
) -> Answer:
    """One sequence alone; `fields` change `sampling`, or greedy decoding."""
    engine.add(1, prompt, msgspec.structs.replace(sampling or GREEDY, **fields))
    return drain(engine)[1]


def together(
    engine: LanguageEngine, made: Made, sampling: TokenSampling, count: int = 8
) -> list[list[int]]:
    """The same sampling for many prompts at once."""
    for number, prompt in enumerate(prompts(made, (5,) * count)):
        engine.add(number, prompt, sampling)
    answers = drain(engine)
    return [answers[number].tokens for number in range(count)]


def check_idle(engine: LanguageEngine) -> None:
    stats = engine.stats()
    assert not engine.busy()
    assert (stats.running, stats.waiting, stats.cache_used) == (0, 0, 0)


# Right tokens


def test_greedy_is_the_source_s(engine: LanguageEngine, made: Made) -> None:
    for prompt in prompts(made):
        answer = run(engine, prompt)
        check_greedy(made, prompt, answer.tokens)
        assert (len(answer.tokens), answer.finish) == (GREEDY.max_tokens, "length")
        assert not answer.scores
    check_idle(engine)


def test_many_at_once_are_as_alone(engine: LanguageEngine, made: Made) -> None:
    asked = prompts(made) * 2
    for number, prompt in enumerate(asked):
        engine.add(number, prompt, GREEDY)
    answers = drain(engine)
    for number, prompt in enumerate(asked):
        check_greedy(made, prompt, answers[number].tokens)
    check_idle(engine)


def test_joining_and_leaving_changes_nothing(engine: LanguageEngine, made: Made) -> None:
    answers: dict[int, Answer] = {}
    counts = (30, 4, 12, 8, 20, 5)
    for number, prompt in enumerate(prompts(made)):
        sampling = msgspec.structs.replace(GREEDY, max_tokens=counts[number])
        engine.add(number, prompt, sampling)
        for _ in range(3):
            advance(engine, answers)
    drain(engine, answers)
    for number, prompt in enumerate(prompts(made)):
        check_greedy(made, prompt, answers[number].tokens)
        assert len(answers[number].tokens) == counts[number]
    check_idle(engine)


def test_long_prompt_beside_running(name: str, engine: LanguageEngine, made: Made) -> None:
    short, long = prompts(made, (5, 1500))
    answers: dict[int, Answer] = {}
    engine.add(1, short, msgspec.structs.replace(GREEDY, max_tokens=40))
    while not answers:
        advance(engine, answers)
    engine.add(2, long, GREEDY)
    before = len(answers[1].tokens)
    while 2 not in answers:
        advance(engine, answers)
    if name != STATES:  # which reads a prompt at once
        assert len(answers[1].tokens) > before + 1, "the running answer goes on meanwhile"
    drain(engine, answers)
    check_greedy(made, short, answers[1].tokens)
    check_greedy(made, long, answers[2].tokens)


def test_what_prompts_share_is_computed_once(engine: LanguageEngine, made: Made) -> None:
    if engine.name == "torch":
        pytest.skip("it shares no blocks")
    common, *own = prompts(made, (1500, *(10,) * 6))
    answers: dict[int, Answer] = {}
    for number, rest in enumerate(own):
        engine.add(number, common + rest, GREEDY)
    engine.add(6, own[0], GREEDY)
    for _ in range(5):  # of at most 512 tokens
        advance(engine, answers)
    assert len(answers) == 7, "six prompts of 1,510 tokens would take 18 steps"
    drain(engine, answers)
    for number, rest in enumerate(own):
        check_greedy(made, common + rest, answers[number].tokens)
    check_idle(engine)


def test_who_waits_for_a_prefix_goes_on_without_its_first(
    name: str, engine: LanguageEngine, made: Made
) -> None:
    *own, common = prompts(made, (10, 10, 10, 1500))
    for number, rest in enumerate(own):
        engine.add(number, common + rest, GREEDY)
    answers: dict[int, Answer] = {}
    advance(engine, answers)
    engine.cancel(0)
    engine.cancel(2)
    drain(engine, answers)
    assert set(answers) == ({0, 1} if name == STATES else {1})
    check_greedy(made, common + own[1], answers[1].tokens)
    check_idle(engine)


# Sampling


def test_seeds(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (5,))
    sampling = TokenSampling(max_tokens=24, temperature=1.5, seed=7)
    alone = run(engine, prompt, sampling).tokens
    assert run(engine, prompt, sampling).tokens == alone
    assert run(engine, prompt, sampling, seed=8).tokens != alone
    assert len({tuple(run(engine, prompt, sampling, seed=None).tokens) for _ in range(2)}) == 2
    engine.add(1, prompt, msgspec.structs.replace(sampling, seed=3))
    engine.add(2, prompt, sampling)
    engine.add(3, prompt, sampling)
    engine.add(4, prompts(made)[1], msgspec.structs.replace(sampling, seed=None))
    answers = drain(engine)
    assert answers[2].tokens == answers[3].tokens == alone
    assert answers[1].tokens != alone


def test_limits(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (5,))
    free = run(engine, prompt).tokens
    one = run(engine, prompt, max_tokens=1)
    assert (one.tokens, one.finish) == (free[:1], "length")
    stop = next(token for token in free[3:] if token not in free[:3])
    place = free.index(stop)
    stopped = run(engine, prompt, stop_token_ids=(stop, 1))
    assert (stopped.tokens, stopped.finish) == (free[: place + 1], "stop")
    last = run(engine, prompt, stop_token_ids=(stop,), max_tokens=place + 1)
    assert (last.tokens, last.finish) == (free[: place + 1], "stop")
    later = run(engine, prompt, stop_token_ids=(stop,), min_tokens=place + 2)
    assert stop not in later.tokens[: place + 1]
    assert len(later.tokens) >= place + 2


def test_filters_narrow_to_greedy(engine: LanguageEngine, made: Made) -> None:
    hot = TokenSampling(max_tokens=12, temperature=2.0, seed=1)
    greedy = together(engine, made, msgspec.structs.replace(hot, temperature=0.0))
    assert together(engine, made, hot) != greedy
    for field, value in {"top_k": 1, "top_p": 1e-6, "min_p": 0.999, "temperature": 1e-4}.items():
        narrow = msgspec.structs.replace(hot, **{field: value})
        assert together(engine, made, narrow) == greedy, field


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties(engine: LanguageEngine, made: Made, field: str) -> None:
    def repeated(sampling: TokenSampling) -> int:
        answers = together(engine, made, sampling)
        return sum(len(tokens) - len(set(tokens)) for tokens in answers)

    free = repeated(GREEDY)
    assert repeated(msgspec.structs.replace(GREEDY, **{field: 2.0})) < free
    less = 0.5 if field == "repetition_penalty" else -2.0
    assert repeated(msgspec.structs.replace(GREEDY, **{field: less})) > free


def test_what_it_cannot_it_refuses(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (5,))
    asked: dict[str, dict[str, Any]] = {
        "logit_bias": {"logit_bias": {9: 100.0}},
    }
    assert engine.unsupported <= {*asked}
    for field, given in asked.items():
        if field in engine.unsupported:
            with pytest.raises(InvalidInput) as caught:
                run(engine, prompt, **given)
            assert caught.value.param == field
            check_idle(engine)
    if "logit_bias" not in engine.unsupported:
        assert run(engine, prompt, logit_bias={9: 100.0}).tokens == [9] * GREEDY.max_tokens
        assert 9 not in run(engine, prompt, logit_bias={9: -100.0}).tokens


# Log probabilities


def scored(engine: LanguageEngine, prompt: list[int], top: int) -> list[TokenScore]:
    """All pieces together."""
    return [score for piece in engine.score(prompt, top) for score in piece]


def test_logprobs_are_the_source_s(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (17,))
    top = 3
    answer = run(engine, prompt, logprobs=top)
    values = logprobs(made, prompt, answer.tokens)
    assert len(answer.scores) == len(answer.tokens)
    for row, token, score in zip(values, answer.tokens, answer.scores, strict=True):
        assert score.logprob == pytest.approx(float(row[token]), abs=TOLERANCE)
        best = row.topk(top).values.tolist()
        assert [value for _, value in score.top] == pytest.approx(best, abs=TOLERANCE)
        for other, value in score.top:
            assert value == pytest.approx(float(row[other]), abs=TOLERANCE)


def test_prompt_logprobs(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (300,))
    with torch.inference_mode():
        values = made.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    scores = scored(engine, prompt, 2)
    assert scores[0] == TokenScore(None)
    told = [score.logprob for score in scores[1:]]
    want = [float(row[token]) for row, token in zip(values, prompt[1:], strict=False)]
    assert told == pytest.approx(want, abs=1e-3)
    best = [score.top[0][1] for score in scores[1:]]
    assert best == pytest.approx(values.amax(-1).tolist()[:-1], abs=1e-3)
    assert scored(engine, prompt[:1], 0) == [TokenScore(None)]
    with pytest.raises(InvalidInput):
        scored(engine, [1 << 20], 0)
    check_idle(engine)


def test_logprobs_of_many_at_once(engine: LanguageEngine, made: Made) -> None:
    """Prompts and answers are scored beside answers that nobody asks the scores of."""
    asked = prompts(made)
    engine.add(9, asked[0], GREEDY)
    for number, prompt in enumerate(asked):
        engine.add(number, prompt, msgspec.structs.replace(GREEDY, logprobs=number % 3))
    whole = engine.score(asked[1], 1)
    told = [*next(whole)]
    left = engine.score(asked[1], 1)
    next(left)
    left.close()
    answers: dict[int, Answer] = {}
    advance(engine, answers)
    engine.cancel(1)
    while engine.busy():
        told += next(whole, [])
        advance(engine, answers)
    told += [score for piece in whole for score in piece]
    want = logprobs(made, asked[1][:1], asked[1][1:])
    for row, token, score in zip(want, asked[1][1:], told[1:], strict=True):
        assert score.logprob == pytest.approx(float(row[token]), abs=1e-3)
    for number, prompt in enumerate(asked):
        if number != 1:
            answer = answers[number]
            assert len(answer.scores) == GREEDY.max_tokens
            values = logprobs(made, prompt, answer.tokens)
            for row, token, score in zip(values, answer.tokens, answer.scores, strict=True):
                assert score.logprob == pytest.approx(float(row[token]), abs=TOLERANCE)
                assert len(score.top) == number % 3
    check_greedy(made, asked[0], answers[9].tokens)
    check_idle(engine)


# Grammars

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS: dict[str, Any] = {
    "required": True,
    "parallel": False,
    "schema": None,
    "tools": [
        {"name": "paint", "parameters": SCHEMA},
        {"name": "look", "parameters": {"type": "object", "additionalProperties": False}},
    ],
}


def grammar(kind: Any, content: Any = None) -> Grammar:
    return Grammar(kind=kind, text="" if content is None else json.dumps(content))


def written(engine: LanguageEngine, made: Made, form: Grammar) -> list[str]:
    """The texts that the model wrote to the end. It has no sense, and may write blanks forever."""
    (prompt,) = prompts(made, (5,))
    hot = TokenSampling(
        max_tokens=300, temperature=2.0, stop_token_ids=made.spec.stop_token_ids, grammar=form
    )
    for seed in range(8):
        engine.add(seed, prompt, msgspec.structs.replace(hot, seed=seed))
    whole = [answer.tokens for answer in drain(engine).values() if answer.finish == "stop"]
    texts = [made.tokenizer.decode([t for t in tokens if t > 2]) for tokens in whole]
    assert len(texts) > 2
    return texts


def drawn(
    engine: LanguageEngine,
    made: Made,
    form: Grammar,
    count: int,
    max_tokens: int,
    likely: dict[str, float],
) -> list[Answer]:
    """What `count` seeds draw, so hot that a model without sense happens upon what it may write.

    `likely` tokens are made likelier, where the engine can.
    """
    bias = {made.tokenizer.convert_tokens_to_ids(token): by for token, by in likely.items()}
    hot = TokenSampling(
        max_tokens=max_tokens,
        temperature=20.0,
        stop_token_ids=made.spec.stop_token_ids,
        grammar=form,
        logit_bias={} if "logit_bias" in engine.unsupported else bias,
    )
    (prompt,) = prompts(made, (5,))
    for seed in range(count):
        engine.add(seed, prompt, msgspec.structs.replace(hot, seed=seed))
    return list(drain(engine).values())


def test_a_schema_is_kept(engine: LanguageEngine, made: Made) -> None:
    for text in written(engine, made, grammar("json_schema", SCHEMA)):
        value = json.loads(text)
        assert set(value) == {"a", "b"}
        assert value["a"] in ("x", "y")
        assert isinstance(value["b"], bool)


def test_a_required_tool_is_called(engine: LanguageEngine, made: Made) -> None:
    for text in written(engine, made, grammar("tools", TOOLS)):
        assert text.startswith("<tool_call>\n")
        assert text.endswith("\n</tool_call>")
        call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert set(call) == {"name", "arguments"}
        if call["name"] == "look":
            assert call["arguments"] == {}
        else:
            assert call["name"] == "paint"
            assert set(call["arguments"]) == {"a", "b"}


def test_the_references_of_a_tool_are_its_own(engine: LanguageEngine, made: Made) -> None:
    parameters = {
        "$defs": {"size": {"enum": [1, 2]}},
        "type": "object",
        "properties": {"size": {"$ref": "#/$defs/size"}},
        "required": ["size"],
        "additionalProperties": False,
    }
    tools = [{"name": "paint", "parameters": parameters}]
    for text in written(engine, made, grammar("tools", {**TOOLS, "tools": tools})):
        call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert call["arguments"] in ({"size": 1}, {"size": 2})


def test_a_tool_may_be_called(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (5,))
    form = grammar("tools", {**TOOLS, "required": False, "parallel": True})
    free = run(engine, prompt, grammar=form)
    assert "tool_call" not in made.tokenizer.decode(free.tokens)
    if "logit_bias" in engine.unsupported:
        pytest.skip("nothing can make a model without sense call a tool")
    begin = made.tokenizer.convert_tokens_to_ids("<tool_call>")
    called = run(engine, prompt, grammar=form, logit_bias={begin: 100.0}, max_tokens=200)
    calls = made.tokenizer.decode(called.tokens).split("<tool_call>")
    assert len(calls) > 2, "it calls again and again"
    assert calls[0] == ""
    for call in calls[1:-1]:
        assert json.loads(call.removesuffix("</tool_call>"))["name"] in ("paint", "look")


def test_a_tool_is_called_once_where_only_one_may_be(
    name: str, engine: LanguageEngine, made: Made
) -> None:
    """A model without sense happens to call now and then, among many tokens."""
    if name == STATES:
        pytest.skip("slow, and its grammars are torch's")
    form = grammar("tools", {**TOOLS, "required": False})
    answers = drawn(engine, made, form, 24, 250, {"<tool_call>": 4.0})
    texts = [made.tokenizer.decode(a.tokens) for a in answers if a.finish == "stop"]
    called = [text for text in texts if "<tool_call>" in text]
    assert called
    for text in called:
        _, call = text.split("<tool_call>")
        inside, rest = call.split("</tool_call>")
        assert json.loads(inside)["name"] in ("paint", "look")
        assert rest in ("", "<|im_end|>", "<|endoftext|>")


def test_a_grammar_s_end_is_the_end(engine: LanguageEngine, made: Made) -> None:
    """`min_tokens` beyond it is refused, or what fits comes nevertheless."""
    (prompt,) = prompts(made, (5,))
    form = grammar("json_schema", {"const": 1})
    stops = made.spec.stop_token_ids
    asked: dict[str, Any] = {"grammar": form, "min_tokens": 20, "stop_token_ids": stops}
    if engine.name == "openvino-genai":
        with pytest.raises(InvalidInput, match="min_tokens"):
            run(engine, prompt, **asked)
        check_idle(engine)
        return
    answer = run(engine, prompt, **asked)
    assert made.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip() == "1"


UNION = {**TOOLS, "required": False, "schema": {"enum": ["<tool_call>", "größe"]}}


@pytest.mark.parametrize("parallel", [False, True])
def test_calls_or_a_text_that_fits(
    name: str, engine: LanguageEngine, made: Made, parallel: bool
) -> None:
    if name == STATES:
        pytest.skip("slow, and its grammars are torch's")
    texts = written(engine, made, grammar("tools", {**UNION, "parallel": parallel}))
    kinds = set()
    for text in texts:
        kinds.add(text[0])
        if text[0] == "<":
            calls = text.split("\n</tool_call>")
            assert calls.pop() == ""
            assert parallel or len(calls) == 1
            for call in calls:
                assert call.lstrip().startswith("<tool_call>\n")
                assert "name" in json.loads(call.partition("\n{")[1] + call.partition("\n{")[2])
        else:
            assert json.loads(text) in UNION["schema"]["enum"]
    assert "<" in kinds


@pytest.mark.parametrize("reasoning", ["opened", "may"])
def test_reasoning_may_come_first(
    name: str, engine: LanguageEngine, made: Made, reasoning: Any
) -> None:
    if name == STATES:
        pytest.skip("slow, and its grammars are torch's")
    form = Grammar(kind="json_schema", text=json.dumps(SCHEMA), reasoning=reasoning)
    answers = drawn(engine, made, form, 12, 500, {"</think>": 4.0})
    texts = [made.tokenizer.decode(a.tokens) for a in answers if a.finish == "stop"]
    thought = [text for text in texts if "</think>" in text]
    assert thought
    assert reasoning == "may" or thought == texts
    for text in texts:
        answer = text.rpartition("</think>")[2].replace("<|im_end|>", "")
        assert set(json.loads(answer.replace("<|endoftext|>", ""))) == {"a", "b"}


def test_a_tag_that_is_thought_of_begins_no_call(
    name: str, engine: LanguageEngine, made: Made
) -> None:
    if name == STATES:
        pytest.skip("slow, and its grammars are torch's")
    tools = json.dumps({**TOOLS, "required": False, "parallel": True})
    form = Grammar(kind="tools", text=tools, reasoning="opened")
    answers = drawn(engine, made, form, 12, 500, {"<tool_call>": 20.0, "</think>": 20.0})
    texts = [made.tokenizer.decode(answer.tokens) for answer in answers]
    thoughts = [text.partition("</think>")[0] for text in texts]
    assert any("<tool_call>" in thought for thought in thoughts)
    for thought in thoughts:
        assert "<tool_call>\n{" not in thought
    for text in texts:
        for call in text.partition("</think>")[2].split("<tool_call>")[1:]:
            if "</tool_call>" in call:
                inside = call.partition("</tool_call>")[0]
                assert json.loads(inside)["name"] in ("paint", "look")


def test_grammars_leave_neighbours_alone(engine: LanguageEngine, made: Made) -> None:
    asked = prompts(made)
    for number, prompt in enumerate(asked):
        engine.add(number, prompt, GREEDY)
    form = grammar("json_schema", SCHEMA)
    engine.add(99, asked[0], msgspec.structs.replace(GREEDY, grammar=form, max_tokens=60))
    engine.add(98, asked[1], msgspec.structs.replace(GREEDY, grammar=grammar("json_object")))
    answers = drain(engine)
    for number, prompt in enumerate(asked):
        check_greedy(made, prompt, answers[number].tokens)
    assert made.tokenizer.decode(answers[98].tokens).lstrip().startswith("{")


def test_min_p_of_one_is_greedy(engine: LanguageEngine, made: Made) -> None:
    (prompt,) = prompts(made, (5,))
    strict = TokenSampling(max_tokens=12, temperature=1.5, min_p=1.0, seed=3)
    check_greedy(made, prompt, run(engine, prompt, strict).tokens)


def add_with(engine: LanguageEngine, made: Made, prompt: list[int], form: Grammar) -> None:
    if engine.name == "openvino-genai":
        # Its pipeline would break: such grammars are proven in another process before.
        prover = Prover(made.compiled, made.spec.vocabulary_size)
        try:
            prover.check(form)
        finally:
            prover.close()
    engine.add(2, prompt, msgspec.structs.replace(GREEDY, grammar=form))


@pytest.mark.parametrize(
    "form",
    [
        grammar("json_schema", {"type": "string", "pattern": "("}),
        grammar("json_schema", {"$ref": "#/$defs/nowhere"}),
        grammar("json_schema", {"type": "nonsense"}),
        grammar(
            "tools",
            {**TOOLS, "tools": [{"name": "f", "parameters": {"type": "string", "pattern": "["}}]},
        ),
    ],
    ids=["pattern", "ref", "type", "tool"],
)
def test_a_bad_schema_is_refused(engine: LanguageEngine, made: Made, form: Grammar) -> None:
    (prompt,) = prompts(made, (5,))
    engine.add(1, prompt, GREEDY)
    with pytest.raises(InvalidInput, match="schema") as caught:
        add_with(engine, made, prompt, form)
    assert caught.value.param == ("tools" if form.kind == "tools" else "response_format")
    check_greedy(made, prompt, drain(engine)[1].tokens)
    check_idle(engine)


# Bounds


def test_cancel_frees_the_cache(engine: LanguageEngine, made: Made) -> None:
    asked = prompts(made, (40, 5, 40, 100))
    answers: dict[int, Answer] = {}
    for number, prompt in enumerate(asked):
        engine.add(number, prompt, msgspec.structs.replace(GREEDY, max_tokens=200))
    engine.cancel(3)
    while len(answers) < 3:
        advance(engine, answers)
    assert engine.stats().cache_used > 0
    engine.cancel(0)
    engine.cancel(0)
    engine.cancel(12345)
    advance(engine, answers)
    got = len(answers[0].tokens)
    assert engine.stats().running == 2
    engine.cancel(2)
    drain(engine, answers)
    assert len(answers[0].tokens) == got
    assert 3 not in answers
    check_greedy(made, asked[1], answers[1].tokens)
    check_idle(engine)


def test_a_full_cache_makes_wait(name: str, made: Made) -> None:
    tokens = 320
    engine = load(name, made, cache_bytes=tokens * made.spec.kv_bytes_per_token * 2)
    asked = prompts(made, (100, 60, 90, 5, 120, 30, 80, 40))
    for number, prompt in enumerate(asked):
        engine.add(number, prompt, msgspec.structs.replace(GREEDY, max_tokens=50))
    answers: dict[int, Answer] = {}
    most = 0.0
    while engine.busy():
        advance(engine, answers)
        most = max(most, engine.stats().cache_used)
    assert 0.3 < most <= 1
    for number, prompt in enumerate(asked):
        check_greedy(made, prompt, answers[number].tokens)
    check_idle(engine)
    engine.close()


def test_what_never_fits_ends(name: str, made: Made) -> None:
    engine = load(name, made, cache_bytes=128 * made.spec.kv_bytes_per_token * 2)
    short, long = prompts(made, (5, 1000))
    answers: dict[int, Answer] = {}
    engine.add(1, short, GREEDY)
    try:
        engine.add(2, long, GREEDY)
    except ContextLengthExceeded:
        pass
    else:
        drain(engine, answers)
        assert (answers[2].tokens, answers[2].finish) == ([], "length")
    drain(engine, answers)
    check_greedy(made, short, answers[1].tokens)
    check_idle(engine)
    engine.close()


def test_no_more_sequences_than_allowed(name: str, made: Made) -> None:
    engine = load(name, made, max_sequences=2)
    for number, prompt in enumerate(prompts(made)):
        engine.add(number, prompt, GREEDY)
    answers: dict[int, Answer] = {}
    while engine.busy():
        before = {number: len(answer.tokens) for number, answer in answers.items()}
        advance(engine, answers)
        going = [
            number
            for number, answer in answers.items()
            if len(answer.tokens) > before.get(number, 0) and not answer.finish
        ]
        assert len(going) <= 2
    for number, prompt in enumerate(prompts(made)):
        check_greedy(made, prompt, answers[number].tokens)
    engine.close()


@pytest.mark.parametrize("prompt", [[], [-1], [5, 1 << 20]], ids=["empty", "negative", "large"])
def test_foreign_tokens_are_refused(engine: LanguageEngine, prompt: list[int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        engine.add(1, prompt, GREEDY)
    assert caught.value.param == "prompt"
    check_idle(engine)


def test_a_model_of_text_takes_no_pictures(engine: LanguageEngine, made: Made) -> None:
    picture = Picture(np.zeros((1, 4), np.float32), b"")
    with pytest.raises(InvalidInput, match=f"The engine {engine.name} takes text only"):
        engine.add(1, prompts(made)[0], GREEDY, [picture])
    check_idle(engine)


def test_its_spec_is_true(engine: LanguageEngine, made: Made, name: str) -> None:
    spec = SPECS[engine.name]
    assert spec.worker == "text"
    assert spec.made_by.endswith(f":{type(engine).__name__}")
    assert made.spec.accepts == ("text",)
    assert {*made.spec.accepts} <= {*spec.accepts}
    used = {"compiled": made.compiled, "source": made.source}[spec.files]
    assert made.folder(name) == used


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(LMaaSError, match="openvino-genai, torch"):
        make_language_engine("abacus")
