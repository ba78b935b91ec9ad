"""Pairs of texts as token ids: the vocabulary learned from both sides, and padded feeds.

A byte-level BPE (Sennrich et al., 2016), one for both sides; digits stand alone, and texts are in
Unicode's NFC. Knows no network and no task.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.training.base import IGNORED, Feed
from lmaas.training.encoder_decoder import EOS, PAD, SPECIAL

STEP: Final = 4
"""Rows are padded to a multiple of it."""
MOST_READ: Final = 400_000
"""How many texts the vocabulary is learned from."""


def learn_vocabulary(texts: Iterable[str], size: int, path: Path) -> None:
    """Write a `tokenizer.json` of at most `size` tokens; the same texts give the same one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw.save(str(path))


class Vocabulary:
    """The tokens of a `tokenizer.json`; what texts spell is never a special one."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._raw = Tokenizer.from_file(str(path))
        self._raw.encode_special_tokens = True
        self.size = int(self._raw.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, the end's at the end."""
        encodings = self._raw.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([*each.ids, EOS], np.int32) for each in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._raw.decode(list(ids), skip_special_tokens=True))


class Encoded:
    """Pairs of one split as token ids."""

    def __init__(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> None:
        self.sources, self.targets = sources, targets

    def __len__(self) -> int:
        return len(self.sources)

    def check(self, most: int, place: Any, hint: str) -> None:
        """Raise InvalidInput, with the line, for the first side of more than `most` tokens."""
        for index, pair in enumerate(zip(self.sources, self.targets, strict=True)):
            for side, ids in zip(("source", "target"), pair, strict=True):
                if len(ids) > most:
                    raise InvalidInput(
                        f"{place(index)}: the {side} has {len(ids)} tokens; at most {most} are "
                        "learned.",
                        hint=hint,
                        param="data",
                    )

    def feed(self, indices: np.ndarray, start: int = EOS, pad: int = PAD) -> Feed:
        """Rows padded alike: `input_ids`, `attention_mask`, `decoder_input_ids`, and `labels`."""
        sources = [self.sources[index] for index in indices]
        targets = [self.targets[index] for index in indices]
        ids, mask = _padded(sources, pad), _padded([np.ones_like(s) for s in sources], 0)
        labels = _padded(targets, IGNORED)
        given = np.where(labels == IGNORED, pad, labels)
        given = np.concatenate([np.full((len(given), 1), start, np.int64), given[:, :-1]], 1)
        return Feed(
            inputs={"input_ids": ids, "attention_mask": mask, "decoder_input_ids": given},
            targets={"labels": labels},
            size=len(indices),
            weight=float(sum(map(len, targets))),
            any_length=True,
        )


def _padded(rows: Sequence[np.ndarray], pad: int) -> np.ndarray:
    longest = max(len(row) for row in rows)
    padded = np.full((len(rows), -(-longest // STEP) * STEP), pad, np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def write_greedily(
    coder: tuple[Any, Any], feed: Feed, most: int, start: int = EOS, stop: int = EOS
) -> list[list[int]]:
    """The likeliest token at each step, for each row; at most `most`, without the `stop`.

    `coder` are functions of arrays: `encode(ids, mask) -> memory` and
    `decode(memory, mask, ids) -> logits`. What is written is read anew at each step.
    """
    encode, decode = coder
    mask = feed.inputs["attention_mask"]
    memory = encode(feed.inputs["input_ids"], mask)
    rows = len(mask)
    written = np.full((rows, most + 1), PAD, np.int64)
    written[:, 0] = start
    ended = np.zeros(rows, bool)
    lengths = np.full(rows, most)
    for at in range(most):
        chosen = decode(memory, mask, written[:, : at + 1])[:, at].argmax(-1)
        lengths[~ended & (chosen == stop)] = at
        ended |= chosen == stop
        if ended.all():
            break
        written[:, at + 1] = np.where(ended, PAD, chosen)
    return [row[1 : 1 + n].tolist() for row, n in zip(written, lengths.tolist(), strict=True)]
