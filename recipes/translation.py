"""Translation: English into German, learned from sentences that a grammar writes.

    python recipes/translation.py [--framework pytorch|keras|tensorflow] [--quick] [--home DIR]

The grammar knows what makes German hard for word-by-word translation: three genders with their
cases and endings, the verb in second place when a time comes first, and numbers in words up to
800,000, which turn their tens and ones round ("forty-two" is "zweiundvierzig"). A byte-pair
vocabulary and a Transformer learn 8,000 of these sentences from nothing, in the framework that is
named; sentences that were not seen are then asked for through the stock clients of Hugging Face and
of LibreTranslate. Exit code 0 only when at least 95 of 100 are right to the letter, when both
clients agree, and when a document keeps its paragraphs and its markup. Needs `lmaas[train]` with
the framework, `huggingface_hub`, `libretranslatepy`, `num2words`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from huggingface_hub import InferenceClient
from libretranslatepy import LibreTranslateAPI
from num2words import num2words

from lmaas.client import Client
from proof import check, main, say, train

NAME: Final = "english-german"


class Noun(NamedTuple):
    """An English noun, its plural, the German one, its plural and its gender."""

    english: str
    several: str
    german: str
    many: str
    gender: str


PEOPLE: Final = (
    Noun("man", "men", "Mann", "Männer", "m"),
    Noun("teacher", "teachers", "Lehrer", "Lehrer", "m"),
    Noun("woman", "women", "Frau", "Frauen", "f"),
    Noun("doctor", "doctors", "Ärztin", "Ärztinnen", "f"),
    Noun("child", "children", "Kind", "Kinder", "n"),
    Noun("girl", "girls", "Mädchen", "Mädchen", "n"),
)
THINGS: Final = (
    Noun("apple", "apples", "Apfel", "Äpfel", "m"),
    Noun("table", "tables", "Tisch", "Tische", "m"),
    Noun("letter", "letters", "Brief", "Briefe", "m"),
    Noun("lamp", "lamps", "Lampe", "Lampen", "f"),
    Noun("flower", "flowers", "Blume", "Blumen", "f"),
    Noun("clock", "clocks", "Uhr", "Uhren", "f"),
    Noun("book", "books", "Buch", "Bücher", "n"),
    Noun("house", "houses", "Haus", "Häuser", "n"),
    Noun("picture", "pictures", "Bild", "Bilder", "n"),
)
ADJECTIVES: Final = (
    ("big", "groß"), ("small", "klein"), ("old", "alt"), ("new", "neu"), ("red", "rot"),
    ("beautiful", "schön"), ("young", "jung"), ("quiet", "ruhig"),
)  # fmt: skip
VERBS: Final = (
    ("sees", "sieht"), ("buys", "kauft"), ("finds", "findet"), ("looks for", "sucht"),
    ("paints", "malt"), ("counts", "zählt"), ("shows", "zeigt"), ("brings", "bringt"),
)  # fmt: skip
TIMES: Final = (
    ("today", "heute"), ("tomorrow", "morgen"), ("now", "jetzt"), ("often", "oft"),
    ("on Monday", "am Montag"), ("in the evening", "am Abend"),
)  # fmt: skip
THE: Final = {"m": ("der", "den"), "f": ("die", "die"), "n": ("das", "das")}
A: Final = {"m": ("ein", "einen"), "f": ("eine", "eine"), "n": ("ein", "ein")}
AFTER_THE: Final = {"m": ("e", "en"), "f": ("e", "e"), "n": ("e", "e")}
AFTER_A: Final = {"m": ("er", "en"), "f": ("e", "e"), "n": ("es", "es")}
PAGE: Final = "<p>{}</p>\n<ul><li>{}</li></ul><script>if (1 < 2) go()</script>"


class Pair(NamedTuple):
    """A sentence in both languages."""

    source: str
    target: str


class Grammar:
    """Writes sentences in both languages at once."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def _one(self, of: Any) -> Any:
        return of[self._random.integers(len(of))]

    def _is(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def sentence(self) -> Pair:
        """One sentence."""
        who, wer = self._noun(self._one(PEOPLE), case=0)
        what, wen = self._number() if self._is(0.4) else self._noun(self._one(THINGS), case=1)
        verb, tut = self._one(VERBS)
        if self._is(0.5):
            when, wann = self._one(TIMES)
            pair = f"{when}, {who} {verb} {what}.", f"{wann} {tut} {wer} {wen}."
        else:
            pair = f"{who} {verb} {what}.", f"{wer} {tut} {wen}."
        return Pair(*(text[0].upper() + text[1:] for text in pair))

    def _noun(self, noun: Noun, case: int) -> tuple[str, str]:
        """With its article, `case` 0 in the nominative, 1 in the accusative."""
        known, english, german = self._is(0.5), noun.english, noun.german
        if self._is(0.6):
            word, wort = self._one(ADJECTIVES)
            ending = (AFTER_THE if known else AFTER_A)[noun.gender][case]
            english, german = f"{word} {english}", f"{wort}{ending} {german}"
        article = (THE if known else A)[noun.gender][case]
        said = "the" if known else "an" if english[0] in "aeiou" else "a"
        return f"{said} {english}", f"{article} {german}"

    def _number(self) -> tuple[str, str]:
        noun = self._one(THINGS)
        number = int(self._random.integers(2, 10 ** self._random.integers(1, 6) * 8 + 1))
        words = num2words(number, lang="en").replace(",", "")
        return f"{words} {noun.several}", f"{num2words(number, lang='de')} {noun.many}"


def write_pairs(count: int, seed: int, but: frozenset[Pair] = frozenset()) -> list[Pair]:
    """So many different pairs, none of them one of `but`."""
    grammar, pairs = Grammar(seed), dict[Pair, None]()
    while len(pairs) < count:
        pair = grammar.sentence()
        if pair not in but:
            pairs[pair] = None
    return list(pairs)


def save(path: Path, pairs: list[Pair]) -> str:
    """As JSONL; its path."""
    lines = (json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs)
    path.write_text("".join(lines), "utf-8")
    return str(path)


def prove(client: Client, folder: Path, quick: bool, *, framework: str) -> int:
    """Train, ask through stock clients, and check."""
    learned = write_pairs(500 if quick else 8000, seed=1)
    held = write_pairs(20 if quick else 200, seed=2, but=frozenset(learned))
    job = train(
        client,
        name=NAME,
        task="translation",
        framework=framework,
        data={
            "train": save(folder / "learned.jsonl", learned),
            "validation": 0.02,
            "test": save(folder / "held.jsonl", held),
            "options": {
                "vocabulary": 600,
                "max_length": 64,
                "source_language": "en",
                "target_language": "de",
            },
        },
        model={"options": {"dropout": 0.0}},
        label_smoothing=0.1,
        epochs=1 if quick else 10,
        batch_size=64,
        optimizer={"learning_rate": 3e-3},
        schedule={"name": "cosine", "warmup": 0.1},
        clip_norm=1.0,
        early_stopping=None,
    )
    measured = client.model(NAME).manifest.metrics
    told = ", ".join(f"{name} {measured[f'test_{name}']:.3f}" for name in ("exact", "chrf", "bleu"))
    say(f"  {framework}: {told}, in {(job.finished_at or 0) - (job.started_at or 0):.0f} s")
    sources, wanted = ([pair[side] for pair in held] for side in (0, 1))
    stock = InferenceClient(model=f"{client.url}/models/{NAME}", token=client.key)
    got = [stock.translation(text, src_lang="en", tgt_lang="de") for text in sources]
    written = [each.translation_text for each in got]
    exact = float(np.mean([a == b for a, b in zip(written, wanted, strict=True)]))
    libre = LibreTranslateAPI(client.url, api_key=client.key)
    again = [libre.translate(text, "en", "de") for text in sources[:20]]
    document = f"{sources[0]} {sources[1]}\n\n\t{sources[2]}\n"
    expected = f"{written[0]} {written[1]}\n\n\t{written[2]}\n"
    say(f"  as served: {exact:.3f} of {len(held)} unseen sentences to the letter")
    wrong = check(
        "the served model writes as the trained one", abs(exact - measured["test_exact"]) < 0.011
    )
    wrong += check("both clients get the same answers", again == written[:20])
    wrong += check("paragraphs stay", libre.translate(document, "en", "de") == expected)
    if not quick:
        wrong += check("at least 95 of 100 are right to the letter", exact >= 0.95)
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--framework", choices=("pytorch", "keras", "tensorflow"), default="pytorch"
    )
    given, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(main(__doc__, partial(prove, framework=given.framework)))
