"""The task `text-generation`: a conversation or prompt in, text out.

Its requests are `generation_types.GenerateRequest`s and stream; the predictive path of arrays has
no part in it and is refused by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors
from lmaas.tasks.text_generation.spec import SPEC
from lmaas.types import Answer, Payload, Signature

HOW = (
    "Send a text to /models/NAME, or a request to /v1/chat/completions, /v1/completions, "
    "/v1/responses or /v1/messages, or ask it with `lmaas chat`."
)


class TextGenerationTask:
    """Text in, text out."""

    spec = SPEC

    def bind(self, folder: Path) -> Task:
        """The task itself: it reads no requests."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """A language model says its `language` and has no tensors, labels or image."""
        if signature.language is None:
            raise InvalidInput("A text-generation model needs signature.language.")
        for field in ("inputs", "outputs", "labels", "image", "outputs_are"):
            if getattr(signature, field):
                raise InvalidInput(f"The task text-generation takes no {field}.", param=field)
        return signature

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Refuses: a language model is not called with arrays."""
        raise InvalidInput("This is a language model: it is not called this way.", hint=HOW)

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Refuses: a language model does not answer with arrays."""
        raise InvalidInput("This is a language model: it does not answer this way.", hint=HOW)

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Log-probabilities are compared as they are."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Perplexity: `outputs` has logprobs (B, T, vocabulary); targets (B, T) token ids."""
        chosen = np.take_along_axis(outputs["logprobs"], targets[..., None], axis=-1)
        return {"perplexity": float(np.exp(-chosen.astype(np.float64).mean()))}

    def shown(self, result: Any) -> Shown:
        """Refuses: a language model does not answer with JSON."""
        raise InvalidInput("This is a language model: it does not answer this way.", hint=HOW)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """Refuses: a language model is not called with rows."""
        raise InvalidInput("This is a language model: it is not called this way.", hint=HOW)

    def records(self, result: Any) -> list[dict[str, Any]]:
        """Refuses: a language model does not answer with rows."""
        raise InvalidInput("This is a language model: it does not answer this way.", hint=HOW)


TASK: Task = TextGenerationTask()
