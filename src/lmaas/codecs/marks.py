"""What is drawn on an image. Loads no library."""

from typing import NamedTuple


class Mark(NamedTuple):
    """A box in pixels of the upright image, what is written at it, and what it is one of.

    Marks of one `kind` have one colour in a picture.
    """

    box: tuple[float, float, float, float]
    text: str
    kind: str
