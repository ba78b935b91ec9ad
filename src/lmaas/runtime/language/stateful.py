"""A compiled language model with its key-value cache as state, fed piece by piece.

For measuring: engines that serve have a paged cache. Knows OpenVINO, no tokenizer.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime import ov
from lmaas.types import Precision

MODEL: Final = "openvino_model.xml"
OF_ROWS: Final = "openvino_language_model.xml"
"""The same part of a model that takes images: it is fed rows of numbers, not ids."""
KNOWN_INPUTS: Final = {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "beam_idx"}


class Stateful:
    """The model in `folder`, compiled for the CPU. Not thread-safe."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        core = ov.core()
        try:
            model = core.read_model(path := graph_of(folder))
        except RuntimeError as error:
            raise InvalidInput(f"{path.name} is not an OpenVINO model: {error}.") from None
        self._names = {port.get_any_name() for port in model.inputs}
        if not self._names <= KNOWN_INPUTS or not self._names & {"input_ids", "inputs_embeds"}:
            raise InvalidInput(
                f"The compiled model has the inputs {sorted(self._names)}; expected are "
                f"{sorted(KNOWN_INPUTS)}."
            )
        # The cache in the precision of the products: rounding it further is an engine's choice.
        config = {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
        self._request: Any = core.compile_model(model, "CPU", config).create_infer_request()
        self._length = 0

    def reset(self) -> None:
        """Forget all that was fed."""
        self._request.reset_state()
        self._length = 0

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Logits (B, T, vocabulary) for the token after each of `ids` (B, T), after all before.

        A model that takes images has its rows (B, T, numbers) instead of ids.
        """
        batch, length = ids.shape[:2]
        start, end = self._length, self._length + length
        given = {
            "input_ids": ids.astype(np.int64) if ids.ndim == 2 else ids,
            "inputs_embeds": ids,
            "attention_mask": np.ones((batch, end), np.int64),
            "position_ids": np.tile(np.arange(start, end), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        result = self._request.infer({name: given[name] for name in self._names})
        self._length = end
        return np.array(result["logits"], np.float32)


def graph_of(folder: Path) -> Path:
    """The graph in `folder` that gives logits."""
    of_rows = folder / OF_ROWS
    return of_rows if of_rows.is_file() else folder / MODEL


def weights_of(folder: Path) -> Path:
    """Its weights."""
    return graph_of(folder).with_suffix(".bin")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log(softmax(x)) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
