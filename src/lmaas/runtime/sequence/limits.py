"""Numbers that the memory plan and the engine share."""

from typing import Final

SLACK: Final = 2
"""Columns of a lane may be about twice what its rows have read."""
MOST_ROWS_EACH: Final = 32
"""Beams, or drawn candidates, of one sequence."""
