"""The task translation against an engine that writes back what it reads, or what it is told."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.runtime.sequence.calls import SequenceCall, SequenceResult, SequenceTask, Written
from lmaas.tasks import text_layout
from lmaas.tasks.text_layout import Prompt, TextLayout
from lmaas.training.encoder_decoder import EOS
from lmaas.training.pairs import learn_vocabulary
from lmaas.types import JSON, Answer, Payload, Signature
from sequence_examples import SIGNATURE, answered, echo

LANGUAGES = {"eng_Latn": 300, "deu_Latn": 301, "zho_Hans": 302, "zho_Hant": 303}
Engine = Callable[[SequenceCall], SequenceResult]


def signature(**more: Any) -> Signature:
    assert SIGNATURE.sequence is not None
    spec = msgspec.structs.replace(SIGNATURE.sequence, **more)
    return msgspec.structs.replace(SIGNATURE, sequence=spec)


class Bound:
    """A bound task, and what its engine was asked."""

    def __init__(self, folder: Path, layout: TextLayout, **more: Any) -> None:
        text_layout.write(layout, folder)
        task = tasks.get("translation").bind(folder)
        self.task: SequenceTask = task  # type: ignore[assignment]
        self.signature = signature(**more)
        self.calls: list[SequenceCall] = []

    def ask(self, inputs: Any, engine: Engine = echo, **parameters: Any) -> Any:
        body = msgspec.json.encode({"inputs": inputs, "parameters": parameters})
        return json.loads(self.answer(body, engine).body)

    def answer(self, body: bytes, engine: Engine = echo, *, count_only: bool = False) -> Answer:
        payload = Payload(body=body, media_type=JSON, count_only=count_only)
        talk = self.task.converse(payload, self.signature, Limits())
        answer, self.calls = answered(talk, engine)
        return answer

    def text(self, inputs: str, **parameters: Any) -> str:
        (only,) = self.ask(inputs, **parameters)
        return str(only["translation_text"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    learn_vocabulary(["plain words"], 300, tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def pair(folder: Path) -> Bound:
    return Bound(folder, TextLayout(after=(EOS,), pair=("en", "de")))


@pytest.fixture
def many(folder: Path) -> Bound:
    layout = TextLayout(before=(-1,), after=(EOS,), target="after-start")
    return Bound(folder, layout, languages=LANGUAGES)


TEXTS = [
    "One. Two! Three?",
    "  leading\n\n\tand  inner   blanks. \r\n\r\nEnd.  \n",
    "</s> <pad> <s> spelled <unk>",
    "东京是日本的首都。它很大！「真的。」是。",
    "Dr. Smith met J. R. Jones at 3.14 p.m. on 3. Mai, e.g. here. Then he left.",
    "word" * 200,
    ", ".join(["a clause of some words"] * 40) + ".",
    "🎉" * 50 + "\u200b\u2028x",
    " \n ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_between_sentences_stays(pair: Bound, text: str) -> None:
    assert pair.text(text) == text
    most = max((len(call.source) for call in pair.calls), default=0)
    assert most <= 64


def test_sentences_are_sources_of_their_own(pair: Bound) -> None:
    pair.text("One sentence. Mr. Two is another!\nThree")
    assert len(pair.calls) == 3
    assert all(call.source[-1] == EOS for call in pair.calls)
    assert all(call.source.dtype == np.int64 for call in pair.calls)


def test_equal_sentences_are_written_once(pair: Bound) -> None:
    assert [each["translation_text"] for each in pair.ask(["Yes.", "No.", "Yes. Yes."])] == [
        "Yes.",
        "No.",
        "Yes. Yes.",
    ]
    assert len(pair.calls) == 2


def test_many_sentences_reach_the_engine_in_part(pair: Bound) -> None:
    text = " ".join(f"Number {index}." for index in range(300))
    payload = Payload(body=msgspec.json.encode({"inputs": text}), media_type=JSON)
    turn = next(pair.task.converse(payload, pair.signature, Limits()))
    assert len(turn.calls) == 64
    assert pair.text(text) == text


def test_tokens_are_counted(pair: Bound) -> None:
    body = msgspec.json.encode({"inputs": ["a b", "c"]})
    answer = pair.answer(body)
    read = sum(len(call.source) for call in pair.calls)
    assert answer.tokens == read
    assert answer.new_tokens == read - 2
    counted = pair.answer(body, count_only=True)
    assert counted == Answer(body=b"", tokens=read, new_tokens=2 * 79)
    assert not pair.calls


PAGES = [
    "<p>One <b>bold</b> word.</p><!-- <b>no</b> --><p title='a > b'>Two &amp; &lt;three&gt;</p>",
    "<script>if (a < b) { x('</p>') }</script><style>p > a {}</style>text<br/>more",
    '<div translate="no"><div>kept</div> as it is</div><code>x = 1</code> after',
    "<a href='x'>whole</a>",
    "a <i>b <b>c</b></i> <img src=x> d",
    "unclosed <a href='x",
    "unclosed <!-- comment",
    "a < b and c > d",
    "<" * 100,
    "",
]


@pytest.mark.parametrize("page", [page for page in PAGES if page])
def test_markup_stays(pair: Bound, page: str) -> None:
    told = pair.text(page, format="html")
    escaped = {"a < b and c > d": "a &lt; b and c &gt; d", "<" * 100: "&lt;" * 100}
    assert told == escaped.get(page, page)


def test_only_text_is_read(pair: Bound) -> None:
    pair.text(PAGES[0] + PAGES[1] + PAGES[2], format="html")
    read = [_decoded(pair, call) for call in pair.calls]
    assert sorted(read) == sorted(["One bold word.", "Two & <three>", "text", "more", "after"])


def _decoded(bound: Bound, call: SequenceCall) -> str:
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(bound.task._tokenizer._raw.to_str())  # type: ignore[attr-defined]
    return str(raw.decode(call.source.tolist(), skip_special_tokens=True))


def test_marks_move_with_the_words(pair: Bound) -> None:
    def turned(call: SequenceCall) -> SequenceResult:
        words = _decoded(pair, call).split()
        ids = pair.task._tokenizer.encode([" ".join(words + words)], param="x")[0]  # type: ignore[attr-defined]
        return SequenceResult(tag=call.tag, candidates=(_written(ids),))

    (told,) = pair.ask("one <b>two</b> <i><u>three</u></i>", turned, format="html")
    assert told["translation_text"] == "one two <b>three one</b> <i><u>two three</u></i>"


def _written(ids: list[int]) -> Written:
    return Written(tokens=tuple(ids), finish="stop", logprob=0.0)


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "." * 250_000, "<a '" * 60_000, "(" * 250_000, ". (" * 80_000]
)
@pytest.mark.parametrize("format", ["text", "html"])
def test_a_hostile_text_is_answered_or_refused_soon(pair: Bound, text: str, format: str) -> None:
    began = time.process_time()
    body = msgspec.json.encode({"inputs": text, "parameters": {"format": format}})
    talk = pair.task.converse(Payload(body=body, media_type=JSON), pair.signature, Limits())
    if len(text) > 1 << 18:
        with pytest.raises(PayloadTooLarge, match="262144"):
            next(talk)
    else:
        for _ in _first(talk):
            pass
    assert time.process_time() - began < 10  # far below what a square of the length would take


def _first(talk: Iterator[Any]) -> Iterator[Any]:
    try:
        yield next(talk)
    except StopIteration:
        return


def test_languages_of_a_model_of_many(many: Bound) -> None:
    many.text("Hello.", src_lang="en", tgt_lang="de")
    (call,) = many.calls
    assert call.source[0] == 300
    assert call.source[-1] == EOS
    assert call.decoding.prompt == (EOS, 301)
    many.text("Hello.", src_lang="eng_Latn", tgt_lang="zt")
    assert many.calls[0].decoding.prompt == (EOS, 303)
    many.text("Hello.", src_lang="zh", tgt_lang="zh")
    assert many.calls[0].decoding.prompt == (EOS, 302)


def test_where_the_language_is_the_start(folder: Path) -> None:
    bound = Bound(folder, TextLayout(after=(EOS, -1), target="is-start"), languages=LANGUAGES)
    bound.text("Hello.", src_lang="en", tgt_lang="de")
    assert bound.calls[0].source[-1] == 300
    assert bound.calls[0].decoding.prompt == (301,)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "deu_Latn"),
        ({"src_lang": "en"}, "tgt_lang is not"),
        ({"tgt_lang": "de"}, "src_lang is not"),
        ({"src_lang": "en", "tgt_lang": "klingon"}, "eng_Latn, deu_Latn"),
        ({"src_lang": "xx", "tgt_lang": "de"}, "eng_Latn, deu_Latn"),
    ],
)
def test_languages_that_are_refused(many: Bound, parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as error:
        many.ask("Hello.", **parameters)
    assert told in f"{error.value.message} {error.value.hint}"


def test_a_pair_is_held_to(pair: Bound, folder: Path) -> None:
    assert pair.text("Hello.", src_lang="eng_Latn", tgt_lang="de-AT") == "Hello."
    with pytest.raises(InvalidInput, match="from en to de"):
        pair.ask("Hello.", src_lang="de", tgt_lang="en")
    unknown = Bound(folder, TextLayout(after=(EOS,)))
    assert unknown.text("Hello.") == "Hello."
    with pytest.raises(InvalidInput, match="does not say which"):
        unknown.ask("Hello.", src_lang="en", tgt_lang="de")


def test_prompts_before_every_sentence(folder: Path) -> None:
    prefix = "translate English to German: "
    prompts = {
        "translation_en_to_de": Prompt(prefix=prefix, source="en", target="de"),
        "translation_en_to_fr": Prompt(prefix="to French: ", source="en", target="fr"),
        "summarization": Prompt(prefix="summarize: "),
    }
    bound = Bound(folder, TextLayout(after=(EOS,), prompts=prompts))
    bound.ask("One. Two.", src_lang="en", tgt_lang="de")
    asked = sorted(_decoded(bound, call) for call in bound.calls)
    assert asked == [f"{prefix}One.", f"{prefix}Two."]
    bound.ask(f"{prefix}One. Two.")
    assert sorted(_decoded(bound, call) for call in bound.calls) == asked
    with pytest.raises(InvalidInput, match="en to de, en to fr"):
        bound.ask("One.", src_lang="de", tgt_lang="en")
    with pytest.raises(InvalidInput, match="must be told"):
        bound.ask("One.")


def test_a_tag_before_every_sentence(tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer

    learn_vocabulary(["plain words"], 300, tmp_path / "tokenizer.json")
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.add_tokens([AddedToken(">>deu<<", special=False, normalized=False)])
    raw.save(str(tmp_path / "tokenizer.json"))
    bound = Bound(tmp_path, TextLayout(after=(EOS,)))
    assert bound.text(">>deu<< One. Two.").count(">>deu<<") == 2  # what is echoed has it too
    assert sorted(_decoded(bound, call) for call in bound.calls) == [
        ">>deu<< One.",
        ">>deu<< Two.",
    ]
    bound.text(">>fra<< One.")
    assert len(bound.calls) == 1


def test_how_it_is_written(pair: Bound) -> None:
    given = {
        "num_beams": 4,
        "num_return_sequences": 2,
        "max_new_tokens": 20,
        "length_penalty": 0.5,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.5,
        "min_length": 3,
    }
    told = pair.ask("One. Two.", generate_parameters=given)
    assert told == [{"translation_text": "One. Two."}] * 2
    (decoding, _) = (call.decoding for call in pair.calls)
    assert (decoding.beams, decoding.returned, decoding.max_tokens) == (4, 2, 21)
    assert (decoding.length_penalty, decoding.early_stop, decoding.min_tokens) == (0.5, True, 3)
    assert (decoding.no_repeat_ngram, decoding.repetition_penalty) == (3, 1.5)
    pair.ask("One. One.", generate_parameters={"temperature": 0.7, "top_p": 0.9, "seed": 5})
    sampled = {call.decoding.seed for call in pair.calls}
    assert sampled == {5, 6}
    assert pair.calls[0].decoding.temperature == 0.7
    pair.ask("One.", generate_parameters={"do_sample": True})
    assert pair.calls[0].decoding.temperature == 1.0


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"truncation": "longest_first"}, "truncation"),
        ({"truncation": True}, "truncation"),
        ({"top_k": 3}, "top_k"),
        ({"format": "markdown"}, "format"),
        ({"generate_parameters": {"wishes": 3}}, "wishes"),
        ({"generate_parameters": {"num_beams": 99}}, "num_beams"),
        ({"generate_parameters": {"max_new_tokens": 80}}, "81 tokens"),
        ({"generate_parameters": {"max_length": 81}}, "81 tokens"),
        ({"generate_parameters": {"max_length": 8, "max_new_tokens": 4}}, "max_length"),
        ({"generate_parameters": {"num_beams": 2, "do_sample": True}}, "num_beams"),
        ({"generate_parameters": {"top_p": 0.5}}, "top_p"),
        ({"generate_parameters": {"do_sample": False, "temperature": 1.0}}, "temperature"),
        ({"generate_parameters": {"do_sample": True, "temperature": 0}}, "temperature"),
        ({"generate_parameters": {"length_penalty": 2.0}}, "length_penalty"),
        ({"generate_parameters": {"num_return_sequences": 2}}, "num_return_sequences"),
        (
            {"generate_parameters": {"num_beams": 2, "num_return_sequences": 3}},
            "num_return_sequences",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    pair: Bound, parameters: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        pair.ask("One.", **parameters)
    assert named in error.value.message


@pytest.mark.parametrize("inputs", ["", [], [""], None, 3, {"a": 1}, ["a", 3]])
def test_inputs_that_are_none(pair: Bound, inputs: Any) -> None:
    with pytest.raises(InvalidInput, match="inputs"):
        pair.ask(inputs)


def test_an_empty_text_among_others_stays_empty(pair: Bound) -> None:
    assert [each["translation_text"] for each in pair.ask(["a", "", " "])] == ["a", "", " "]


def test_an_error_of_the_engine_is_the_request_s(pair: Bound) -> None:
    def fails(call: SequenceCall) -> SequenceResult:
        return SequenceResult(tag=call.tag, error=LMaaSError("no"))

    with pytest.raises(LMaaSError, match="no"):
        pair.ask("One. Two.", fails)


def test_a_blank_comes_between_sentences_that_had_none(pair: Bound) -> None:
    def english(call: SequenceCall) -> SequenceResult:
        ids = pair.task._tokenizer.encode(["Tokyo."], param="x")[0]  # type: ignore[attr-defined]
        return SequenceResult(tag=call.tag, candidates=(_written(ids),))

    (told,) = pair.ask("东京。大阪。", english)
    assert told["translation_text"] == "Tokyo. Tokyo."


def test_tidied(pair: Bound) -> None:
    assert pair.text("It is n't so .", clean_up_tokenization_spaces=True) == "It isn't so."
    assert pair.text("It is n't so .", clean_up_tokenization_spaces=False) == "It is n't so ."
