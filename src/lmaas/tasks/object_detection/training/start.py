"""What the networks of all frameworks begin with."""

from typing import Final

HEAT_BIAS: Final = -2.19
"""At first a cell is a centre with a probability of 0.1 (Lin et al., 2017): nearly all are none."""
