"""Text that nobody vouches for, so that it means nothing in Markdown, HTML or a terminal."""

import re
import unicodedata
from typing import Final

PUNCTUATION: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:=\"'$^])")
ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
"""As entities, not behind a backslash: not every reader of Markdown knows those escapes."""
MAX_CHARS: Final = 500


def visible(text: str) -> str:
    """`text` with line breaks, and without what steers a terminal or turns the reading around."""
    kept = (
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd"
        for c in text
    )
    return "".join(kept)


def literal(text: object, limit: int = MAX_CHARS) -> str:
    """`text` in one line that reads as it is written, cut when it is long."""
    told = " ".join(visible(str(text)).split())
    if len(told) > limit:
        told = told[: limit - 1] + "…"
    told = "".join(ENTITIES.get(char, char) for char in told)
    # An entity's own "#" stays what it is.
    return "".join(
        part if part in ENTITIES.values() else PUNCTUATION.sub(r"\\\1", part)
        for part in re.split("(&amp;|&lt;|&gt;|&#64;)", told)
    )


def quoted(text: str) -> str:
    """Lines of `text` as a quotation from which nothing leads out."""
    lines = visible(text).splitlines()
    return "\n".join(f"> {literal(line, 10_000)}".rstrip() for line in lines)


def fenced(text: str, kind: str = "") -> str:
    """`text` as it is, in a block that it cannot end."""
    told = visible(text)
    longest = max((len(run) for run in re.findall("`+", told)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{told.rstrip()}\n{fence}"
