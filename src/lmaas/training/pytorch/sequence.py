"""Encoder-decoders of transformers as plain modules to train: ids of both sides in, logits out."""

from pathlib import Path
from typing import Any

import numpy as np

from lmaas.frameworks import checkpoint
from lmaas.recipe import Adapter
from lmaas.training.pytorch.language import adapted


def load(folder: Path, adapter: Adapter | None, seed: int) -> Any:
    """The checkpoint in `folder`, in float32; with `adapter` only its low-rank matrices learn.

    The module goes from `input_ids`, `attention_mask` (N, S) and `decoder_input_ids` (N, T) to
    logits (N, T, V).
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from lmaas.frameworks.sequence.checkpoint import SPARE

    class Logits(torch.nn.Module):  # type: ignore[misc]
        """Only the logits of what transformers gives."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, decoder_input_ids: Any) -> Any:
            """Logits (N, T, V)."""
            return self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
            ).logits

    model = checkpoint.load_model(AutoModelForSeq2SeqLM, folder, torch.float32, spare=SPARE)
    if adapter is not None:
        model = adapted(model, adapter, "SEQ_2_SEQ_LM", seed)
    return Logits(model)


def decoder_of(module: Any) -> tuple[Any, Any]:
    """Functions of arrays: `encode(ids, mask) -> memory`, `decode(memory, mask, ids) -> logits`."""
    import torch

    def plain() -> Any:
        model = module.model.eval()
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, device=next(module.parameters()).device)

    def encode(ids: np.ndarray, mask: np.ndarray) -> Any:
        with torch.no_grad():
            return plain().get_encoder()(input_ids=tensor(ids), attention_mask=tensor(mask))

    def decode(memory: Any, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            told = plain()(
                encoder_outputs=memory,
                attention_mask=tensor(mask),
                decoder_input_ids=tensor(ids),
                use_cache=False,
            )
            return np.array(told.logits.float().cpu().numpy())

    return encode, decode
