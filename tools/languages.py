"""Learns to tell languages apart from CLDR's tables, and writes what the server reads of it.

    pip install babel==2.19.0
    python tools/languages.py

Names of languages, countries, scripts, currencies, units, places of time zones, dates and what is
said of them ("in 3 days") are the texts: Unicode's CLDR as Babel carries it (Unicode License v3).
A tenth, drawn by the texts' checksums, is held out to measure. The file holds, for each language,
its runs of one to four letters that tell most, and its English name. The same Babel gives the same
file.
"""

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from babel import Locale

from lmaas.tasks.translation.identify import FILE, MOST, Identifier, grams_of

_CODES: Final = (
    "af am ar az be bg bn bs ca cs cy da de el en es et eu fa fi fil fr ga gl gu he hi hr hu hy id "
    "is it ja ka kk km kn ko ky lo lt lv mk ml mn mr ms my nb ne nl pa pl pt ro ru si sk sl sq sr "
    "sv sw ta te th tr uk ur uz vi zh zh_Hant zu"
)
CODES: Final = _CODES.split()
KEPT: Final = 1000
"""So many runs of letters of a language are kept."""
TABLES: Final = (
    ("territories", 1), ("languages", 1), ("scripts", 1), ("currency_names", 1), ("time_zones", 1),
    ("meta_zones", 1), ("months", 2), ("days", 2), ("quarters", 1), ("eras", 1), ("day_periods", 2),
    ("unit_display_names", 2), ("unit_patterns", 6), ("date_fields", 30), ("list_patterns", 60),
    ("currency_names_plural", 1), ("compound_unit_patterns", 6), ("zone_formats", 6),
    ("datetime_formats_relative", 30),
)  # fmt: skip
"""CLDR's tables, and how often each counts: those with the small words of a language more."""
KEPT_SIGNS: Final = 2200
"""The same of a language whose letters are words or syllables."""
SIGNS_OF: Final = ("ja", "ko", "zh", "zh_Hant")
LEAST_CHARS: Final = 2


def texts(value: Any) -> Iterator[str]:
    """All texts in a table."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)


def corpus(code: str) -> dict[str, int]:
    """The texts of a language, and how often each counts."""
    data = Locale.parse(code)._data
    found: dict[str, int] = {}
    for table, count in TABLES:
        for text in texts(data.get(table, ())):
            plain = text.replace("{0}", " ").replace("{1}", " ").strip()
            if sum(map(str.isalpha, plain)) >= LEAST_CHARS:
                found[plain] = max(found.get(plain, 0), count)
    return found


def held_out(text: str) -> bool:
    """Whether a text is for measuring."""
    return zlib.crc32(text.encode()) % 10 == 0


def learn(data: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """For each language, its runs of letters and how likely each is: -10 ln p."""
    # What is written alike in many languages ("Paraguay") tells of none.
    shared = Counter(text for found in data.values() for text in found)
    counts: dict[str, Counter[str]] = {}
    for code, found in data.items():
        counts[code] = Counter()
        for text, count in found.items():
            for gram, times in grams_of(text).items():
                counts[code][gram] += count * times / max(1, shared[text] - 2) ** 2  # type: ignore[assignment]
    totals = {code: sum(of.values()) for code, of in counts.items()}
    everywhere: Counter[str] = Counter()
    for code, of in counts.items():
        for gram, count in of.items():
            everywhere[gram] += count / totals[code]  # type: ignore[assignment]
    learned = {}
    for code, of in counts.items():

        def tells(gram: str, of: Counter[str] = of, total: int = totals[code]) -> float:
            own = of[gram] / total
            return own * math.log(own / (everywhere[gram] / len(counts)))

        # What is frequent says as much by being missing as what is rare by being there.
        most = KEPT_SIGNS if code in SIGNS_OF else KEPT
        best = sorted(of, key=lambda gram: (-tells(gram), gram))[: most * 2 // 3]
        frequent = sorted(of, key=lambda gram: (-of[gram], gram))
        kept = list(dict.fromkeys([*best, *frequent]))[:most]
        learned[code] = {
            gram: min(MOST - 1, round(-10 * math.log(of[gram] / totals[code])))
            for gram in sorted(kept)
        }
    return learned


def main() -> None:
    """Learn, measure, and write the file."""
    data = {code: corpus(code) for code in CODES}
    learned = learn({c: {t: n for t, n in of.items() if not held_out(t)} for c, of in data.items()})
    english = Locale.parse("en")
    names = {}
    for code in CODES:
        name = english.languages.get(code)
        names[code.replace("_", "-")] = name or Locale.parse(code).get_display_name("en")
    more = {
        code: name
        for code, name in sorted(english.languages.items())
        if len(code) in (2, 3) and code not in names
    }
    told = {
        "names": names,
        "other_names": more,
        "grams": {code.replace("_", "-"): grams for code, grams in learned.items()},
    }
    raw = json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    packed = gzip.compress(raw, 9, mtime=0)
    path = Path(__file__).parent.parent / "src/lmaas/tasks/translation" / FILE
    path.write_bytes(packed)
    identifier = Identifier.load()
    right = seen = 0
    for code, of in data.items():
        for text in of:
            if held_out(text) and sum(map(str.isalpha, text)) >= 12:
                seen += 1
                right += identifier.identify(text)[0].language == code.replace("_", "-")
    print(f"{len(packed)} bytes, {len(CODES)} languages")  # noqa: T201
    print(f"held-out texts of 12 letters and more: {right / seen:.3f} of {seen}")  # noqa: T201


if __name__ == "__main__":
    main()
