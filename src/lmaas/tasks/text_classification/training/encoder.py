"""Text classifiers on an encoder of transformers: token ids and mask (N, T) in, logits out."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint, encoder
from lmaas.frameworks.encoder_graph import find_reader
from lmaas.recipe import Adapter
from lmaas.training.pytorch import language
from lmaas.training.pytorch.blocks import seeded
from lmaas.types import LanguageSpec

HEAD: Final = "head.safetensors"
"""The head's weights, beside the checkpoint of the encoder."""
DROPOUTS: Final = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob")
"""What configs call the dropout before a head; the first that is told holds."""


class EncoderNetwork(nn.Module):  # type: ignore[misc]
    """The vector of a text that `reader` gives, dropout, one dense layer."""

    def __init__(self, reader: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.reader = reader
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of (N, T) token ids, where the mask is 1."""
        return self.head(self.dropout(self.reader(input_ids, attention_mask)))


def load(
    source: Path,
    spec: LanguageSpec,
    classes: int,
    adapter: Adapter | None,
    seed: int,
    *,
    head: bool,
) -> nn.Module:
    """The checkpoint in `source` with a head drawn from `seed`; with `head`, the one beside it.

    In float32. With `adapter`, only its low-rank matrices and the head learn. Raises InvalidInput
    for a checkpoint that reads from left to right.
    """
    from transformers import AutoModel

    # What a checkpoint may lack is drawn too, though nothing reads it.
    model = seeded(
        seed,
        lambda: checkpoint.load_model(AutoModel, source, torch.float32, spare=encoder.SPARE),
    )
    if encoder.is_causal(model):
        raise InvalidInput(
            f"The base model is a decoder ({type(model).__name__}): it reads from left to right.",
            hint="Train on an encoder (BERT, RoBERTa, MiniLM, …), or text-generation.",
            param="model.base",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not any(part in name for part in encoder.SPARE)
    # A head learns from vectors as they are: at length 1 its gradients would be small.
    layers = encoder.read_layers(source, causal=False)._replace(normalize=False)
    sample = encoder.references(model, spec, layers, source, types=False)[3]
    reader = find_reader(model, layers, sample, lambda found: found, causal=False)
    if adapter is not None:
        reader.model = language.adapted(model, adapter, "FEATURE_EXTRACTION", seed)
    config = model.config
    width, dropout = int(config.hidden_size), _dropout(config)
    network = seeded(seed, lambda: EncoderNetwork(reader, width, classes, dropout))
    if head:
        _fill(network.head, source / HEAD)
    return network


def _fill(head: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        head.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidInput(
            f"The base model's {path.name} cannot be read: {checkpoint.short(error)}.",
            param="model.base",
        ) from None


def _dropout(config: Any) -> float:
    told = (getattr(config, name, None) for name in DROPOUTS)
    return float(next((rate for rate in told if rate is not None), 0.0))


def save(model: nn.Module, source: Path, folder: Path) -> None:
    """Write the trained model as a checkpoint of its encoder, adapters merged, and its head."""
    from safetensors.torch import save_file

    # BERT's original names are TensorFlow's: gamma for weight, beta for bias.
    language.save(model.reader, source, folder, original_names=False)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    save_file(tensors, folder / HEAD)
