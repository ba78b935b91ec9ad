"""What a cell of a table says, wherever tables are read."""

from typing import Any

from lmaas.tasks.numerals import MISSING


def category(value: Any) -> str | None:
    """A cell as the name of a category: texts trimmed, numbers and booleans as JSON writes them.

    None for what says that a value is missing.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return None if value != value else f"{value:.15g}"
    if isinstance(value, str):
        text = value.strip()
        return None if text in MISSING else text
    return None
