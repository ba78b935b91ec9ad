"""Tasks of language models: a conversation or prompt in, text out.

Their requests are `generation_types.GenerateRequest`s and stream; the predictive path of arrays has
no part in them and is refused by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.base import Batch, Shown, Task, Tensors
from lmaas.tasks.spec import Spec
from lmaas.types import Answer, PartKind, Payload, Signature

HOW = (
    "Send a text to /models/NAME, or a request to /v1/chat/completions, /v1/completions, "
    "/v1/responses or /v1/messages, or ask it with `lmaas chat`."
)


class GeneratingTask:
    """Text in, text out; with `accepts`, what else is in it."""

    def __init__(self, spec: Spec, accepts: tuple[PartKind, ...] = ("text",)) -> None:
        self.spec = spec
        self._accepts = accepts

    def bind(self, folder: Path) -> Task:
        """The task itself: it reads no requests."""
        return self

    def check_signature(self, signature: Signature) -> Signature:
        """A language model says its `language` and has no tensors, labels or image."""
        name, language = self.spec.name, signature.language
        if language is None:
            raise InvalidInput(f"A {name} model needs signature.language.")
        if language.accepts != self._accepts:
            raise InvalidInput(
                f"A {name} model accepts {', '.join(self._accepts)}; the signature says "
                f"{', '.join(language.accepts) or 'nothing'}."
            )
        if ("image" in language.accepts) != (language.vision is not None):
            raise InvalidInput("A model that accepts images, and no other, says its vision.")
        for field in ("inputs", "outputs", "labels", "image", "outputs_are"):
            if getattr(signature, field):
                raise InvalidInput(f"The task {name} takes no {field}.", param=field)
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
