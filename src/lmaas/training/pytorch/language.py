"""Language models of transformers as plain modules to train: ids in, logits out."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint
from lmaas.recipe import Adapter
from lmaas.training.base import Feed


def load(folder: Path, adapter: Adapter | None, seed: int) -> Any:
    """The checkpoint in `folder` as a module from `input_ids` and masks (N, T) to logits (N, T, V).

    In float32. With `adapter`, only its low-rank matrices learn (Hu et al., 2021).
    """
    import torch
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):  # type: ignore[misc]
        """Only the logits of what transformers gives."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: Any, position_ids: Any = None, attention_mask: Any = None
        ) -> Any:
            """Logits (N, T, V)."""
            return self.model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                use_cache=False,
            ).logits

    model = checkpoint.load_model(AutoModelForCausalLM, folder, torch.float32)
    if adapter is not None:
        model = adapted(model, adapter, "CAUSAL_LM", seed)
    return Logits(model)


def adapted(model: Any, adapter: Adapter, kind: str, seed: int) -> Any:
    """The model with low-rank matrices that learn alone; `kind` is what peft calls its task."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=adapter.rank,
                lora_alpha=adapter.alpha,
                lora_dropout=adapter.dropout,
                target_modules=list(adapter.targets) or "all-linear",
                task_type=kind,
            ),
        )
    except ValueError as error:
        raise InvalidInput(
            f"The adapter does not fit the model: {checkpoint.short(error)}.",
            param="adapter.targets",
        ) from None


def log_probabilities(folder: Path, feeds: Iterable[Feed], *, bf16: bool) -> Iterator[np.ndarray]:
    """For each feed the log-probability of every row's labels (N,) in the checkpoint's model."""
    import torch

    from lmaas.training.losses.preference import log_probability

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(folder, None, 0).to(device).eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for feed in feeds:
            inputs = {n: torch.tensor(array).to(device) for n, array in feed.inputs.items()}
            labels = torch.tensor(feed.targets["labels"]).to(device)
            yield log_probability(model(**inputs).float(), labels).cpu().numpy()


def save(model: Any, base: Path, folder: Path, *, original_names: bool = True) -> None:
    """Write the trained model as a checkpoint beside the base's other files.

    Adapters are merged, in the model as well. `original_names`: tensors are called as the family's
    first checkpoints called them, where transformers now has other names.
    """
    if hasattr(model.model, "merge_and_unload"):
        model.model = model.model.merge_and_unload()
    if folder.exists():
        shutil.rmtree(folder)
    checkpoint.keep(base, folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    model.model.save_pretrained(
        folder, safe_serialization=True, save_original_format=original_names
    )


def create(
    folder: Path,
    family: str,
    sizes: Any,
    texts: Sequence[str],
    special: Sequence[str],
    template: str,
    seed: int,
) -> None:
    """Write a new checkpoint of a `family` of transformers ("Qwen3", "Llama") into `folder`.

    Its byte-level BPE vocabulary is learned from `texts`, with digits single; `special` are
    padding, a turn's beginning, and its end.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=special[-1], pad_token=special[0]
    )
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.hidden // sizes.heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, safe_serialization=True)
