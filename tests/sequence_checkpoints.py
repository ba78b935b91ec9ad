"""Tiny random checkpoints of encoder-decoders, as Hugging Face's library saves them."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

VOCABULARY: Final = 61
WIDTH: Final = 16
PAD, START, END, UNKNOWN = 0, 1, 2, 3
LANGUAGES: Final = ("eng_Latn", "deu_Latn", "fra_Latn")
KINDS: Final = ("bart", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "trocr", "whisper")
BINS, FRAMES = 8, 40


def make(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of this `model_type` into `folder`."""
    import torch

    torch.manual_seed(seed)
    model = _model(kind).eval()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    told = model.generation_config
    told.decoder_start_token_id = END if kind == "m2m_100" else START
    told.eos_token_id, told.pad_token_id = END, PAD
    model.save_pretrained(folder)
    _tokenizer(languages=kind in ("m2m_100", "mbart")).save_pretrained(folder)
    if kind == "whisper":
        _beside(folder, feature_size=BINS, sampling_rate=16_000, hop_length=160, n_fft=400)
    if kind == "trocr":
        _beside(folder, size={"height": 16, "width": 16}, image_mean=[0.5] * 3,
                image_std=[0.5] * 3)  # fmt: skip
    return folder


def source_of(kind: str, chance: np.random.Generator) -> np.ndarray:
    """A source as the engine takes it."""
    if kind == "whisper":
        return chance.standard_normal((BINS, FRAMES)).astype(np.float32)
    if kind == "trocr":
        return chance.standard_normal((3, 16, 16)).astype(np.float32)
    return chance.integers(7, VOCABULARY, int(chance.integers(1, 20)))


def _beside(folder: Path, **told: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


def _tokenizer(*, languages: bool) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", *LANGUAGES]
    words = [f"w{number}" for number in range(len(special), VOCABULARY)]
    raw = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = special if languages else special[:4]
    raw.add_special_tokens([AddedToken(each, special=True) for each in known])
    first = f"{LANGUAGES[0]} " if languages else ""
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first}$A </s>",
        special_tokens=[("</s>", END), *((each, special.index(each)) for each in LANGUAGES)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
    )


def _model(kind: str) -> Any:
    from transformers.models.bart import BartConfig, BartForConditionalGeneration
    from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration
    from transformers.models.marian import MarianConfig, MarianMTModel
    from transformers.models.mbart import MBartConfig, MBartForConditionalGeneration
    from transformers.models.mt5 import MT5Config, MT5ForConditionalGeneration
    from transformers.models.pegasus import PegasusConfig, PegasusForConditionalGeneration
    from transformers.models.t5 import T5Config, T5ForConditionalGeneration
    from transformers.models.whisper import WhisperConfig, WhisperForConditionalGeneration

    ids = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END,
           "decoder_start_token_id": START}  # fmt: skip
    sizes = {
        "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "vocab_size": VOCABULARY, "init_std": 0.6,
    } | ids  # fmt: skip
    text = sizes | {"max_position_embeddings": 64}
    t5 = ids | {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2,
        "num_heads": 4, "initializer_factor": 3.0,
    }  # fmt: skip
    match kind:
        case "bart":
            return BartForConditionalGeneration(BartConfig(**text))
        case "m2m_100":
            # Its places skip the pad token, which is 1 as in fairseq.
            config = M2M100Config(**text | {"pad_token_id": 1}, scale_embedding=True)
            return M2M100ForConditionalGeneration(config)
        case "marian":
            config = MarianConfig(**text, scale_embedding=True, activation_function="swish")
            return MarianMTModel(config)
        case "mbart":
            return MBartForConditionalGeneration(MBartConfig(**text, scale_embedding=True))
        case "mt5":
            return MT5ForConditionalGeneration(MT5Config(**t5))
        case "pegasus":
            return PegasusForConditionalGeneration(PegasusConfig(**text, scale_embedding=True))
        case "t5":
            return T5ForConditionalGeneration(T5Config(**t5))
        case "trocr":
            return _vision(ids)
        case "whisper":
            config = WhisperConfig(
                **sizes, max_source_positions=FRAMES // 2, max_target_positions=64,
                num_mel_bins=BINS, suppress_tokens=None, begin_suppress_tokens=None,
            )  # fmt: skip
            model = WhisperForConditionalGeneration(config)
            model.generation_config.suppress_tokens = [11, 12]
            model.generation_config.begin_suppress_tokens = [13, END]
            model.generation_config.alignment_heads = [[0, 1], [1, 2]]
            return model
    raise AssertionError(kind)


def _vision(ids: dict[str, int]) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel
    from transformers.models.trocr import TrOCRConfig
    from transformers.models.vit import ViTConfig

    encoder = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        image_size=16, patch_size=4, initializer_range=0.5,
    )  # fmt: skip
    decoder = TrOCRConfig(
        d_model=WIDTH, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=32,
        vocab_size=VOCABULARY, max_position_embeddings=64, init_std=0.6, scale_embedding=True,
        cross_attention_hidden_size=24, is_decoder=True, add_cross_attention=True, **ids,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    return VisionEncoderDecoderModel(config=config)
