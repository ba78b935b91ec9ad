"""Readers: what a pattern allows, the likeliest text of its form, what a call may say."""

import base64
import io
import itertools
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks.optical_character_recognition import lattice, lines, score
from lmaas.tasks.optical_character_recognition.automaton import Automaton
from lmaas.tasks.optical_character_recognition.fitting import fitting
from lmaas.types import JSON, Answer, ImageSpec, Payload, ReadingSpec, Signature, TensorSpec

TASK = tasks.get("optical-character-recognition")
CHARACTERS = tuple("ABCIOSXYZ0123456789-")
SPEC = ReadingSpec(characters=CHARACTERS)
STEPS = 12


def signed(
    spec: ReadingSpec = SPEC, width: int = 48, steps: int = STEPS, **fields: Any
) -> Signature:
    image = ImageSpec(height=16, width=48, resize="line")
    return TASK.check_signature(
        Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, 16, width)),),
            outputs=(
                TensorSpec(name="y", dtype="float32", shape=(-1, steps, len(spec.characters) + 1)),
            ),
            **{"image": image, "reading": spec, **fields},
        )
    )


def numbers(text: str, spec: ReadingSpec = SPEC) -> list[int]:
    return [lattice.first_of(spec) + spec.characters.index(each) for each in text]


def wanted(pattern: str, spec: ReadingSpec = SPEC) -> Automaton:
    return lattice.automaton_of(spec, pattern)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("AA-00", ("AB-12", "OO-00"), ("AB12", "0B-12", "AB-1O", "AB-123", "")),
        ("A0?", ("A", "A1"), ("", "1", "A12")),
        ("(AA|A)00", ("AA11", "A11"), ("AAA11", "11")),
        ("A{2}0{1,3}", ("AB1", "AB123"), ("A1", "AB1234", "AB")),
        ("X{2}", ("A1", "1A", "AA"), ("A-", "A")),
        ("[A-C0]9", ("B9", "09"), ("X9", "19")),
        (r"\A\0", ("A0",), ("B0", "A1")),
        (".?-", ("-", "--", "X-"), ("XX-",)),
        ("AA-00|000-AA", ("AB-12", "123-AB"), ("AB-123",)),
        ("(A?)?", ("", "B"), ("BB",)),
    ],
)
def test_what_a_pattern_allows(pattern: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    automaton = wanted(pattern)
    assert all(automaton.accepts(numbers(text)) for text in good)
    assert not any(automaton.accepts(numbers(text)) for text in bad)
    assert automaton.least == min(map(len, good))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("A*", "has no end"), ("(A", "ends in the middle"), ("A)", "closes nothing"),
        ("[A", "ends in the middle"), ("[]", "is empty"), ("[^A]", "what cannot"),
        ("[C-A]", "is no range"), ("A{0}", "from 1 to 64"), ("A{3,2}", "from 1 to 64"),
        ("A{99}", "from 1 to 64"), ("A{x}", "no number of times"), ("A{1", "no number of times"),
        ("A\\", "ends in the middle"), ("?", "nothing before it"), ("a", "fits 'a'"),
        ("é", "fits 'é'"), ("()", "no place for a character"), ("A" * 257, "more than 256"),
        ("(" * 17 + "A" + ")" * 17, "nested more than 16"), ("(A{64}){64}", "more than 256 places"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused_by_name(pattern: str, told: str) -> None:
    with pytest.raises(InvalidInput, match="The pattern") as refused:
        wanted(pattern)
    assert told in refused.value.message
    assert refused.value.param == "pattern"


@pytest.mark.parametrize("pattern", ["A0", "AA0?", "(A|00){1,2}", "X{1,3}", "A[AB]0", "0?", ".{2}"])
def test_the_likeliest_path_of_a_form_is_found(pattern: str) -> None:
    """Against all paths, tried one by one."""
    spec, random = ReadingSpec(characters=("A", "B", "0", "1")), np.random.default_rng(0)
    automaton = wanted(pattern, spec)
    for _ in range(6):
        steps = int(random.integers(1, 6))
        logs = np.log(random.dirichlet(np.full(5, 0.4), steps).astype(np.float32) + 1e-30)
        best, text = -np.inf, None
        for path in itertools.product(range(5), repeat=steps):
            said = [number for number, _ in itertools.groupby(path) if number]
            value = logs[np.arange(steps), path].sum(dtype=np.float64)
            if value > best and automaton.accepts(said):
                best, text = value, said
        runs = fitting(logs, automaton, 0)
        if text is None:
            assert runs is None
            continue
        assert runs is not None
        assert [run.number for run in runs] == text
        found = np.zeros(steps, int)
        for run in runs:
            assert run.start < run.end
            found[run.start : run.end] = run.number
        assert logs[np.arange(steps), found].sum() == pytest.approx(best, abs=1e-4)


def said(text: str, *, spec: ReadingSpec = SPEC, sure: float = 9.0) -> np.ndarray:
    """Logits (steps, classes) of a text, a blank after each character."""
    classes = len(spec.characters) + 1
    logits = np.zeros((STEPS, classes), np.float32)
    logits[:, lattice.blank_of(spec)] = sure
    for place, number in enumerate(numbers(text, spec)):
        logits[2 * place, lattice.blank_of(spec)] = 0
        logits[2 * place, number] = sure
    return logits


def answer(signature: Signature, *rows: np.ndarray, single: bool = True, **parameters: Any) -> Any:
    """What a call is answered where the model gives these rows."""
    files = [picture() for _ in rows]
    inputs: Any = files[0] if single else files
    batch = TASK.read(
        Payload(
            media_type=JSON, body=json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        ),
        signature,
        Limits(),
    )
    told: Answer = TASK.write({"y": np.stack(rows)}, batch, signature, "m:1")
    return json.loads(told.body)


def picture(size: tuple[int, int] = (60, 20), colour: Any = (9, 200, 30)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("blank", ["first", "last"])
def test_a_text_and_the_scores_of_its_characters(blank: Any) -> None:
    spec = msgspec.structs.replace(SPEC, blank=blank)
    logits = said("AB-12", spec=spec)
    logits[2] /= 3  # the B is less sure
    (found,) = answer(signed(spec), logits)
    assert found["text"] == "AB-12"
    assert len(found["characters"]) == 5
    assert found["characters"][1] == min(found["characters"]) < 0.7 < found["characters"][0]
    assert found["score"] == pytest.approx(np.mean(found["characters"]), abs=1e-6)


def test_a_pattern_decides_between_what_looks_alike() -> None:
    """O and 0, I and 1: by a call's pattern, by the model's own, or not at all."""
    logits = said("0I-OI", sure=6)
    for place, other in ((0, "O"), (2, "1"), (6, "0"), (8, "1")):
        logits[place, numbers(other)[0]] = 5
    free, own = signed(), signed(msgspec.structs.replace(SPEC, pattern="AA-00"))
    assert answer(free, logits)[0]["text"] == "0I-OI"
    (found,) = answer(free, logits, pattern="AA-00")
    assert found["text"] == "OI-01"
    # The scores are the model's own.
    assert found["characters"][0] < 0.5 < found["characters"][1]
    assert answer(own, logits)[0]["text"] == "OI-01"
    assert answer(own, logits, pattern="")[0]["text"] == "0I-OI"
    assert answer(own, logits, pattern="A0-00")[0]["text"] == "O1-01"


def test_nothing_written_and_texts_that_are_not_sure_enough() -> None:
    nothing = answer(signed(), said(""))
    assert nothing == [{"text": "", "score": pytest.approx(0.998, abs=2e-3), "characters": []}]
    unsure = said("AB", sure=2.0)
    assert answer(signed(), unsure, threshold=0.9) == []
    assert answer(signed(), unsure, threshold=0.1)[0]["text"] == "AB"
    both = answer(signed(), said("A1"), unsure, single=False, threshold=0.9)
    assert [[each["text"] for each in image] for image in both] == [["A1"], []]
    as_text = answer(signed(), said("A1"), said("B2"), single=False, as_text=True)
    assert as_text == [{"generated_text": "A1"}, {"generated_text": "B2"}]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"pattern": "AAAAAAAAAAAAA"}, "13 characters; this model reads up to 12"),
        ({"pattern": "A*"}, "has no end"),
        ({"detection_threshold": 0.5}, "finds none"),
        ({"beams": 4}, "beams"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": float("nan")}, "JSON"),
    ],
)
def test_what_a_call_cannot_have_is_refused_by_name(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        answer(signed(), said("A"), **parameters)


def test_outputs_that_are_no_numbers_are_the_model_s_fault() -> None:
    bad = said("A")
    bad[3, 3] = np.nan
    with pytest.raises(LMaaSError, match="NaN"):
        answer(signed(), bad)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reading": None}, "characters must be said"),
        ({"reading": ReadingSpec(characters=("A", "B"))}, "received 2 characters"),
        ({"reading": ReadingSpec(characters=("A",) * 20)}, "each once"),
        ({"reading": msgspec.structs.replace(SPEC, pattern="é")}, "fits 'é'"),
        ({"labels": ("a", "b")}, "no labels"),
        ({"image": ImageSpec(height=16, width=40)}, "image spec gives"),
    ],
)
def test_a_model_that_is_no_reader_is_refused(fields: dict[str, Any], told: str) -> None:
    given = signed()
    with pytest.raises(InvalidInput, match=told):
        TASK.check_signature(msgspec.structs.replace(given, **fields))


def test_lines_keep_their_proportion_and_are_filled_up() -> None:
    signature = signed()
    white = Image.new("RGB", (32, 16), (255, 255, 255))
    (row,) = lines.batch_of([white], signature).arrays.values()
    assert row.shape == (1, 3, 16, 48)
    np.testing.assert_allclose(row[..., :32], 1.0)
    np.testing.assert_allclose(row[..., 32:], 114 / 255, atol=1e-6)
    # One that is too wide is made narrower, and the extremes are nothing special.
    for size in ((4000, 16), (1, 9000), (9000, 1)):
        (row,) = lines.batch_of([Image.new("RGB", size, "white")], signature).arrays.values()
        assert row.shape == (1, 3, 16, 48)
        assert row[0, 0, 8, 0] == 1.0


def test_a_model_of_any_width_gets_few_widths() -> None:
    signature = signed(width=-1, steps=-1, image=ImageSpec(height=16, width=640, resize="line"))
    with pytest.raises(InvalidInput, match="keep their proportion"):
        signed(width=-1, image=ImageSpec(height=16, width=640))
    widths = {lines.width_of((width, 16), signature) for width in range(1, 2000)}
    assert min(widths) == 32
    assert max(widths) == 640
    assert len(widths) < 20
    assert all(lines.width_of((width, 16), signature) >= width for width in range(1, 640))
    both = [Image.new("RGB", (40, 16)), Image.new("RGB", (300, 16))]
    (rows,) = lines.batch_of(both, signature).arrays.values()
    assert rows.shape == (2, 3, 16, 320)
    with pytest.raises(PayloadTooLarge, match="which become"):
        TASK.read(
            Payload(
                media_type=JSON,
                body=json.dumps({"inputs": [picture((640, 16))] * 9}).encode(),
            ),
            signature,
            Limits(max_elements=9 * 640 * 16 * 3 - 1),
        )


def test_measures_of_texts() -> None:
    assert score.measure(["AB12", "X", " e\u0301 "], ["AB12", "Y", "\xe9"]) == {
        "exact": pytest.approx(2 / 3),
        "cer": pytest.approx(1 / 6),
    }
    assert score.measure([], []) == {}
    signature = signed()
    targets = np.full((2, 4), -100)
    targets[0, :2], targets[1, :3] = numbers("AB"), numbers("A12")
    outputs = {"y": np.stack([said("AB"), said("A11")])}
    assert TASK.metrics(outputs, targets, signature) == {"exact": 0.5, "cer": 0.2}


def test_answers_for_people() -> None:
    found = [{"text": "AB", "score": 0.5, "characters": [0.5, 0.5]}]
    assert TASK.shown(found).rows == [("AB", "0.5000")]
    assert TASK.shown([found, []]).rows == [("0", "AB", "0.5000"), ("1", "nothing found", "")]
    assert TASK.shown([{"generated_text": "AB\nC"}]).rows == [("AB\nC",)]
    assert TASK.records([found, []]) == [
        {"text": "AB", "score": 0.5}, {"text": "", "score": 0.0}
    ]  # fmt: skip
