"""How a text becomes the source of an encoder-decoder, and how its answer begins: data of a model.

Lies as `text_layout.json` beside the files that are served. Knows no tokenizer and no task.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE, Record

FILE: Final = "text_layout.json"
TOKENIZER: Final = "tokenizer.json"
TARGET_TOKENIZER: Final = "target_tokenizer.json"
"""Where answers have a vocabulary of their own (Marian's checkpoints)."""
SOURCE_LANGUAGE: Final = -1
"""Among the ids of `before` and `after`: the token of the source's language."""
MAX_BYTES: Final = 1 << 20


class Prompt(Record, frozen=True, kw_only=True):
    """Words before a source that say what is to be done (T5's `task_specific_params`).

    `source` and `target` are the languages that it translates between, where it does.
    """

    prefix: str
    source: str | None = None
    target: str | None = None


class TextLayout(Record, frozen=True, kw_only=True):
    """What surrounds a source, and where an answer's language goes.

    `before` and `after` are token ids; `SOURCE_LANGUAGE` stands for the source language's. The
    target language's token comes after the `start` of the signature's sequence, or is the start.
    `pair` are the two languages of a model that knows one direction only.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    target: Literal["none", "after-start", "is-start"] = "none"
    pair: tuple[str, str] | None = None
    prompts: dict[str, Prompt] = msgspec.field(default_factory=dict)

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """The languages, from and to, that a model without tokens of languages translates."""
        found = [(each.source, each.target) for each in self.prompts.values()]
        told = [(own, other) for own, other in found if own is not None and other is not None]
        return tuple(dict.fromkeys([*([self.pair] if self.pair else []), *told]))


def read(folder: Path) -> TextLayout:
    """The layout in a served folder. Raises InvalidInput where it is missing or damaged."""
    try:
        with (folder / FILE).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=TextLayout)
    except FileNotFoundError:
        raise InvalidInput(
            f"The model has no {FILE}, which says how its texts are read.", hint="Push it again."
        ) from None
    except UNREADABLE as error:
        raise InvalidInput(f"{FILE} is damaged: {error}.", hint="Push it again.") from None


def write(layout: TextLayout, folder: Path) -> None:
    """Write the layout into a served folder."""
    (folder / FILE).write_bytes(msgspec.json.encode(layout))
