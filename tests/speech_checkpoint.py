"""A small checkpoint that speaks: SpeechT5's true architecture and its vocoder, seeded weights."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"etaoinshrdlucmfwgypbvk.',!?-IATWxjqzHSBMy"[:-1]]
DIMENSIONS = 16


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def spm_char(pieces: list[str] = PIECES) -> bytes:
    """A SentencePiece model of characters, as its protocol buffer is written."""
    data = b""
    for index, piece in enumerate(pieces):
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3, "<pad>": 3}.get(piece, 1)
        inner = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", -float(index))
        data += _field(1, inner + (b"\x18" + bytes([kind]) if kind != 1 else b""))
    return data + _field(3, _field(1, b"identity") + b"\x18\x01")


def make_speecht5(folder: Path, *, steps_bias: float = -0.3, dropout: float = 0.5) -> Path:
    """Write the checkpoint with two voices; `steps_bias` says how soon it falls silent."""
    import torch
    from transformers import (
        SpeechT5Config,
        SpeechT5ForTextToSpeech,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    torch.manual_seed(0)
    config = SpeechT5Config(
        vocab_size=len(PIECES), hidden_size=32, encoder_layers=1, encoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
        speech_decoder_prenet_units=16, speech_decoder_postnet_units=16,
        speech_decoder_postnet_layers=2, speaker_embedding_dim=DIMENSIONS, num_mel_bins=20,
        max_speech_positions=420, max_text_positions=60, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, speech_decoder_prenet_dropout=dropout,
    )  # fmt: skip
    model: Any = SpeechT5ForTextToSpeech(config).eval()
    vocoder: Any = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(model_in_dim=20, upsample_initial_channel=16)
    ).eval()
    with torch.no_grad():
        for net, gain in ((model, 1.0), (vocoder, 1.2)):
            for name, weight in net.named_parameters():
                if weight.dim() > 1:
                    torch.nn.init.xavier_normal_(weight, gain)
                elif "prenet" in name and name.endswith("bias"):
                    weight.uniform_(-0.5, 0.5)
        model.speech_decoder_postnet.prob_out.bias.fill_(steps_bias)
    model.save_pretrained(folder)
    vocoder.save_pretrained(folder / "vocoder")
    (folder / "spm_char.model").write_bytes(spm_char())
    (folder / "voices").mkdir()
    drawn = np.random.default_rng(0).standard_normal((2, DIMENSIONS)).astype(np.float32)
    np.save(folder / "voices" / "bella.npy", drawn[0])
    np.save(folder / "voices" / "adam.npy", drawn[1][None])
    return folder
