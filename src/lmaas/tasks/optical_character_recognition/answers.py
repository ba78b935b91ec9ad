"""What a call to a reader or to a pipeline with one is answered."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lmaas.types import Answer


def body_of(found: Sequence[Sequence[Any]], *, single: bool, as_text: bool) -> Answer:
    """The texts of each image: a list for one image, a list of lists for several.

    With `as_text` one `{"generated_text"}` for each image, as `image-to-text` answers.
    """
    if as_text:
        told = [msgspec.to_builtins(each) for each in found]
        return Answer(
            body=msgspec.json.encode([{"generated_text": texts_of_image(t)} for t in told])
        )
    return Answer(body=msgspec.json.encode(found[0] if single else found))


def texts_of_image(found: Sequence[Mapping[str, Any]]) -> str:
    """All texts of an image, a line each."""
    return "\n".join(each["text"] for each in found)
