"""Who waits for whose prefix, in blocks of four tokens."""

from lmaas.runtime.language.prefixes import Prefixes

COMMON = list(range(16))


def begun(prefixes: Prefixes, *sequences: int) -> list[int]:
    """Those of `sequences` that may begin, begun."""
    ready = []
    for sequence in sequences:
        if prefixes.ready(sequence):
            prefixes.begin(sequence)
            ready.append(sequence)
    return ready


def made(*prompts: list[int], capacity: int = 100) -> Prefixes:
    """With `prompts` waiting, numbered from 1."""
    prefixes = Prefixes(4, capacity)
    for number, prompt in enumerate(prompts, 1):
        prefixes.add(number, prompt)
    return prefixes


def test_one_goes_first_and_the_others_follow_when_the_blocks_are_there() -> None:
    prefixes = made([*COMMON, 90, 91, 92, 93], [*COMMON, 80], COMMON)
    assert begun(prefixes, 1, 2, 3) == [1]
    prefixes.step(15)
    assert begun(prefixes, 2, 3) == []
    prefixes.step(1)  # the sixteenth token; the first one's own are not waited for
    assert begun(prefixes, 2, 3) == [2, 3]


def test_who_begins_differently_does_not_wait() -> None:
    prefixes = made(COMMON, [99, *COMMON], COMMON[:3], [1, 2, 3], [*COMMON[:4], *COMMON[:4]])
    assert begun(prefixes, 1, 2, 3, 4, 5) == [1, 2, 3, 4]
    prefixes.step(4)
    assert begun(prefixes, 5) == [5]


def test_the_first_token_tells_that_the_prompt_is_computed() -> None:
    prefixes = made(COMMON, COMMON)
    assert begun(prefixes, 1, 2) == [1]
    prefixes.end(1, computed=True)
    assert begun(prefixes, 2) == [2]


def test_where_the_first_is_dropped_the_next_one_leads() -> None:
    prefixes = made(COMMON, COMMON, COMMON)
    assert begun(prefixes, 1, 2, 3) == [1]
    prefixes.step(8)
    prefixes.end(1, computed=False)
    assert begun(prefixes, 2, 3) == [2]
    prefixes.step(7)
    assert begun(prefixes, 3) == []
    prefixes.step(1)
    assert begun(prefixes, 3) == [3]


def test_room_goes_to_prompts_in_their_order() -> None:
    prefixes = made([7] * 16, COMMON, COMMON)
    assert begun(prefixes, 1, 2, 3) == [1, 2]
    prefixes.step(16)
    assert begun(prefixes, 3) == []
    prefixes.step(16)
    assert begun(prefixes, 3) == [3]


def test_what_is_cached_is_not_waited_for_until_it_is_forgotten() -> None:
    prefixes = made(COMMON, COMMON, [8] * 32, COMMON, COMMON, capacity=8)
    assert begun(prefixes, 1) == [1]
    prefixes.end(1, computed=True)
    assert begun(prefixes, 2) == [2]
    prefixes.end(2, computed=True)
    assert begun(prefixes, 3) == [3]
    prefixes.end(3, computed=True)
    assert begun(prefixes, 4, 5) == [4]


def test_one_that_waits_can_be_dropped() -> None:
    prefixes = made(COMMON, COMMON)
    assert begun(prefixes, 1, 2) == [1]
    prefixes.end(2, computed=False)
    prefixes.step(16)
    prefixes.add(3, COMMON)
    assert begun(prefixes, 3) == [3]
