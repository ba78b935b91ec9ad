"""Requests over an engine: what goes wrong about one of them is that one's answer."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkpoints import SIZES, byte_fallback_tokenizer
from lmaas.errors import ContextLengthExceeded, InvalidInput, LMaaSError
from lmaas.generation_types import ChatMessage, Format, GenerateRequest, LanguageSpec, Sampling
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.language.grammar_torch import Matcher
from lmaas.runtime.language.session import Session, Step
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.text import Reader
from lmaas.runtime.language.tokens import Tokens
from lmaas.runtime.language.torch_engine import TorchEngine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


class Served:
    """A tiny Llama with a byte-fallback tokenizer, and all that its session tells."""

    def __init__(self, folder: Path) -> None:
        tokens = byte_fallback_tokenizer()
        tokens.save_pretrained(folder)
        config = transformers.LlamaConfig(
            vocab_size=len(tokens), eos_token_id=2, initializer_range=0.15, **SIZES
        )
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        spec = LanguageSpec(
            architecture="LlamaForCausalLM", context_length=512, vocabulary_size=len(tokens)
        )
        self.engine = TorchEngine()
        self.engine.load(folder, spec, EngineOptions(precision="f32", cache_bytes=1 << 22))
        self.session = Session(self.engine, Tokens(folder), Template.load(folder), spec, 512)
        self.told = Step()

    def ask(self, id_: int, **fields: Any) -> None:
        sampling = Sampling(max_tokens=12, temperature=0.0, **fields.pop("sampling", {}))
        request = GenerateRequest(prompt="hello world", sampling=sampling, **fields)
        self.session.begin(id_, self.session.prepare(request))

    def step(self) -> None:
        step = self.session.step()
        for name in Step.__struct_fields__:
            getattr(self.told, name).extend(getattr(step, name))

    def run(self) -> dict[int, str]:
        """To the end; the texts of the requests that ended well."""
        while self.session.busy():
            self.step()
        stats = self.engine.stats()
        assert (stats.running, stats.waiting, len(self.session)) == (0, 0, 0)
        return {id_: "".join(d.text for d in ended.deltas) for id_, ended in self.told.ended}


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_text_that_fails_ends_its_request_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Reader.feed

    def broken(self: Reader, text: str) -> None:
        if self._stops == ("bad",):
            raise RuntimeError("lost")
        feed(self, text)

    served.ask(1)
    alone = served.run()[1]
    monkeypatch.setattr(Reader, "feed", broken)
    served.told = Step()
    served.ask(2)
    served.ask(3, choices=3, sampling={"stop": ("bad",)}, stream=True)
    served.ask(4)
    assert served.run() == {2: alone, 4: alone}
    ((id_, error),) = served.told.failed
    assert (id_, str(error)) == (3, "lost")


@pytest.mark.parametrize("after", ["<end>\n", "", "<end>{{ eos_token }}"])
def test_an_answer_that_is_begun_is_the_prompts_end(
    tmp_path: Path, served: Served, after: str
) -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}" + after + "{% endfor %}"
    source += "{% if add_generation_prompt %}<assistant>{% endif %}"
    session = served.session
    session._template = Template(source, {"eos_token": "</s>"})
    user = ChatMessage(role="user", content="hello")
    begun = ChatMessage(role="assistant", content="world is <end>")
    request = GenerateRequest(messages=(user, begun), continued=True)
    prompt = session._tokens.decode(session.prepare(request).prompt)
    assert prompt.endswith("<assistant>world is <end>")
    session._template = Template("{{ messages[0].content }}", {})
    with pytest.raises(InvalidInput, match="does not show"):
        session.prepare(request)


def test_a_ceiling_is_no_wish(served: Served) -> None:
    """After a conversation, more tokens than fit are as many as fit; after a prompt, too many."""
    served.session._template = Template("{{ messages[0].content }}", {})
    user = ChatMessage(role="user", content="hello")
    sampling = Sampling(max_tokens=128_000)
    prepared = served.session.prepare(GenerateRequest(messages=(user,), sampling=sampling))
    assert prepared.sampling.max_tokens == 512 - len(prepared.prompt)
    with pytest.raises(ContextLengthExceeded):
        served.session.prepare(GenerateRequest(prompt="hello", sampling=sampling))
    long = ChatMessage(role="user", content="hello " * 600)
    with pytest.raises(ContextLengthExceeded):
        served.session.prepare(GenerateRequest(messages=(long,), sampling=sampling))


def test_a_grammar_that_fails_ends_its_request_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.ask(1)
    alone = served.run()[1]
    calls = iter(range(100))

    def broken(self: Matcher, token: int) -> bool:
        if next(calls) == 3:
            raise RuntimeError("no such token")
        return False

    monkeypatch.setattr(Matcher, "take", broken)
    served.told = Step()
    served.ask(2, format=Format(kind="json_object"))
    served.ask(3)
    assert served.run() == {3: alone}
    assert [id_ for id_, _ in served.told.failed] == [2]


def test_numbers_that_are_none_are_no_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.ask(1)
    served.ask(2, sampling={"min_tokens": 3})
    served.step()
    model = served.engine._model
    assert model is not None
    forward = model.forward

    def broken(*args: Any, **more: Any) -> Any:
        logits = forward(*args, **more).clone()
        logits[0] = torch.nan
        return logits

    monkeypatch.setattr(model, "forward", broken)
    served.step()
    monkeypatch.setattr(model, "forward", forward)
    assert len(served.run()) == 1
    ((_, error),) = served.told.failed
    assert isinstance(error, LMaaSError)
    assert "no number" in error.message
    assert "precision=f32" in str(error.hint)


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_text_goes_on_with_its_blank(served: Served, as_ids: bool) -> None:
    """A tokenizer of this kind drops the blank that a text begins with: this one goes on."""
    tokens = byte_fallback_tokenizer()
    (world,) = tokens.convert_tokens_to_ids(["▁world"])
    prompt: Any = tokens.encode("hello world", add_special_tokens=False) if as_ids else None
    sampling = Sampling(max_tokens=3, temperature=0, logit_bias={world: 100.0}, logprobs=2)
    request = GenerateRequest(
        prompt=(prompt and tuple(prompt)) or "hello world",
        sampling=sampling,
        echo=True,
        prompt_logprobs=2,
    )
    served.session.begin(1, served.session.prepare(request))
    assert served.run() == {1: "hello world world world world"}
    ((_, ended),) = served.told.ended
    entries = [*ended.prompt_logprobs, *(e for delta in ended.deltas for e in delta.logprobs)]
    raw = b"".join(entry.raw or b"" for entry in entries)
    assert raw == b"hello world world world world"
    assert [entry.token for entry in entries][-4:] == [" world"] * 4
    assert entries[0].logprob is None
    assert all(len(entry.top) == 2 for entry in entries[1:])


def test_scoring_ends_with_its_request(served: Served) -> None:
    prompt = tuple(range(3, 260))
    for id_ in (1, 2, 3):
        request = GenerateRequest(
            prompt=prompt, sampling=Sampling(max_tokens=1, logprobs=1), prompt_logprobs=1
        )
        served.session.begin(id_, served.session.prepare(request))
    served.step()
    assert served.session.cancel(1) is not None
    assert served.session.cancel(3) is not None
    served.run()
    ((id_, ended),) = served.told.ended
    assert (id_, len(ended.prompt_logprobs)) == (2, len(prompt))


def test_bytes_that_are_no_character_are_an_answer(served: Served) -> None:
    """A byte that begins a character, one that ends none, then a word: no decoder expects it."""
    tokens = byte_fallback_tokenizer()
    byte, word = tokens.convert_tokens_to_ids(["<0xE4>", "▁world"])
    served.ask(1, sampling={"logit_bias": {byte: 100.0}, "min_tokens": 3}, stream=True)
    served.step()
    running = served.session._running[1]
    (sequence,) = running.sequences
    entry = next(e for e in served.engine._running if e.number == sequence)
    changed = msgspec.structs.replace(entry.sampling, logit_bias={word: 100.0})
    entry.sampling = entry.sampler.sampling = changed
    served.run()
    text = "".join(delta.text for _, delta in served.told.parts)
    assert text == "\ufffd" + " world" * 11
    assert not served.told.failed
