"""A transformers checkpoint as a function from tokens and a cache to logits.

Knows nothing of requests or sampling. Code from a checkpoint is never run, and weights are read
from safetensors only.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lmaas.errors import LMaaSError, MissingExtra
from lmaas.runtime.language import torch_states
from lmaas.runtime.language.torch_attention import use_grouped
from lmaas.runtime.language.torch_cache import Slab
from lmaas.runtime.language.torch_states import INSIDE, States
from lmaas.types import Precision

ATTENTION: Final = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose state is keys and values."""
MEASURED: Final = (8, 72)
"""Lengths by which it is seen how a state grows."""
UNLIKE: Final = 0.25
"""Logits that differ by more than this share of their deviation are others, and not rounded."""


class TorchModel:
    """A loaded transformers model, on the GPU where there is one.

    Raises LMaaSError for a model that cannot be run.
    """

    def __init__(self, model: Any) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self.device).eval()
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        self.vocabulary_size = int(model.get_input_embeddings().weight.shape[0])
        self.state_bytes = 0
        """What each sequence takes beside its tokens."""
        self.in_pieces = not _has_states(model)
        """Whether prompts are read in pieces and sequences run in one batch."""
        if self.in_pieces:
            use_grouped(model)
        try:
            self.in_pieces = self.in_pieces and self._bears_pieces()
            self.bytes_per_token = self._measure() if self.in_pieces else self._measure_states()
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError) as error:
            raise LMaaSError(f"The engine torch cannot run the model: {error}") from error

    def store(self, most_tokens: int = 0) -> Slab | States:
        """An empty cache; `most_tokens` bounds the room that it takes ahead."""
        return Slab(most_tokens) if self.in_pieces else States()

    def forward(
        self, slab: Slab | States, tokens: Sequence[Sequence[int]], *, every: bool = False
    ) -> Any:
        """Continue each row of `slab` by its `tokens` (B, T), and keep their keys and values.

        Logits in float32: (B, V) after the last token, or with `every` (B, T, V) after each.
        """
        import torch

        if isinstance(slab, States):
            with torch.inference_mode():
                if every:
                    ids = torch.tensor(tokens, device=self.device)
                    return self._model(input_ids=ids).logits.float()
                told = torch_states.forward(self._model, self._takes, slab, tokens, self.device)
                return told.float()
        ids = torch.tensor(tokens, device=self.device)
        inputs: dict[str, Any] = {}
        if "position_ids" in self._takes:
            first = torch.tensor(slab.lengths, device=self.device)
            inputs["position_ids"] = first[:, None] + torch.arange(ids.shape[1], device=self.device)
        if "logits_to_keep" in self._takes and not every:
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

    def _bears_pieces(self) -> bool:
        """Whether a few tokens in pieces give what they give at once.

        They do not where a network makes masks of its own, or wants its own kind of cache.
        """
        import torch

        tokens = list(range(min(10, self.vocabulary_size)))
        slab = Slab()
        slab.open(len(tokens))
        try:
            pieces = [self.forward(slab, [p]) for p in (tokens[:4], tokens[4:-1], tokens[-1:]) if p]
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError):
            return False
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=self.device)
            whole = self._model(input_ids=ids).logits[:, -1].float()
        return bool((pieces[-1] - whole).abs().max() <= UNLIKE * whole.std())

    def _measure(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        slab = Slab()
        slab.open(1)
        self.forward(slab, [[0]])
        if not slab.stored_bytes:
            raise ValueError("it keeps no keys and values")
        return slab.stored_bytes

    def _measure_states(self) -> int:
        """Bytes that a token adds to a state; notes those that it has from the beginning."""
        few, many = MEASURED
        sizes = []
        for tokens in MEASURED:
            states = States()
            states.open(tokens)
            self.forward(states, [[0] * tokens])
            self.forward(states, [[0]])
            sizes.append(states.stored_bytes)
        per_token = max(0, sizes[1] - sizes[0]) // (many - few)
        self.state_bytes = max(0, sizes[0] - (few + 1) * per_token)
        return per_token


def load(folder: Path, precision: Precision, threads: int = 0) -> TorchModel:
    """The model in `folder`. `threads` 0: all cores.

    Raises LMaaSError for a model that cannot be loaded or run.
    """
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
    return TorchModel(model)


def _has_states(model: Any) -> bool:
    """Whether the model keeps more than keys and values, or reads one layer's in another."""
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - ATTENTION
    inside = any(hasattr(module, name) for module in model.modules() for name in INSIDE)
    own_cache = not model._supports_default_dynamic_cache()
    shared = bool(getattr(config, "num_kv_shared_layers", 0))
    return bool(others or inside or own_cache or shared or getattr(model, "_is_stateful", False))
