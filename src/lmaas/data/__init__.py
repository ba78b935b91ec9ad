"""Data sets in: files checked row by row, split, and read by index. Knows no framework."""
