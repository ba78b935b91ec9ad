"""Codes of languages, and languages told apart."""

import pytest

from lmaas.tasks.translation import languages
from lmaas.tasks.translation.identify import Identifier, grams_of
from sentences_by_language import SENTENCES

NLLB = ("eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant", "srp_Cyrl", "nob_Latn", "arb_Arab")
MBART = ("en_XX", "de_DE", "zh_CN", "pt_XX", "fr_XX")


@pytest.mark.parametrize(
    ("code", "known", "found"),
    [
        ("en", NLLB, "eng_Latn"),
        ("EN", NLLB, "eng_Latn"),
        ("en-US", NLLB, "eng_Latn"),
        ("eng_Latn", NLLB, "eng_Latn"),
        ("deu", NLLB, "deu_Latn"),
        ("zh", NLLB, "zho_Hans"),
        ("zt", NLLB, "zho_Hant"),
        ("zh-TW", NLLB, "zho_Hant"),
        ("zh-Hant", NLLB, "zho_Hant"),
        ("zh-CN", NLLB, "zho_Hans"),
        ("no", NLLB, "nob_Latn"),
        ("nb", NLLB, "nob_Latn"),
        ("ar", NLLB, "arb_Arab"),
        ("sr-Latn", NLLB, None),
        ("xx", NLLB, None),
        ("", NLLB, None),
        ("e" * 300, NLLB, None),
        ("en", MBART, "en_XX"),
        ("pt-BR", MBART, "pt_XX"),
        ("zh_CN", MBART, "zh_CN"),
        ("en", ("__en__", "__de__"), "__en__"),
        ("de_DE", ("__en__", "__de__"), "__de__"),
        ("pt-BR", ("pt_PT", "pt_BR"), "pt_BR"),
        ("pt", ("pt-BR",), "pt-BR"),
    ],
)
def test_codes(code: str, known: tuple[str, ...], found: str | None) -> None:
    assert languages.resolve(code, known) == found


def test_short_codes() -> None:
    assert [languages.short(code) for code in (*NLLB, *MBART, "__de__", "ace_Latn", "?")] == [
        "en", "de", "zh", "zh", "sr", "nb", "ar", "en", "de", "zh", "pt", "fr", "de", "ace", "?",
    ]  # fmt: skip


def test_sentences_are_told_apart() -> None:
    identifier = Identifier.load()
    told = [
        (code, identifier.identify(text)[0].language)
        for code, texts in SENTENCES.items()
        for text in texts
    ]
    assert sum(code == found for code, found in told) >= 64
    assert len(told) == 70
    # What is confused is close kin.
    assert {pair for pair in told if pair[0] != pair[1]} <= {
        ("da", "nb"), ("hi", "ne"), ("zh", "zh-Hant"), ("lt", "ms"), ("zh-Hant", "zh"),
    }  # fmt: skip


def test_how_sure_one_is() -> None:
    identifier = Identifier.load()
    (sure, *_) = identifier.identify(SENTENCES["de"][0] * 3)
    assert sure.confidence > 80
    for short in ("so", "a", "Paris", "ok ok"):
        assert identifier.identify(short)[0].confidence < 40
    for nothing in ("", "123 !?", " \n"):
        assert identifier.identify(nothing) == []
    among = identifier.identify(SENTENCES["da"][0], among={"da", "de"})
    assert [guess.language for guess in among][0] == "da"
    assert all(0 <= guess.confidence <= 100 for guess in among)


def test_only_the_beginning_of_a_text_is_looked_at() -> None:
    assert grams_of("ab " * 100_000) == grams_of("ab " * 1000)


def test_names() -> None:
    identifier = Identifier.load()
    assert identifier.name("de") == "German"
    assert identifier.name("zh-Hant")
    assert identifier.name("qqq") is None
