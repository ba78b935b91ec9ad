"""SentencePiece models of characters (`spm_char.model`), read without the library.

A file is a protocol buffer: pieces (field 1: text 1, score 2, kind 3) and how texts are made plain
(field 3: charsmap 2, prefix 3). Only what is needed of it is read.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lmaas.errors import ModelRefused

MAX_BYTES: Final = 16 << 20
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
BLANK: Final = "▁"


def read_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` that the file means, with `</s>` after each text.

    Raises ModelRefused.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if path.stat().st_size > MAX_BYTES:
        raise ModelRefused(f"{path.name} is larger than {MAX_BYTES} bytes.")
    pieces: list[tuple[str, float]] = []
    unknown, charsmap, prefix = None, b"", True
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                parts = dict(_fields(value))
                if parts.get(3, NORMAL) == UNKNOWN:
                    unknown = len(pieces)
                (score,) = struct.unpack("<f", parts.get(2, bytes(4)))
                pieces.append((parts[1].decode(), score))
            elif field == 3:
                parts = dict(_fields(value))
                charsmap, prefix = parts.get(2, b""), bool(parts.get(3, 1))
        raw = Tokenizer(models.Unigram(pieces, unk_id=unknown))
        if charsmap:
            raw.normalizer = normalizers.Precompiled(charsmap)
        raw.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=BLANK, prepend_scheme="always" if prefix else "never", split=False
        )
        end = [index for index, (text, _) in enumerate(pieces) if text == "</s>"]
        raw.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", end[0])]
        )
    except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways
        raise ModelRefused(f"{path.name} is no SentencePiece model: {str(error)[:200]}.") from None
    if unknown is None or any(len(text) > 1 for text, _ in pieces if text[0] != "<"):
        raise ModelRefused(
            f"{path.name} has pieces of more than one character.",
            hint="Save the checkpoint with a fast tokenizer: tokenizer.json.",
        )
    return raw


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: numbers, or bytes. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        size, at = (4, at) if kind == 5 else (8, at) if kind == 1 else _number(data, at)
        if kind not in (1, 2, 5) or at + size > len(data):
            raise ValueError("a field is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")
