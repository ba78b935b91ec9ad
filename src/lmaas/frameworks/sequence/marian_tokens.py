"""Marian's two sentencepiece models and its one vocabulary, as tokenizer.json files.

A checkpoint of Marian has `source.spm`, `target.spm` and `vocab.json`, which gives pieces of both
their ids. They become `tokenizer.json`, which reads sources, and `target_tokenizer.json`, which
writes answers. The files are read here: no library of sentencepiece is needed. Its format is a
protobuf message; only the fields below are read.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmaas.errors import ModelRefused
from lmaas.tasks.text_layout import TARGET_TOKENIZER

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
MAX_BYTES: Final = 64 << 20
MOST_PIECES: Final = 1 << 20
BLANK: Final = "▁"
NORMAL, UNIGRAM = 1, 1
PIECES, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of a ModelProto."""
UNMATCHED: Final = "\ufdd0"
"""A noncharacter: no text has it, so a piece that begins with it is never found in one."""
SPECIAL: Final = ("</s>", "<unk>", "<pad>")


class Pieces(NamedTuple):
    """A sentencepiece model: the scores of its ordinary pieces, and its table of characters."""

    scores: dict[str, float]
    characters: bytes
    dummy_prefix: bool


def is_marian(folder: Path) -> bool:
    """Whether a checkpoint's tokenizer is of this form, and of no other."""
    return (
        all((folder / name).is_file() for name in (SOURCE, TARGET, VOCABULARY))
        and not (folder / "tokenizer.json").is_file()
    )


def convert(folder: Path) -> None:
    """Write `tokenizer.json`, its config and `target_tokenizer.json` into the checkpoint's folder.

    Raises ModelRefused for files that are damaged or of another kind.
    """
    from transformers import PreTrainedTokenizerFast

    ids = _vocabulary(folder / VOCABULARY)
    source = read_pieces(folder / SOURCE)
    raw = _reader(source, ids)
    named = dict(zip(("eos_token", "unk_token", "pad_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **named)
    told = folder / "tokenizer_config.json"
    before = json.loads(told.read_text("utf-8")) if told.is_file() else {}
    fast.save_pretrained(folder)
    after = json.loads(told.read_text("utf-8"))
    kept = {name: before[name] for name in ("source_lang", "target_lang") if name in before}
    told.write_text(json.dumps({**after, **kept}, indent=2), "utf-8")
    _writer(ids).save(str(folder / TARGET_TOKENIZER))


def target_reader(folder: Path) -> Any:
    """What makes ids of an answer: training needs it, serving does not. Raises ModelRefused."""
    return _reader(read_pieces(folder / TARGET), _vocabulary(folder / VOCABULARY))


def _reader(source: Pieces, ids: dict[str, int]) -> Any:
    """What makes ids of a source: Unigram over the source's pieces, at their places in the
    vocabulary. Pieces of the target alone are never found."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors
    from tokenizers import pre_tokenizers as cuts

    vocabulary = [(f"{UNMATCHED}{place}", 0.0) for place in range(len(ids))]
    for piece, place in ids.items():
        if piece in source.scores:
            vocabulary[place] = (piece, source.scores[piece])
        elif piece in SPECIAL or _is_language(piece):
            vocabulary[place] = (piece, 0.0)
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=ids["<unk>"]))
    steps: list[Any] = []
    if source.characters:
        steps.append(normalizers.Precompiled(source.characters))
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    raw.normalizer = normalizers.Sequence(steps)
    scheme = "always" if source.dummy_prefix else "never"
    raw.pre_tokenizer = cuts.Metaspace(replacement=BLANK, prepend_scheme=scheme)
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    raw.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    raw.add_tokens(
        [AddedToken(each, special=False, normalized=False) for each in ids if _is_language(each)]
    )
    return raw


def _writer(ids: dict[str, int]) -> Any:
    """What makes text of ids: pieces side by side, their blanks as blanks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    raw = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[1]))
    raw.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    return raw


def _is_language(piece: str) -> bool:
    return piece.startswith(">>") and piece.endswith("<<")


def _vocabulary(path: Path) -> dict[str, int]:
    """The id of each piece, from 0 on without a gap. Raises ModelRefused."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelRefused(f"{path.name} has more than {MAX_BYTES >> 20} MiB.")
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ModelRefused(f"{path.name} is no valid JSON.") from None
    if not isinstance(told, dict) or sorted(
        value for value in told.values() if isinstance(value, int)
    ) != list(range(len(told))):
        raise ModelRefused(f"{path.name} does not number its pieces from 0 on.")
    missing = [each for each in SPECIAL if each not in told]
    if missing:
        raise ModelRefused(f"{path.name} lacks {', '.join(missing)}.")
    return told


def read_pieces(path: Path) -> Pieces:
    """A sentencepiece model of the kind Unigram. Raises ModelRefused for any other file."""
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    scores: dict[str, float] = {}
    characters, dummy_prefix, kind = b"", True, UNIGRAM
    try:
        for field, value in _fields(data):
            if field == PIECES:
                piece = dict(_fields(value))
                # Of other types are control pieces, which no text has.
                if piece.get(3, NORMAL) == NORMAL and len(scores) < MOST_PIECES:
                    (score,) = struct.unpack("<f", piece[2])
                    scores[piece[1].decode()] = score
            elif field == TRAINER:
                kind = dict(_fields(value)).get(3, UNIGRAM)
            elif field == NORMALIZER:
                told = dict(_fields(value))
                characters, dummy_prefix = told.get(2, b""), bool(told.get(3, 1))
    except (KeyError, IndexError, TypeError, ValueError, struct.error):
        raise ModelRefused(f"{path.name} is no sentencepiece model.") from None
    if not scores or kind != UNIGRAM:
        raise ModelRefused(
            f"{path.name} is no sentencepiece model of the kind Unigram.",
            hint="Save the checkpoint with a tokenizer.json: a fast tokenizer of transformers.",
        )
    return Pieces(scores, characters, dummy_prefix)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: whole numbers, or bytes. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        match key & 7:
            case 0:
                value, at = _number(data, at)
                yield key >> 3, value
            case 2:
                size, at = _number(data, at)
                if at + size > len(data):
                    raise ValueError("cut off")
                yield key >> 3, data[at : at + size]
                at += size
            case 5:
                yield key >> 3, data[at : at + 4]
                at += 4
            case 1:
                yield key >> 3, data[at : at + 8]
                at += 8
            case _:
                raise ValueError("no such field")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("too long a number")
