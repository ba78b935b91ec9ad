"""Small Hugging Face checkpoints, made by the tests: seeded weights, a trained tokenizer."""

import re
import string
from pathlib import Path
from typing import Any

TEXT = [
    "the quick brown fox jumps over the lazy dog.",
    "hello world, how are you today? i am fine, thank you.",
    "system user assistant tool: 0 1 2 3 4 5 6 7 8 9",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "Grüße aus Köln, 你好，世界！ здравствуй мир 👋",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
CHATML = """\
{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


def tokenizer(vocabulary_size: int = 600) -> Any:
    """A byte-level BPE tokenizer trained on `TEXT`, with ChatML's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(ADDED),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT * 50, trainer)
    raw.add_tokens(ADDED)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


def byte_fallback_tokenizer() -> Any:
    """A tokenizer of Llama 2's kind: words with `▁` for blanks, and a token for each byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    marked = "".join(TEXT).replace(" ", "▁")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted({c for c in marked if c.isascii() or c == "▁"})
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for word in sorted(set(re.findall(r"[a-z]{2,}", marked))):
        for whole in (word, "▁" + word):
            for size in range(2, len(whole) + 1):
                if whole[:size] not in vocabulary:
                    merges.append((whole[: size - 1], whole[size - 1]))
                    vocabulary[whole[:size]] = len(vocabulary)
    raw = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def make_qwen3(folder: Path, **sizes: Any) -> Path:
    """A Qwen3-shaped language model of about 100,000 parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return _save(folder, Qwen3Config, Qwen3ForCausalLM, sizes, tie_word_embeddings=True)


def make_llama(folder: Path, **sizes: Any) -> Path:
    """A Llama-shaped language model of about 150,000 parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(folder, LlamaConfig, LlamaForCausalLM, sizes, tie_word_embeddings=False)


def make_falcon_h1(folder: Path, **sizes: Any) -> Path:
    """A model whose layers keep a recurrent state beside keys and values (Mamba 2)."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    mamba = {
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_ssm": 128,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 32,
    }
    return _save(folder, FalconH1Config, FalconH1ForCausalLM, sizes, **mamba)


def _save(folder: Path, config: Any, model: Any, sizes: dict[str, Any], **more: Any) -> Path:
    import torch

    tokens = tokenizer()
    torch.manual_seed(0)
    network = model(
        config(
            vocab_size=len(tokens),
            bos_token_id=None,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            **(SIZES | more | sizes),
        )
    )
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def make_encoder(
    folder: Path,
    labels: int = 0,
    tags: tuple[str, ...] = (),
    relations: tuple[str, ...] = (),
    finds: bool = False,
) -> Path:
    """A BERT-shaped embedding model; with `labels` 1 a reranker (cross-encoder); with `tags` a
    model that gives one to each token; with `relations` one that gives one to a pair of texts; one
    that `finds` answers in a text.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertModel,
        PreTrainedTokenizerFast,
    )

    # Not trained: a WordPieceTrainer numbers tokens by chance.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set(string.printable.lower()) - set(string.whitespace))
    words = sorted(set(re.findall(r"[a-z]{2,}", " ".join(TEXT).lower())))
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    names = dict(enumerate(tags or relations))
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=labels or len(tags) or len(relations) or 2,
        **({"id2label": names, "label2id": {b: a for a, b in names.items()}} if names else {}),
    )
    if relations:
        network = BertForSequenceClassification(config)
        torch.nn.init.normal_(network.classifier.weight)
    elif finds:
        network = BertForQuestionAnswering(config)
        torch.nn.init.normal_(network.qa_outputs.weight)
    elif tags:
        network = BertForTokenClassification(config)
        torch.nn.init.normal_(network.classifier.weight)
    else:
        network = BertForSequenceClassification(config) if labels else BertModel(config)
    network.eval().save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def word_tokenizer(folder: Path, words: str = "a b c d e") -> Path:
    """A folder with a `tokenizer.json` that knows these words: `[CLS] a b [SEP] c [SEP]`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words.split()]
    vocabulary = {word: index for index, word in enumerate(known)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(known[:4])
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    return folder


def make_ctc(folder: Path, kind: str = "wav2vec2", norm: str = "group") -> Path:
    """A checkpoint of a small network that hears, with an alphabet of capitals.

    `norm` "group" is that of wav2vec2-base, "layer" that of the large ones.
    """
    import json

    import torch
    import transformers

    prefix = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[kind]
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOINSHR'"]
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{prefix}ForCTC")(config).eval()
        torch.nn.init.normal_(model.lm_head.weight, std=1.0)
    model.save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    special = {"pad_token": "<pad>", "word_delimiter_token": "|"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(
        folder
    )
    return folder
