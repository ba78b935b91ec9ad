"""Log probabilities of the default engine: the source's own, by the requests that clients send.

The payloads are those of lm-eval's `local-completions`, and its answers are read as it reads them.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT
from servers import Running

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NEAR = 1e-3
CONTEXT = "hello world, how are"
ENDINGS = [" you today?", " Grüße aus Köln 👋", " the lazy dog", "\n{}"]


class Source(NamedTuple):
    """The checkpoint that the served model was made of."""

    model: Any
    tokenizer: Any

    def logprobs(self, ids: Sequence[int]) -> Any:
        """Of each token after the first: (T - 1, vocabulary)."""
        with torch.inference_mode():
            return self.model(torch.tensor([list(ids)])).logits[0, :-1].log_softmax(-1)


@pytest.fixture(scope="module")
def source(language_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    with closing(Service(Settings(home=str(language_home)))) as service:
        service.registry.unpack(service.catalog.get(TENANT, "tiny"), folder, ("source",))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "source", dtype=torch.float32, attn_implementation="eager"
    )
    return Source(model, transformers.AutoTokenizer.from_pretrained(folder / "source"))


def ask(language: Running, path: str, **fields: Any) -> Any:
    response = httpx.post(
        f"{language.url}/v1/{path}",
        content=json.dumps({"model": "tiny", **fields}),
        headers={"authorization": f"Bearer {language.call_key}"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return response


def likelihoods(
    language: Running, prompts: Sequence[Any], starts: Sequence[int]
) -> list[tuple[float, bool]]:
    """How likely each prompt is from a token on, and whether it is the likeliest: lm-eval's way."""
    told = ask(
        language,
        "completions",
        prompt=prompts,
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    ).json()
    found = []
    for choice, start in zip(told["choices"], starts, strict=True):
        scores = choice["logprobs"]
        tokens, tops = scores["tokens"][start:-1], scores["top_logprobs"][start:-1]
        greedy = all(
            token == max(top, key=top.__getitem__) for token, top in zip(tokens, tops, strict=True)
        )
        found.append((sum(scores["token_logprobs"][start:-1]), greedy))
    return found


@pytest.mark.parametrize("as_ids", [True, False])
def test_multiple_choice_is_the_source_s(language: Running, source: Source, as_ids: bool) -> None:
    encode = source.tokenizer.encode
    context = encode(CONTEXT)
    likeliest = context
    for _ in range(4):
        likeliest = [*likeliest, int(source.logprobs([*likeliest, 0])[-1].argmax())]
    asked = [*(context + encode(ending) for ending in ENDINGS), likeliest]
    prompts: list[Any] = asked if as_ids else [source.tokenizer.decode(ids) for ids in asked]
    if not as_ids:
        asked = [encode(text) for text in prompts]
    starts = [len(context)] * len(asked)
    told = likelihoods(language, prompts, starts)
    for ids, (likelihood, greedy) in zip(asked, told, strict=True):
        values = source.logprobs(ids)[len(context) - 1 :]
        rest = torch.tensor(ids[len(context) :])
        assert likelihood == pytest.approx(float(values.gather(1, rest[:, None]).sum()), abs=NEAR)
        assert greedy == bool((values.argmax(-1) == rest).all())
    if as_ids:
        assert [greedy for _, greedy in told] == [False] * len(ENDINGS) + [True]


def test_perplexity_is_the_source_s(language: Running, source: Source) -> None:
    """Rolling windows, each with a token before it, as lm-eval cuts a text."""
    tokenizer = source.tokenizer
    ids = [tokenizer.eos_token_id, *tokenizer.encode("the quick brown fox jumps. " * 20)]
    windows = [ids[start : start + 101] for start in range(0, len(ids) - 1, 100)]
    told = likelihoods(language, windows, [1] * len(windows))
    for window, (likelihood, _) in zip(windows, told, strict=True):
        values = source.logprobs(window).gather(1, torch.tensor(window[1:])[:, None])
        assert likelihood == pytest.approx(float(values.sum()), abs=NEAR * len(window))
        assert likelihood == pytest.approx(float(values.sum()), rel=NEAR)


def test_generation_as_lm_eval_asks(language: Running) -> None:
    fields = {"prompt": CONTEXT, "max_tokens": 5, "temperature": 0, "stop": ["zz"], "seed": 1234}
    told = ask(language, "completions", **fields).json()
    assert told["choices"][0]["text"]


def test_joined_bytes_are_the_text(language: Running) -> None:
    """Of a model without sense, whose answers are full of parts of characters."""
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "👋"}],
        "temperature": 1.5,
        "seed": 5,
        "max_tokens": 60,
        "logprobs": True,
        "top_logprobs": 4,
    }
    whole = ask(language, "chat/completions", **fields).json()["choices"][0]
    lines = ask(language, "chat/completions", **fields, stream=True).text.split("\n\n")
    chunks = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    streamed = [e for chunk in chunks if chunk["logprobs"] for e in chunk["logprobs"]["content"]]
    entries = whole["logprobs"]["content"]
    assert [e["token"] for e in streamed] == [e["token"] for e in entries]
    raw = bytes(byte for entry in entries for byte in entry["bytes"] or ())
    assert raw.decode("utf-8", "replace") == whole["message"]["content"]
    assert any(len(entry["bytes"]) == 1 and entry["bytes"][0] > 127 for entry in entries)
    for entry in entries:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 4
        assert tops == sorted(tops, reverse=True)
        assert entry["logprob"] <= tops[0] + NEAR
        assert len({str(top["bytes"]) for top in entry["top_logprobs"]}) == 4


def test_parts_of_characters_have_names_of_their_own(language: Running) -> None:
    text = "a👋b"
    told = ask(language, "completions", prompt=text, max_tokens=0, logprobs=2, echo=True).json()
    (choice,) = told["choices"]
    scores = choice["logprobs"]
    assert choice["text"] == text
    assert (
        "".join(scores["tokens"])
        .replace("bytes:", "")
        .encode()
        .decode("unicode_escape")
        .encode("latin-1")
        .decode()
        == text
    )
    parts = [token for token in scores["tokens"] if token.startswith("bytes:")]
    assert parts
    offsets = scores["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[-1] == text.index("b")
    assert all(len(top) == 2 for top in scores["top_logprobs"][1:])
