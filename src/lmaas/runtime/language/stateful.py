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
KNOWN_INPUTS: Final = {"input_ids", "attention_mask", "position_ids", "beam_idx"}


class Stateful:
    """The model in `folder`, compiled for the CPU. Not thread-safe."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        core = ov.core()
        try:
            model = core.read_model(folder / MODEL)
        except RuntimeError as error:
            raise InvalidInput(f"{MODEL} is not an OpenVINO model: {error}.") from None
        self._names = {port.get_any_name() for port in model.inputs}
        if not self._names <= KNOWN_INPUTS or "input_ids" not in self._names:
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
        """Logits (B, T, vocabulary) for the token after each of `ids` (B, T), after all before."""
        batch, length = ids.shape
        start, end = self._length, self._length + length
        given = {
            "input_ids": np.ascontiguousarray(ids, np.int64),
            "attention_mask": np.ones((batch, end), np.int64),
            "position_ids": np.tile(np.arange(start, end), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        result = self._request.infer({name: given[name] for name in self._names})
        self._length = end
        return np.array(result["logits"], np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log(softmax(x)) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
