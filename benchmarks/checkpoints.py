"""The language models that are measured: Qwen3-shaped checkpoints with seeded weights.

The tokenizer is trained on made-up words, so that every id of the vocabulary is a piece of text and
a prompt can be given as text to servers that take no token ids: `Prompts` makes both.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

SEED: Final = 11
VOCABULARY: Final = 16_000
SYLLABLES: Final = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]
SHAPES: Final[dict[str, dict[str, int]]] = {
    # For what is not about speed: sound in seconds.
    "3m": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
    "113m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "445m": {
        "hidden_size": 1280,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
}
CONTEXT: Final = 2048


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` (bf16 safetensors, tokenizer, config) into `folder`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokens = tokenizer()
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        dtype=torch.bfloat16,
        **SHAPES[name],
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens, most of them whole made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(SEED)
    picks = rng.integers(0, len(SYLLABLES), (24_000, 3))
    words = list(dict.fromkeys("".join(SYLLABLES[i] for i in row) for row in picks))
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" " + " ".join(words)] * 2, trainer)
    assert raw.get_vocab_size() == VOCABULARY
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


class Prompts:
    """Prompts of whole-word tokens: as ids, and as the text that has just these ids."""

    def __init__(self, folder: Path) -> None:
        self._tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        self._text = {
            index: " " + token[1:]
            for token, index in self._tokens.items()
            if token.startswith("Ġ") and len(token) == 7
        }
        self._ids = np.array(sorted(self._text))
        self._rng = np.random.default_rng(SEED)

    def unique(self, count: int, length: int) -> list[list[int]]:
        """Prompts that have nothing in common, no two in a whole run."""
        return [self._rng.choice(self._ids, length).tolist() for _ in range(count)]

    def shared(self, count: int, common: int, own: int) -> list[list[int]]:
        """Prompts that begin with the same `common` tokens, new ones in each call."""
        prefix = self._rng.choice(self._ids, common).tolist()
        return [prefix + prompt for prompt in self.unique(count, own)]

    def repetitive(self, count: int, length: int, period: int) -> list[list[int]]:
        """Prompts that say the same `period` tokens again and again."""
        return [(prompt * length)[:length] for prompt in self.unique(count, period)]

    def text(self, prompt: list[int]) -> str:
        """The text of a prompt."""
        return "".join(self._text[token] for token in prompt)
