"""Forms with a sound: read however they are cut, bounded, refused where they do not fit."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.http.audio_form import TRANSCRIPTION, TRANSLATION, Asked, transcription, translation
from lmaas.http.form import (
    MAX_FIELD_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PARTS,
    Fields,
    MemoryForm,
)
from lmaas.transcription_types import MAX_PROMPT_CHARS, Detection

BOUNDARY = b"frontier"
KIND = b"multipart/form-data; boundary=" + BOUNDARY
Part = tuple[bytes, bytes]


def part(name: str, data: bytes, filename: str | None = None) -> Part:
    told = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"Content-Disposition: {told}".encode(), data


def body(*parts: Part) -> bytes:
    told = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, data) for head, data in parts)
    return told + b"--%b--\r\n" % BOUNDARY


def form(known: tuple[str, ...] = TRANSCRIPTION, most_bytes: int = 1000) -> MemoryForm:
    return MemoryForm(KIND, known, ("file",), most_bytes)


def read(data: bytes, cuts: tuple[int, ...] = (), **more: Any) -> Fields:
    taken = form(**more)
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        taken.feed(data[start:end])
    return taken.result()


TEXTS = st.text(max_size=40)


@settings(deadline=None)
@given(
    file=st.binary(max_size=200),
    prompt=TEXTS,
    words=st.lists(TEXTS, max_size=3),
    file_at=st.integers(0, 4),
    cuts=st.lists(st.integers(0, 900), max_size=12).map(tuple),
)
def test_what_was_sent_comes_out_however_it_is_cut(
    file: bytes, prompt: str, words: list[str], file_at: int, cuts: tuple[int, ...]
) -> None:
    parts = [part("model", b"m"), part("prompt", prompt.encode())]
    parts += [part("keywords[]", word.encode()) for word in words]
    parts.insert(file_at, part("file", file, "a.wav"))
    fields = read(body(*parts), cuts)
    assert fields.file == file
    assert fields.text("prompt") == prompt
    assert list(fields.all("keywords[]")) == words


@settings(deadline=None)
@given(data=st.binary(max_size=400), cut=st.integers(0, 400), whole=st.booleans())
def test_noise_is_refused_or_read_and_never_breaks(data: bytes, cut: int, whole: bool) -> None:
    sent = body(part("model", b"m"), part("file", data, "a"))
    broken = data if whole else sent[:cut] + data + sent[cut:]
    try:
        read(broken, (cut,))
    except LMaaSError:
        return


@pytest.mark.parametrize(
    "parts",
    [
        (part("model", b"m"), part("model", b"m"), part("file", b"x", "a")),
        (part("model", b"m"), part("file", b"x", "a"), part("file", b"x", "a")),
    ],
)
def test_a_part_that_is_named_twice_is_refused(parts: tuple[Part, ...]) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        read(body(*parts))


def test_bounds() -> None:
    file = part("file", b"x" * 1001, "a")
    with pytest.raises(PayloadTooLarge, match="more than 1000 bytes"):
        read(body(file))
    assert len(read(body(part("file", b"x" * 1000, "a"))).file) == 1000
    with pytest.raises(PayloadTooLarge, match="prompt"):
        read(body(part("prompt", b"x" * (MAX_FIELD_BYTES + 1))))
    many = [part("keywords[]", b"") for _ in range(MAX_PARTS + 1)]
    with pytest.raises(PayloadTooLarge, match="parts"):
        read(body(*many))
    long = (b"X: " + b"x" * (MAX_HEADER_BYTES + 1), b"")
    with pytest.raises(InvalidInput, match="too long"):
        read(body(long))
    heads = (b"\r\n".join(b"X%d: x" % n for n in range(MAX_HEADERS + 1)), b"")
    with pytest.raises(InvalidInput, match="header count"):
        read(body(heads))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (body(part("nonsense", b"1"), part("file", b"x", "a")), "Unknown field nonsense"),
        (body((b"Content-Type: text/plain", b"x")), "no name"),
        (body(part("prompt", b"\xff"), part("file", b"x", "a")), "no UTF-8"),
        (body(part("model", b"m")), "no part 'file'"),
        (body(part("file", b"x", "a"))[:-8], "cut off"),
        (b"", "cut off"),
    ],
)
def test_what_does_not_fit_is_told(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read(data)


@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/form-data"])
def test_what_is_no_form_is_refused(kind: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a multipart form"):
        MemoryForm(kind, TRANSCRIPTION, ("file",), 10)


def fields(**texts: Any) -> Fields:
    told = {name: [value] if isinstance(value, str) else value for name, value in texts.items()}
    return Fields({"file": b"sound"}, {"model": ["m"], **told})


def asked(**texts: Any) -> Asked:
    return transcription(fields(**texts))


FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json", "xml")
COMBINATIONS = list(
    itertools.product(FORMATS, (None, ["word"], ["segment"], ["word", "segment"], ["letter"]),
                      (None, ["logprobs"], ["other"]))
)  # fmt: skip


@pytest.mark.parametrize(("kind", "times", "include"), COMBINATIONS)
def test_formats_times_and_probabilities_go_together_or_are_refused(
    kind: str, times: list[str] | None, include: list[str] | None
) -> None:
    texts: dict[str, Any] = {"response_format": kind}
    if times:
        texts["timestamp_granularities[]"] = times
    if include:
        texts["include[]"] = include
    fits = (
        kind in FORMATS[:5]
        and (not times or (kind == "verbose_json" and "letter" not in times))
        and (not include or (kind == "json" and include == ["logprobs"]))
    )
    if not fits:
        with pytest.raises(InvalidInput) as refused:
            asked(**texts)
        assert refused.value.param in (
            "response_format", "timestamp_granularities[]", "include[]"
        )  # fmt: skip
        return
    request = asked(**texts).request
    assert request.words == ("word" in (times or ()))
    wanted = kind in ("srt", "vtt") or (kind == "verbose_json" and times != ["word"])
    assert request.segments == wanted
    assert request.logprobs == bool(include)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "1.1"),
        ("temperature", "-0.1"),
        ("temperature", "nan"),
        ("temperature", "1e999"),
        ("temperature", "hot"),
        ("stream", "yes"),
        ("language", ""),
        ("language", "x" * 41),
        ("prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("model", ""),
        ("chunking_strategy", "manual"),
        ("chunking_strategy", "[" * 5000),
        ("chunking_strategy", '{"type": "server_vad", "more": 1}'),
        ("chunking_strategy[type]", "manual"),
        ("chunking_strategy[threshold]", "0.5"),
        ("keywords[]", "a"),
        ("languages[]", "en"),
        ("known_speaker_names[]", "a"),
        ("known_speaker_references[]", "a"),
    ],
)
def test_values_that_cannot_be_honoured_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(**{name: value})
    assert refused.value.param is not None
    assert refused.value.param.partition("[")[0] == name.partition("[")[0]


def test_voice_detection_is_what_the_form_says() -> None:
    assert asked().request.detection == Detection()
    assert asked(chunking_strategy="auto").request.cut_at_silence
    assert not asked(chunking_strategy="none").request.cut_at_silence
    told = {"type": "server_vad", "threshold": "0.25", "prefix_padding_ms": "150",
            "silence_duration_ms": "700"}  # fmt: skip
    wanted = Detection(threshold=0.25, padding_s=0.15, silence_s=0.7)
    parts = {f"chunking_strategy[{name}]": value for name, value in told.items()}
    assert asked(**parts).request.detection == wanted
    text = '{"type": "server_vad", "threshold": 0.25, "prefix_padding_ms": 150, ' \
           '"silence_duration_ms": 700}'  # fmt: skip
    assert asked(chunking_strategy=text).request.detection == wanted
    for name, value in (("threshold", "1.5"), ("prefix_padding_ms", "-1"),
                        ("silence_duration_ms", "0")):  # fmt: skip
        with pytest.raises(InvalidInput, match="out of range"):
            asked(**{**parts, f"chunking_strategy[{name}]": value})
    with pytest.raises(InvalidInput, match="not both"):
        asked(chunking_strategy="auto", **parts)


def test_zero_temperature_tries_others_where_a_text_looks_wrong() -> None:
    assert asked(temperature="0.0").request.temperature is None
    assert asked(temperature="0.4").request.temperature == 0.4


def test_a_translation_is_english_and_takes_fewer_fields() -> None:
    made = translation(fields(response_format="srt", prompt="Names"))
    assert made.request.translate
    assert made.request.segments
    assert set(TRANSLATION) < set(TRANSCRIPTION)
    with pytest.raises(InvalidInput, match="Unknown field language"):
        read(body(part("language", b"de"), part("file", b"x", "a")), known=TRANSLATION)
    with pytest.raises(InvalidInput, match="empty"):
        translation(Fields({"file": b""}, {"model": ["m"]}))
