"""How long the fuzzers look: the same few cases in `make test`, many new ones in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = "FUZZ_EXAMPLES"
"""How many cases each property looks at. Where it is not set they are few, and always the same."""


def effort(short: int, *, steps: int = 30, share: float = 1.0) -> settings:
    """The settings of a property of which `make test` looks at `short` cases.

    `share` is how many of the long run's cases it takes, for properties whose cases are slow.
    """
    told = os.environ.get(EXAMPLES)
    long = settings(
        deadline=None,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    if told is None:
        return settings(long, max_examples=short, derandomize=True, database=None)
    return settings(long, max_examples=max(short, int(int(told) * share)))
