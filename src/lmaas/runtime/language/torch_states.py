"""Sequences that each keep a state of their own, in the cache that transformers' `generate` uses.

For models whose layers keep more than keys and values (recurrent, convolutional, linear attention):
such states of different lengths do not stand side by side in one batch, and not every architecture
continues a prompt in pieces. So each sequence runs by itself, and its prompt is read at once.
"""

from collections.abc import Container, Sequence
from typing import Any, Final

INSIDE: Final = ("recurrent_states", "conv1d_state")
"""State that some networks keep in their own modules, not in a cache (RecurrentGemma)."""

PLACES: Final = ("attention_mask", "position_ids")
"""Inputs that are no state: 8 bytes a token."""


class State:
    """One sequence: its tokens so far, and what the model is called with for the next one."""

    def __init__(self) -> None:
        self.ids: Any = None
        self.inputs: dict[str, Any] = {"use_cache": True}
        self.inside: dict[tuple[Any, str], Any] = {}

    @property
    def stored_bytes(self) -> int:
        """What its state takes."""
        caches = [value for name, value in self.inputs.items() if name not in PLACES]
        return _bytes([caches, list(self.inside.values())], set())


class States:
    """As many sequences as are joined; in the place of a `torch_cache.Slab`."""

    def __init__(self) -> None:
        self.rows_: list[State] = []
        self.lengths: list[int] = []

    @property
    def rows(self) -> int:
        """Sequences in it."""
        return len(self.rows_)

    @property
    def columns(self) -> int:
        """Tokens of the longest one."""
        return max(self.lengths, default=0)

    @property
    def stored_bytes(self) -> int:
        """What all states take."""
        return sum(state.stored_bytes for state in self.rows_)

    def open(self, columns: int) -> None:
        """Begin one row; it takes room as it grows."""
        assert not self.rows_
        self.rows_.append(State())
        self.lengths.append(0)

    def reserve(self, rows: int, columns: int) -> None:
        """Nothing: there is room for what comes."""

    def join(self, other: "States") -> None:
        """Take over the one row of `other`, as the last row here."""
        self.rows_ += other.rows_
        self.lengths += other.lengths

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        self.rows_[row], self.lengths[row] = self.rows_[-1], self.lengths[-1]
        self.rows_.pop()
        self.lengths.pop()


def forward(
    model: Any, takes: Container[str], states: States, tokens: Sequence[Sequence[int]], device: Any
) -> Any:
    """Continue each row of `states` by its `tokens`: logits (B, V) after the last one.

    A row that is new reads all of them at once. `takes` are the inputs that the model has.
    """
    import torch

    told = [
        _continue(model, takes, state, torch.tensor([row], device=device))
        for state, row in zip(states.rows_, tokens, strict=True)
    ]
    states.lengths = [length + len(row) for length, row in zip(states.lengths, tokens, strict=True)]
    return torch.cat(told)


def _continue(model: Any, takes: Container[str], state: State, fresh: Any) -> Any:
    """What `generate` does in one step, of one sequence."""
    import torch

    begins = state.ids is None
    state.ids = fresh if begins else torch.cat([state.ids, fresh], dim=1)
    if begins:
        _begin(model, takes, state)
    for (module, name), value in state.inside.items():
        setattr(module, name, value)
    inputs = model.prepare_inputs_for_generation(
        state.ids,
        next_sequence_length=None if begins else 1,
        is_first_iteration=begins,
        **state.inputs,
    )
    outputs = model(**inputs, return_dict=True)
    state.inputs = model._update_model_kwargs_for_generation(outputs, state.inputs)
    for module, name in state.inside:
        state.inside[module, name] = getattr(module, name)
    return outputs.logits[:, -1]


def _begin(model: Any, takes: Container[str], state: State) -> None:
    """The inputs of a prompt."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import GenerationMode

    state.inputs["attention_mask"] = torch.ones_like(state.ids)
    model._prepare_cache_for_generation(
        GenerationConfig(), state.inputs, GenerationMode.GREEDY_SEARCH, 1, state.ids.shape[1]
    )
    if "position_ids" in takes:
        state.inputs["position_ids"] = torch.arange(state.ids.shape[1], device=state.ids.device)[
            None
        ]
    if "logits_to_keep" in takes:
        state.inputs["logits_to_keep"] = 1
    state.inside = {
        (module, name): None
        for module in model.modules()
        for name in INSIDE
        if hasattr(module, name)
    }


def _bytes(value: Any, seen: set[int]) -> int:
    """Bytes of all tensors that can be reached from `value`, each once."""
    import torch

    if id(value) in seen or value is None or isinstance(value, str | int | float | bool):
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(_bytes(each, seen) for each in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(each, seen) for each in value)
    if type(value).__module__.startswith("transformers.") and hasattr(value, "__dict__"):
        return _bytes({name: each for name, each in vars(value).items() if name != "config"}, seen)
    return 0
