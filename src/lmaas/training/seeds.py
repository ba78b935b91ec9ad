"""States of random generators that follow from a step alone."""

import zlib


def state_of(seed: int, step: int, rank: int, number: int, size: int) -> list[int]:
    """`size` numbers of 31 bits for generator `number` of worker `rank` at a step of a run."""
    return [
        zlib.crc32(b"%d %d %d %d %d" % (seed, step, rank, number, place)) & 0x7FFFFFFF
        for place in range(size)
    ]
