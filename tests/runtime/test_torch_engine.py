"""The engine torch beyond the kit: kinds of attention, sequences put back, text without tags."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import SIZES, make_llama, make_qwen3, tokenizer
from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError
from lmaas.generation_types import LanguageSpec
from lmaas.runtime.language.engine import EngineOptions, Grammar, TokenSampling
from lmaas.runtime.language.grammar_torch import Grammars
from lmaas.runtime.language.torch_engine import TorchEngine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 300
SPEC = LanguageSpec(architecture="any", context_length=512, vocabulary_size=VOCABULARY)


def load(folder: Path, **options: Any) -> TorchEngine:
    engine = TorchEngine()
    given: dict[str, Any] = {"precision": "f32", "cache_bytes": 1 << 22} | options
    engine.load(folder, SPEC, EngineOptions(**given))
    return engine


def make(folder: Path, kind: str, **sizes: Any) -> Any:
    """A model of another architecture, saved in `folder`."""
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, **sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def run(engine: TorchEngine, prompts: list[list[int]], **fields: Any) -> list[list[int]]:
    """Greedy answers to all prompts; every second one joins while others run."""
    sampling = TokenSampling(**({"max_tokens": 16, "temperature": 0.0} | fields))
    answers: list[list[int]] = [[] for _ in prompts]
    for number, prompt in enumerate(prompts):
        engine.add(number, prompt, sampling)
        if number % 2:
            for output in engine.step():
                answers[output.sequence] += output.tokens
    while engine.busy():
        for output in engine.step():
            answers[output.sequence] += output.tokens
    return answers


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


BASE: dict[str, Any] = {**SIZES, "initializer_range": 0.15, "pad_token_id": 0}
SMALL: dict[str, Any] = {"hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Gemma3Text", {**BASE, "sliding_window": 8}),
        ("Mixtral", {**BASE, "num_local_experts": 4}),
        ("GptOss", {**BASE, "sliding_window": 8, "num_local_experts": 4}),
        ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}),
        ("Bloom", SMALL),
    ],
)
def test_kinds_of_attention(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    """Windows, experts, sinks, learned positions, and positions that are told by the mask."""
    model = make(tmp_path, kind, **sizes)
    engine = load(tmp_path)
    prompts = prompts_of(3, 20, 7, 50, 1)
    for prompt, tokens in zip(prompts, run(engine, prompts), strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0]
        values = logits[len(prompt) - 1 : -1]
        own = values.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        assert float((values.amax(-1) - own).max()) < 1e-3
    engine.close()


MAMBA: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "state_size": 8,
    "initializer_range": 0.15,
}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Mamba", MAMBA),
        (
            "Lfm2",
            {**BASE, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        ),
        ("RecurrentGemma", {**BASE, "num_hidden_layers": 3, "attention_window_size": 16,
                            "lru_width": 64}),
    ],
)  # fmt: skip
def test_states_of_other_kinds(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    """Recurrent and convolutional layers, and a state that the network keeps in itself."""
    model = make(tmp_path, kind, **sizes)
    engine = load(tmp_path)
    prompts = prompts_of(3, 20, 7, 50, 1)
    want = [
        model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]  # fmt: skip
    assert run(engine, prompts) == want
    scores = [score.logprob for piece in engine.score(prompts[3], 0) for score in piece]
    with torch.inference_mode():
        values = model(torch.tensor([prompts[3]]), use_cache=False).logits[0].log_softmax(-1)
    told = [float(row[token]) for row, token in zip(values, prompts[3][1:], strict=False)]
    assert scores[1:] == pytest.approx(told, abs=1e-4)
    assert engine.stats().cache_used == 0
    engine.close()


def test_a_state_is_counted(tmp_path: Path) -> None:
    """What recurrent layers keep does not grow with the text, and bounds how many run at once."""
    make(tmp_path, "Mamba", **MAMBA)
    engine = load(tmp_path)
    model = engine._model
    assert model is not None
    # 2 layers of 128 channels, each with 8 numbers of state and 4 inputs of its convolution.
    assert (model.bytes_per_token, model.state_bytes) == (0, 2 * 128 * (8 + 4) * 4)
    engine.close()
    small = load(tmp_path, cache_bytes=2 * model.state_bytes)
    for number, prompt in enumerate(prompts_of(5, 6, 7)):
        small.add(number, prompt, TokenSampling(max_tokens=4, temperature=0.0))
    most = 0
    while small.busy():
        small.step()
        most = max(most, small.stats().running)
    assert most == 2
    small.close()
    with pytest.raises(ContextLengthExceeded, match="the cache holds 0"):
        load(tmp_path, cache_bytes=10).add(1, [3, 4], TokenSampling(max_tokens=1))


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    make_qwen3(tmp_path)
    with pytest.raises(InvalidInput, match="lookup") as caught:
        load(tmp_path, lookup=3)
    assert caught.value.param == "lookup"
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(LMaaSError, match="cannot load"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LMaaSError, match="cannot load"):
        load(tmp_path)


def test_put_back_and_read_again(tmp_path: Path) -> None:
    make_llama(tmp_path, initializer_range=0.15)
    roomy = load(tmp_path)
    prompts = prompts_of(30, 4, 25, 40, 8, 33)
    want = run(roomy, prompts, max_tokens=40)
    sampled = run(roomy, prompts, max_tokens=40, temperature=1.0, seed=5)
    roomy.close()
    tight = load(tmp_path, cache_bytes=150 * 512)
    assert run(tight, prompts, max_tokens=40) == want
    assert run(tight, prompts, max_tokens=40, temperature=1.0, seed=5) == sampled
    with pytest.raises(ContextLengthExceeded, match="the cache holds 150"):
        tight.add(1, prompts_of(151)[0], TokenSampling(max_tokens=1))
    # Alone, and too long for the whole cache: it ends there.
    (cut,) = run(tight, prompts_of(148), max_tokens=40)
    assert len(cut) == 3
    assert tight.stats().cache_used == 0
    tight.close()


def test_no_bound_and_half_precision(tmp_path: Path) -> None:
    make_llama(tmp_path)
    engine = load(tmp_path, cache_bytes=0, precision="bf16", threads=1)
    engine.add(1, prompts_of(9)[0], TokenSampling(max_tokens=200, temperature=0.0))
    engine.step()
    stats = engine.stats()
    assert stats.running == 1
    assert 0 < stats.cache_used <= 1
    assert stats.cache_bytes > 0
    got = 1
    while engine.busy():
        got += sum(len(output.tokens) for output in engine.step())
    assert got == 200
    engine.close()


# Grammars of tokenizers with and without tokens for the tags


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer, but tags are no tokens."""
    folder = tmp_path_factory.mktemp("plain")
    raw = json.loads((tagged / "tokenizer.json").read_bytes())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["special"]]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return folder


TOOLS: dict[str, Any] = {
    "required": True,
    "parallel": True,
    "schema": None,
    "tools": [
        {"name": "paint", "parameters": {"properties": {"a": {"enum": ["x"]}}, "required": ["a"]}},
        {"name": "look", "parameters": {}},
    ],
}
OR_TEXT = {"required": False, "schema": {"enum": ["größe"]}}
CALL = '<tool_call>\n{"name": "paint", "arguments": {"a": "x"}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "paint", "arguments": {"a": "z"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("change", "text", "fits"),
    [
        ({}, CALL, True),
        ({}, CALL + "\n" + CALL, True),
        ({}, WRONG, False),
        ({}, "Hello", False),
        ({"parallel": False}, CALL + "\n" + CALL, False),
        ({"required": False}, "Hello", True),
        ({"required": False}, "<think>\nWell.\n</think>\n\nHello " + CALL, True),
        ({"required": False}, CALL + "\nand\n" + CALL, True),
        ({"required": False}, "Hello " + WRONG, False),
        ({"required": False}, '<tool_call>\n{"name": "run"', False),
        ({"required": False, "parallel": False}, "Hello " + CALL, True),
        ({"required": False, "parallel": False}, CALL + CALL, False),
        ({"required": False, "parallel": False}, "Hello", True),
        (OR_TEXT, '"größe"', True),
        (OR_TEXT, CALL, True),
        (OR_TEXT, CALL + "\n" + CALL, True),
        (OR_TEXT, CALL + '\n"größe"', False),
        (OR_TEXT, '"größe" ' + CALL, False),
        (OR_TEXT, "Hello", False),
        (OR_TEXT | {"parallel": False}, CALL + "\n" + CALL, False),
        ({"reasoning": "opened"}, "Well " + WRONG + "</think>\n\n" + CALL, True),
        ({"reasoning": "opened"}, CALL, True),
        ({"reasoning": "opened"}, "Well.</think>" + WRONG, False),
        (OR_TEXT | {"reasoning": "may"}, '"größe"', True),
        (OR_TEXT | {"reasoning": "may"}, '<think>\nWell.\n</think>\n\n"größe"', True),
        (OR_TEXT | {"reasoning": "may"}, "<think>\nWell.\n</think>\n\nHello", False),
    ],
)
@pytest.mark.parametrize("kind", ["tagged", "plain"])
def test_tools(
    request: pytest.FixtureRequest, kind: str, change: dict[str, Any], text: str, fits: bool
) -> None:
    from tokenizers import Tokenizer

    folder: Path = request.getfixturevalue(kind)
    size = 439
    told = TOOLS | change
    reasoning = told.pop("reasoning", "none")
    form = Grammar(kind="tools", text=json.dumps(told), reasoning=reasoning)
    matcher = Grammars(folder, size, (2,)).matcher(form)
    written = 0
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    for token in tokens:
        if not matcher.allowed("cpu")[token]:
            break
        written += 1
        if matcher.take(token):
            break
    assert (written == len(tokens)) == fits


def test_a_grammar_needs_the_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer\.json cannot be used"):
        Grammars(tmp_path, 10, ()).matcher(Grammar(kind="json_object", text=""))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "must be a JSON object"),
        ('{"not": {"type": "string"}, "x-guidance": {"lenient": true}}', "not"),
        ('{"$ref": "#"}', "NoExtension"),
        ('{"type": "string", "pattern": "(?=a)b"}', "look-around"),
        ('{"$ref": "http://127.0.0.1/schema"}', "127"),
    ],
)
def test_schemas_that_are_not_understood(tagged: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match="The schema cannot be used") as caught:
        Grammars(tagged, 439, (2,)).matcher(Grammar(kind="json_schema", text=text))
    assert problem in caught.value.message
