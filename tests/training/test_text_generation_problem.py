import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import make_qwen3
from lmaas.errors import InvalidInput
from lmaas.generation_types import ChatMessage, ToolCall
from lmaas.recipe import Recipe, recipe_of
from lmaas.runtime.language.template import Template
from lmaas.runtime.language.text import Reader
from lmaas.runtime.language.tokens import Tokens
from lmaas.tasks.text_generation.spec import SPEC
from lmaas.tasks.text_generation.training.problem import CHATML, TextGeneration
from lmaas.training import problems
from lmaas.training.base import IGNORED, Facts, Feed

QUESTIONS = [(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a in range(4) for b in range(4)]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def pair(question: str, preferred: str, other: str) -> dict[str, Any]:
    asked, good = chat(question, preferred)["messages"]
    return {
        "input": {"messages": [asked]},
        "preferred_output": [good],
        "non_preferred_output": [chat("", other)["messages"][1]],
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(train: Path, **more: Any) -> Recipe:
    data = {"train": str(train), "validation": 0.25} | more.pop("data", {})
    given = {"name": "a", "task": "text-generation", "framework": "pytorch", "data": data}
    return recipe_of(given | more)


def problem(folder: Path, base: Path | None = None, **more: Any) -> TextGeneration:
    train = write(folder / "train.jsonl", [chat(q, a) for q, a in QUESTIONS])
    return TextGeneration(recipe(train, **more), folder, base)


def learned(feed: Feed, base: Path) -> list[str]:
    tokens = Tokens(base)
    return [
        "".join(tokens.text_of(int(label)) for label in row if label != IGNORED)
        for row in feed.targets["labels"]
    ]


def summed_loss(model: Any, feed: Feed) -> torch.Tensor:
    inputs = {name: torch.from_numpy(array) for name, array in feed.inputs.items()}
    logits = model(**inputs)
    labels = torch.from_numpy(feed.targets["labels"])
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def test_only_answers_are_learned_and_the_turns_end(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    this = problem(tmp_path, base)
    assert (this.size("train"), this.size("validation"), this.size("test")) == (12, 4, 0)
    feed = this.feed("train", np.arange(12), epoch=0)
    answers = {f"{answer}<|im_end|>" for _, answer in QUESTIONS}
    told = learned(feed, base)
    assert set(told) <= answers
    assert len(set(told)) == 12
    assert feed.weight == (feed.targets["labels"] != IGNORED).sum()
    facts = this.facts()
    assert facts["samples"] == {"train": 12, "validation": 4, "test": 0}
    assert facts["overlap"] == {}
    both = write(tmp_path / "both.jsonl", [chat("new", "one"), chat(*QUESTIONS[5])])
    again = problem(tmp_path, base, data={"validation": str(both)})
    assert again.facts()["overlap"] == {
        "validation": {"samples": 1, "places": ["both.jsonl, line 2"]}
    }


def test_every_answer_of_a_conversation_is_learned_but_those_of_weight_zero(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello <|im_end|>"},
        {"role": "assistant", "content": "fine", "weight": 0},
        {"role": "user", "content": "and you?"},
        {"role": "assistant", "content": "thank you"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "world"},
    ]
    rows = [{"messages": turns}, {"prompt": "the quick", "completion": " brown"}, {"text": "fox"}]
    train = write(tmp_path / "train.jsonl", rows)
    this = TextGeneration(recipe(train, data={"validation": 0.0}), tmp_path, base)
    feed = this.feed("train", np.arange(3), epoch=0)
    told = learned(feed, base)
    assert told[0] == "thank you<|im_end|>world<|im_end|>"
    assert told[1:] == [" brown<|im_end|>", "ox<|im_end|>"]
    # What a user spells is never the token that ends a turn.
    end = Tokens(base).id_of("<|im_end|>")
    assert (feed.inputs["input_ids"][0] == end).sum() == len(turns)


def test_packed_samples_learn_as_if_alone(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    alone = problem(tmp_path, base)
    packed = problem(
        tmp_path, base, method={"type": "supervised", "packing": True},
        data={"options": {"max_length": 100}},
    )  # fmt: skip
    assert packed.size("train") < alone.size("train") / 2
    model = alone.build("pytorch").eval()
    one = alone.feed("train", np.arange(alone.size("train")), epoch=0)
    other = packed.feed("train", np.arange(packed.size("train")), epoch=0)
    assert one.weight == other.weight
    with torch.no_grad():
        expected, got = summed_loss(model, one), summed_loss(model, other)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_an_adapter_learns_alone_and_is_merged(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    this = problem(tmp_path, base, adapter={"rank": 4, "alpha": 32})
    model = this.build("pytorch")
    own = [p for p in model.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in own) < 0.2 * sum(p.numel() for p in model.parameters())
    feed = this.feed("train", np.arange(12), epoch=0)
    optimizer = torch.optim.AdamW(own, lr=2e-2)
    losses = []
    for _ in range(60):
        loss = summed_loss(model, feed) / feed.weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # The tied embedding is random, small and fixed: an adapter can do no more.
    assert losses[-1] < losses[0] - 0.3
    model.eval()
    with torch.no_grad():
        trained = float(summed_loss(model, feed))
    facts = Facts(recipe=this._recipe, metrics={"loss": 1.0}, data=this.facts(), job="ftjob-1")
    this.package(model, tmp_path / "package", facts)
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_bytes())
    assert manifest["lineage"]["recipe"]["job"] == "ftjob-1"
    assert manifest["lineage"]["origin"] == "train"
    again = TextGeneration(this._recipe, tmp_path, tmp_path / "package" / "source")
    merged = msgspec_without_adapter(again).build("pytorch").eval()
    with torch.no_grad():
        assert float(summed_loss(merged, feed)) == pytest.approx(trained, rel=1e-4)


def msgspec_without_adapter(this: TextGeneration) -> TextGeneration:
    import msgspec

    this._recipe = msgspec.structs.replace(this._recipe, adapter=None)
    return this


def test_a_new_model_has_a_vocabulary_of_its_data(tmp_path: Path) -> None:
    this = problem(tmp_path, model={"architecture": "llama", "options": {"hidden": 32}})
    model = this.build("pytorch")
    feed = this.feed("validation", np.arange(2), epoch=None)
    logits = model(**{n: torch.from_numpy(a) for n, a in feed.inputs.items()}).detach().numpy()
    meter = this.meter()
    meter.add({"logits": logits}, feed)
    vocabulary = logits.shape[-1]
    assert meter.result()["perplexity"] == pytest.approx(vocabulary, rel=0.2)
    assert set(meter.result()) < set(SPEC.metrics)
    again = problem(tmp_path, model={"architecture": "llama", "options": {"hidden": 32}})
    for one, other in zip(model.parameters(), again.build("pytorch").parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": []}, "line 2"),
        ({"messages": [{"role": "user", "content": "a"}]}, "line 2.*no assistant"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "line 2.*role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "line 2"),
        ({"question": "a"}, "line 2.*question"),
        (chat("a", "b") | {"more": 1}, "line 2.*more"),
        ([1], "line 2"),
        (chat("hello " * 400, "b"), "train.jsonl, line 2 has .* tokens; at most 512 are taken"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, told: str) -> None:
    base = make_qwen3(tmp_path / "base")
    train = write(tmp_path / "train.jsonl", [chat("a", "b"), row])
    with pytest.raises(InvalidInput, match=told):
        TextGeneration(recipe(train, data={"validation": 0.0}), tmp_path, base)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("method", ["supervised", "dpo"])
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.jsonl", None, "There is no data at .*none.jsonl"),
        ("folder", None, "folder is a folder; language models learn from JSONL"),
        ("a.csv", b"prompt,completion\na,b\n", "a.csv is csv; .* JSONL"),
        ("a.parquet", b"PAR1...PAR1", "a.parquet is parquet; .* JSONL"),
        ("a.jsonl", b"PAR1...PAR1", "says that it is jsonl, but it is Parquet"),
        ("a.jsonl", pickle.dumps([1]), "a.jsonl is or may be a pickle"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no samples"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "a.jsonl, line 1: "),
    ],
)
def test_data_that_is_no_jsonl_is_told_as_what_it_is(
    tmp_path: Path, split: str, method: str, name: str, content: bytes | None, told: str
) -> None:
    (tmp_path / "folder").mkdir()
    base = make_qwen3(tmp_path / "base")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    good = write(
        tmp_path / "good.jsonl", [pair("a", "b", "c") if method == "dpo" else chat("a", "b")]
    )
    files = {"train": str(good), split: str(tmp_path / name)}
    with pytest.raises(InvalidInput, match=told) as refused:
        problems.open(recipe(good, data=files, method={"type": method}), tmp_path / "job", base)
    assert refused.value.param == "data"


def test_the_same_file_to_learn_from_and_to_check_on_is_refused(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "base")
    for name in ("train.jsonl", "copy.jsonl"):
        write(tmp_path / name, [chat(q, a) for q, a in QUESTIONS])
    for split, name in (("validation", "train.jsonl"), ("test", "copy.jsonl")):
        with pytest.raises(InvalidInput, match="is the same data") as refused:
            problem(tmp_path, base, data={split: str(tmp_path / name)})
        assert refused.value.param == f"data.{split}"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"framework": "keras"}, "framework"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"adapter": {}}, "adapter"),
        ({"model": {"architecture": "mamba"}}, "model.architecture"),
        ({"model": {"options": {"width": 3}}}, "model.options"),
        ({"model": {"architecture": "auto", "options": {"kv_heads": 3}}}, "model.options"),
        ({"data": {"options": {"cut": True}}}, "data.options"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tmp_path: Path, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        problem(tmp_path, **more)
    assert refused.value.param == param


CALLING = [
    {"role": "user", "content": "weather in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": {"at": "Oslo", "days": 2}}}],
    },
    {"role": "tool", "content": "cold"},
    {"role": "assistant", "content": "It is cold."},
]
OFFERED = [{"type": "function", "function": {"name": "weather", "description": "tells it"}}]


def test_new_models_learn_the_calls_that_serving_reads(tmp_path: Path) -> None:
    rows = [{"messages": CALLING, "tools": OFFERED}] * 2
    train = write(tmp_path / "train.jsonl", rows)
    this = TextGeneration(recipe(train, data={"validation": 0.0}), tmp_path, None)
    new = tmp_path / "new"
    (told,) = set(learned(this.feed("train", np.arange(2), epoch=0), new))
    call, rest = told.split("<|im_end|>", 1)
    reader = Reader(tools=True)
    reader.feed(call)
    reader.end()
    text, _, (read,) = reader.take()
    assert text == ""
    assert (read.name, json.loads(read.arguments)) == ("weather", {"at": "Oslo", "days": 2})
    assert rest == "It is cold.<|im_end|>"
    asked = this.feed("train", np.arange(1), epoch=0).inputs["input_ids"][0]
    tokens = Tokens(new)
    assert "tells it" in "".join(tokens.text_of(int(token)) for token in asked)
    # What is asked for at serving is the beginning of what was learned.
    template = Template.load(new)
    assert template is not None
    assert "tools" in template.source


NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.text(max_size=5), VALUES)), min_size=1)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), CALLS)
@settings(max_examples=60, deadline=None)
def test_serving_reads_what_the_template_of_new_models_writes(
    text: str, calls: list[tuple[str, Any]]
) -> None:
    asked = ChatMessage(role="user", content="a")
    told = ChatMessage(
        role="assistant",
        content=text,
        tool_calls=tuple(
            ToolCall(id="x", name=name, arguments=json.dumps(given)) for name, given in calls
        ),
    )
    template = Template(CHATML, {})
    before, after = template.render([asked]), template.render([asked, told], complete=True)
    assert after.startswith(before)
    reader = Reader(tools=True)
    reader.feed(after.removeprefix(before).removesuffix("<|im_end|>\n"))
    reader.end()
    written, _, read = reader.take()
    assert written.rstrip() == text.rstrip()
    assert [(call.name, json.loads(call.arguments)) for call in read] == calls


@pytest.mark.parametrize(
    ("cut", "row", "what"),
    [
        ("message.tool_calls", {"messages": CALLING}, "the tool call 'weather' of message 2"),
        ("call.function.name", {"messages": CALLING}, "the tool call 'weather' of message 2"),
        ("call.function.arguments", {"messages": CALLING}, "the tool call 'weather' of message 2"),
        ("tools", {"messages": CALLING, "tools": OFFERED}, "the tools"),
        (
            "message.content",
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the content of message 1 (user)",
        ),
        (
            "",
            {"messages": [{"role": "user", "content": "a"},
                          {"role": "assistant", "content": "b", "reasoning_content": "c"}]},
            "the reasoning of message 2",
        ),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused_with_its_line(
    tmp_path: Path, cut: str, row: dict[str, Any], what: str
) -> None:
    base = make_qwen3(tmp_path / "base")
    source = CHATML
    if cut:
        source = source.replace(cut, "''" if "." in cut and cut != "message.tool_calls" else "[]")
    (base / "chat_template.jinja").write_text(source)
    train = write(
        tmp_path / "train.jsonl", [chat("a", "b"), row] if cut != "message.content" else [row]
    )
    with pytest.raises(InvalidInput) as caught:
        TextGeneration(recipe(train, data={"validation": 0.0}), tmp_path, base)
    assert f"train.jsonl, line {1 if cut == 'message.content' else 2}" in caught.value.message
    assert f"leaves out {what}" in caught.value.message


def test_a_hint_about_the_length_does_not_lead_to_the_next_refusal(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat("what " * 30, "b")])

    def refused(base: Path | None, **more: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(InvalidInput) as caught:
            TextGeneration(recipe(train, **more), folder, base)
        return str(caught.value.hint)

    base = make_qwen3(tmp_path / "base")
    short: dict[str, Any] = {"validation": 0.0, "options": {"max_length": 16}}
    assert "data.options.max_length (to 512 at most)" in refused(base, data=short)
    small = {"options": {"context": 16}}
    plain: dict[str, Any] = {"validation": 0.0}
    told = refused(None, data=plain, model=small)
    assert "model.options.context" in told
    assert "max_length" not in told
    over: dict[str, Any] = {"validation": 0.0, "options": {"max_length": 4000}}
    assert "at most 512" in refused(base, data=over)
    assert "model.options.context" in refused(None, data=over)
