"""Two models of which no conversion is proven: packed sequences in PyTorch, texts in Keras."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

SEED = 5
NAMES = ("packed", "texts")
WORDS = [f"word{number}" for number in range(500)]
TIME, WIDTH = 40, 16


def make_packed() -> Any:
    """An LSTM over padded sequences with lengths, as PyTorch's tutorials write it."""
    import torch
    from torch import nn

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(WIDTH, 64, batch_first=True), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(self.cell(packed)[1][0][-1])

    torch.manual_seed(SEED)
    return Packed().eval()


def make_texts(folder: Path) -> Any:
    """A classifier that splits and looks up texts itself; kept in a file for its peer."""
    import keras

    path = folder / "texts.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(SEED)
    lookup = keras.layers.TextVectorization(max_tokens=600, output_sequence_length=32)
    lookup.adapt([" ".join(WORDS)])
    given = keras.Input((1,), dtype="string", name="text")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(600, 32)(lookup(given)))
    model = keras.Model(given, keras.layers.Dense(4, name="scores")(hidden))
    model.save(path)
    return model


def inputs(name: str, index: int, rows: int = 1) -> dict[str, Any]:
    """The inputs of a request, as nested lists."""
    rng = np.random.default_rng([SEED, index])
    if name == "packed":
        x = rng.standard_normal((rows, TIME, WIDTH)).round(3)
        return {"x": x.tolist(), "lengths": rng.integers(1, TIME, rows).tolist()}
    return {"text": [[" ".join(rng.choice(WORDS, 20))] for _ in range(rows)]}


def body(name: str, index: int) -> bytes:
    """The same as a request's body."""
    return msgspec.json.encode({"inputs": inputs(name, index)})


def answer(name: str, model: Any, given: dict[str, Any]) -> np.ndarray:
    """The model's own answer."""
    if name == "packed":
        import torch

        with torch.inference_mode():
            scores: np.ndarray = model(
                torch.tensor(given["x"], dtype=torch.float32), torch.tensor(given["lengths"])
            ).numpy()
        return scores
    import tensorflow as tf

    told: np.ndarray = model(tf.constant(given["text"]), training=False).numpy()
    return told
