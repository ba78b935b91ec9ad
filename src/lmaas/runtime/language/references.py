"""What the source of a language model says after some prompts; stored in `sample.safetensors`.

For each prompt: the tokens that follow it in the source's own greedy answer, and at each of their
places the most probable tokens with their log probabilities. A place is one row.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.types import LanguageSpec

TOP: Final = 64
"""Most probable tokens that are kept of each row."""
NOTES: Final = "not_compared"
MOST_PICTURES: Final = 4
"""Images of one prompt."""
MOST_PIXELS: Final = 4096
"""Their longest side."""


class Reference(msgspec.Struct, frozen=True, eq=False):
    """A prompt, and what comes after it.

    `ids` (L + R - 1) int64: the prompt's L tokens and the greedy ones between the R rows. `tokens`
    (R, TOP) int64 are the most probable ones of each row in descending order, `logprobs` (R, TOP)
    float32 theirs. `spread` is the standard deviation of the source's log probabilities.
    `pictures` (H, W, 3) uint8 are the images whose placeholders the prompt has.
    """

    ids: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    spread: float
    pictures: tuple[np.ndarray, ...] = ()

    @property
    def rows(self) -> int:
        """Places that are compared."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.ids) - self.rows + 1


def write(path: Path, references: Sequence[Reference], notes: Sequence[str]) -> None:
    """Store them, with what was not computed and why."""
    from safetensors.numpy import save_file

    tensors = {}
    for number, reference in enumerate(references):
        tensors[f"ids.{number}"] = reference.ids.astype(np.int64)
        tensors[f"tokens.{number}"] = reference.tokens.astype(np.int64)
        tensors[f"logprobs.{number}"] = reference.logprobs.astype(np.float32)
        tensors[f"spread.{number}"] = np.array([reference.spread], np.float32)
        for place, picture in enumerate(reference.pictures):
            tensors[f"picture.{number}.{place}"] = np.ascontiguousarray(picture, np.uint8)
    save_file(tensors, path, metadata={NOTES: json.dumps(list(notes))})


def read(path: Path, spec: LanguageSpec) -> tuple[list[Reference], tuple[str, ...]]:
    """What is stored. Raises InvalidInput for what contradicts itself or the signature."""
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            names = set(file.keys())
            count = sum(name.startswith("ids.") for name in names)
            notes = json.loads((file.metadata() or {}).get(NOTES, "[]"))
            references = [
                Reference(
                    ids=file.get_tensor(f"ids.{number}"),
                    tokens=file.get_tensor(f"tokens.{number}"),
                    logprobs=file.get_tensor(f"logprobs.{number}"),
                    spread=float(file.get_tensor(f"spread.{number}")[0]),
                    pictures=tuple(
                        file.get_tensor(f"picture.{number}.{place}")
                        for place in range(MOST_PICTURES)
                        if f"picture.{number}.{place}" in names
                    ),
                )
                for number in range(count)
            ]
    except Exception as error:  # noqa: BLE001 - the library tells in several ways what it lacks
        raise InvalidInput(
            f"The package's sample cannot be read: {' '.join(str(error).split())[:200]}.",
            hint="Push the model's checkpoint again: its package was made by another LMaaS.",
        ) from None
    if not references:
        raise InvalidInput("The package's sample holds no prompts.")
    for reference in references:
        _check(reference, spec)
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InvalidInput("The package's sample has notes that are no texts.")
    return references, tuple(notes)


def _check(reference: Reference, spec: LanguageSpec) -> None:
    ids, tokens, logprobs = reference.ids, reference.tokens, reference.logprobs
    if ids.ndim != 1 or tokens.ndim != 2 or tokens.shape != logprobs.shape or not tokens.size:
        raise InvalidInput("The package's sample has no log-probabilities for its tokens.")
    if reference.length < 1 or len(ids) + 1 > spec.context_length + 1:
        raise InvalidInput("The package's sample has prompts that are no prompts of the model.")
    for picture in reference.pictures:
        shape = picture.shape
        if picture.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not picture.size:
            raise InvalidInput("The package's sample has pictures that are none.")
        if max(shape) > MOST_PIXELS or spec.vision is None:
            raise InvalidInput("The package's sample has pictures that the model does not take.")
    for array in (ids, tokens):
        if array.dtype != np.int64 or not ((array >= 0) & (array < spec.vocabulary_size)).all():
            raise InvalidInput("The package's sample has tokens outside the vocabulary.")
    if not np.isfinite(logprobs).all() or not np.isfinite(reference.spread):
        raise InvalidInput("The package's sample has log-probabilities that are no numbers.")
