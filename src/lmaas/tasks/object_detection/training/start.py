"""What the networks of all frameworks begin with (Lin et al., 2017)."""

from typing import Final

HEAT_BIAS: Final = -2.19
"""At first a cell is a centre with a probability of 0.1: nearly all are none."""
HEAD_SCALE: Final = 0.01
"""The deviation of the last layers' weights: at first no cell is sure, whatever its features."""
