"""A transformers checkpoint as a function from tokens and a cache to logits.

Knows nothing of requests or sampling. Code from a checkpoint is never run, and weights are read
from safetensors only.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lmaas.errors import LMaaSError, MissingExtra
from lmaas.runtime.language.torch_attention import use_grouped
from lmaas.runtime.language.torch_cache import Slab
from lmaas.types import Precision

ATTENTION: Final = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose state is keys and values."""


class TorchModel:
    """The model in `folder`, on the GPU where there is one. `threads` 0: all cores.

    Raises LMaaSError for a model that cannot be loaded or run.
    """

    def __init__(self, folder: Path, precision: Precision, threads: int = 0) -> None:
        try:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise MissingExtra(
                f"The engine torch needs {error.name}.", hint="pip install 'lmaas[language]'"
            ) from error

        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model, told = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise LMaaSError(f"The engine torch cannot load the model: {error}") from error
        for what in ("missing", "unexpected", "mismatched"):
            if names := sorted(map(str, told[f"{what}_keys"])):
                raise LMaaSError(
                    f"The checkpoint has {len(names)} {what} tensors: {', '.join(names[:5])}."
                )
        _check_layers(model)
        use_grouped(model)
        self._model = model.to(self.device).eval()
        takes = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._takes_keep = "logits_to_keep" in takes
        self.vocabulary_size = int(model.get_input_embeddings().weight.shape[0])
        self.bytes_per_token = self._measure()

    def forward(self, slab: Slab, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Any:
        """Continue each row of `slab` by its `tokens` (B, T), and keep their keys and values.

        Logits in float32: (B, V) after the last token, or with `every` (B, T, V) after each.
        """
        import torch

        ids = torch.tensor(tokens, device=self.device)
        inputs: dict[str, Any] = {}
        if self._takes_positions:
            first = torch.tensor(slab.lengths, device=self.device)
            inputs["position_ids"] = first[:, None] + torch.arange(ids.shape[1], device=self.device)
        if self._takes_keep and not every:
            inputs["logits_to_keep"] = 1
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids,
                attention_mask=slab.mask(ids.shape[1], self.device),
                past_key_values=slab.cache,
                use_cache=True,
                **inputs,
            ).logits
            slab.advance(ids.shape[1])
            return logits.float() if every else logits[:, -1].float()

    def _measure(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        slab = Slab()
        slab.open(1)
        try:
            self.forward(slab, [[0]])
        except (TypeError, ValueError, AttributeError) as error:
            raise LMaaSError(f"The engine torch cannot run the model: {error}") from error
        if not slab.stored_bytes:
            raise LMaaSError("The engine torch cannot run the model: it keeps no keys and values.")
        return slab.stored_bytes


def _check_layers(model: Any) -> None:
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - ATTENTION
    if others or getattr(model, "_is_stateful", False):
        kinds = ", ".join(sorted(others)) or "recurrent"
        raise LMaaSError(
            f"The engine torch runs models of attention layers; {type(model).__name__} has other "
            f"ones ({kinds})."
        )
