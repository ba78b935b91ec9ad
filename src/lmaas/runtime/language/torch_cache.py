"""The KV cache of a batch of sequences of different lengths, as transformers' models fill it.

One store a layer, (rows, heads, columns, head size). All sequences end at the same column, so that
a step writes one column for all of them in place and attention reads a view: nothing is copied.
A sequence that is shorter than the longest has unused columns on its left, which a mask hides.
"""

from functools import cache
from typing import Any, Final

SPARE_COLUMNS: Final = 64
SPARE_ROWS: Final = 4
"""What a store that must grow gets beyond its need, where the bound allows it."""


class Slab:
    """Rows of keys and values. `most_tokens` bounds rows x columns of the store; 0: no bound."""

    def __init__(self, most_tokens: int = 0) -> None:
        self.most_tokens = most_tokens
        self.lengths: list[int] = []
        self._clear()

    def _clear(self) -> None:
        from transformers.cache_utils import Cache

        self.start = self.end = 0
        self.capacity = (0, 0)
        self.cache = Cache(layer_class_to_replicate=lambda: _layer_class()(self))

    @property
    def rows(self) -> int:
        """Sequences in it."""
        return len(self.lengths)

    @property
    def columns(self) -> int:
        """Tokens of the longest one."""
        return self.end - self.start

    @property
    def stored_bytes(self) -> int:
        """What the stores take."""
        return sum(
            store.nbytes for layer in self.cache.layers for store in layer.stores if store.nbytes
        )

    def open(self, columns: int) -> None:
        """Begin one row with room for `columns` tokens; the slab must be empty."""
        assert not self.lengths
        self.lengths = [0]
        self.capacity = (1, columns)

    def reserve(self, rows: int, columns: int, left: int = 0) -> None:
        """Make room for `rows` and for a window of `columns`, `left` of them before the present.

        What is there is copied only when the stores must grow.
        """
        enough = rows <= self.capacity[0] and self.start >= left
        if enough and self.start - left + columns <= self.capacity[1]:
            return
        self.capacity = self._roomy(rows, columns)
        window = slice(self.start, self.end)
        for layer in self.cache.layers:
            layer.stores = tuple(
                _moved(store, self.rows, window, self.capacity, left) for store in layer.stores
            )
        self.start, self.end = left, left + self.columns

    def _roomy(self, rows: int, columns: int) -> tuple[int, int]:
        wide = columns + max(SPARE_COLUMNS, columns // 2)
        tall = rows if rows <= self.capacity[0] else max(SPARE_ROWS, rows * 3 // 2)
        if not self.most_tokens:
            return tall, wide
        tall = max(rows, min(tall, self.most_tokens // columns))
        return tall, max(columns, min(wide, self.most_tokens // tall))

    def join(self, other: "Slab") -> None:
        """Take over the one row of `other`, as the last row here."""
        (length,) = other.lengths
        if not self.lengths:
            self.cache, self.lengths, self.capacity = other.cache, [length], other.capacity
            self.start, self.end = other.start, other.end
            for layer in self.cache.layers:
                layer.slab = self
            return
        left = max(0, length - self.columns)
        self.reserve(self.rows + 1, self.columns + left, left)
        self.start -= left
        row = self.rows
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for store, new in zip(mine.stores, theirs.stores, strict=True):
                # Zeros, as a hidden column still is a factor: 0 x inf would not vanish.
                store[row, :, self.start : self.end - length] = 0
                store[row, :, self.end - length : self.end] = new[0, :, other.start : other.end]
        self.lengths.append(length)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place. The last to leave frees the stores."""
        last = self.rows - 1
        if row != last:
            for layer in self.cache.layers:
                for store in layer.stores:
                    window = store[:, :, self.start : self.end]
                    window[row] = window[last]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if self.lengths:
            self.start = self.end - max(self.lengths)
        else:
            self._clear()

    def advance(self, tokens: int) -> None:
        """Note that the model has written `tokens` more columns."""
        self.end += tokens
        self.lengths = [length + tokens for length in self.lengths]

    def mask(self, tokens: int, device: Any) -> Any:
        """Which columns each row may see when `tokens` more come: (rows, columns) of bool.

        None where all rows are of one length.
        """
        import torch

        if min(self.lengths) == self.columns:
            return None
        places = torch.arange(self.columns + tokens, device=device)
        hidden = torch.tensor([self.columns - length for length in self.lengths], device=device)
        return places >= hidden[:, None]


def _moved(store: Any, rows: int, window: slice, capacity: tuple[int, int], left: int) -> Any:
    _, heads, _, size = store.shape
    # Zeros, as a hidden column still is a factor: 0 x inf would not vanish.
    new = store.new_zeros((capacity[0], heads, capacity[1], size))
    new[:rows, :, left : left + window.stop - window.start] = store[:rows, :, window]
    return new


@cache
def _layer_class() -> Any:
    from transformers.cache_utils import DynamicLayer

    class SlabLayer(DynamicLayer):  # type: ignore[misc]  # transformers comes without types
        """One layer of a slab, to be called by the model."""

        def __init__(self, slab: Slab) -> None:
            super().__init__()
            self.slab = slab
            self.stores: tuple[Any, ...] = ()

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            """Write new keys and values; all of them, as views."""
            slab = self.slab
            both = (key_states, value_states)
            if not self.stores:
                rows, columns = slab.capacity
                self.stores = tuple(
                    new.new_zeros((rows, new.shape[1], columns, new.shape[3])) for new in both
                )
                self.is_initialized = True
            stop = slab.end + key_states.shape[2]
            for store, new in zip(self.stores, both, strict=True):
                store[: slab.rows, :, slab.end : stop] = new
            self.keys, self.values = (
                store[: slab.rows, :, slab.start : stop] for store in self.stores
            )
            return self.keys, self.values

        def get_seq_length(self) -> int:
            """Columns that hold tokens."""
            return self.slab.columns

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            """Columns that attention sees, and the first one's number."""
            return self.slab.columns + query_length, 0

    return SlabLayer
