"""Pairs of texts as token ids: the vocabulary learned from both sides, and padded feeds.

A byte-level BPE (Sennrich et al., 2016), one for both sides; digits stand alone, and texts are in
Unicode's NFC. Knows no network and no task.
"""

from collections.abc import Callable, Iterable, Sequence
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
    """Pairs of one split as token ids; each target is written after `prompt`, which is given."""

    def __init__(
        self,
        sources: list[np.ndarray],
        targets: list[np.ndarray],
        prompt: tuple[int, ...] = (EOS,),
        pad: int = PAD,
    ) -> None:
        self.sources, self.targets = sources, targets
        self._prompt, self._pad = prompt, pad

    def __len__(self) -> int:
        return len(self.sources)

    def check(self, most: dict[str, int], place: Callable[[int], str], hint: str) -> None:
        """Raise InvalidInput, with the line, for the first `source` or `target` of more tokens than
        `most` says.
        """
        for index, pair in enumerate(zip(self.sources, self.targets, strict=True)):
            for side, ids in zip(("source", "target"), pair, strict=True):
                if len(ids) > most[side]:
                    raise InvalidInput(
                        f"{place(index)}: the {side} has {len(ids)} tokens; at most {most[side]} "
                        "are learned.",
                        hint=hint,
                        param="data",
                    )

    def feed(self, indices: np.ndarray) -> Feed:
        """Rows padded alike: `input_ids`, `attention_mask`, `decoder_input_ids`, and `labels`."""
        sources = [self.sources[index] for index in indices]
        targets = [self.targets[index] for index in indices]
        given = [np.concatenate([self._prompt, target[:-1]]) for target in targets]
        ignored = np.full(len(self._prompt) - 1, IGNORED)
        labels = [np.concatenate([ignored, target]) for target in targets]
        return Feed(
            inputs={
                "input_ids": _padded(sources, self._pad),
                "attention_mask": _padded([np.ones_like(source) for source in sources], 0),
                "decoder_input_ids": _padded(given, self._pad),
            },
            targets={"labels": _padded(labels, IGNORED)},
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
    coder: tuple[Any, Any],
    feed: Feed,
    most: int,
    prompt: tuple[int, ...] = (EOS,),
    stops: tuple[int, ...] = (EOS,),
    suppressed: tuple[int, ...] = (),
) -> list[list[int]]:
    """The likeliest token at each step, for each row; at most `most`, without prompt and stop.

    `coder` are functions of arrays: `encode(ids, mask) -> memory` and
    `decode(memory, mask, ids) -> logits`. What is written is read anew at each step.
    """
    encode, decode = coder
    mask = feed.inputs["attention_mask"]
    memory = encode(feed.inputs["input_ids"], mask)
    rows, first = len(mask), len(prompt)
    written = np.full((rows, first + most), PAD, np.int64)
    written[:, :first] = prompt
    ended = np.zeros(rows, bool)
    lengths = np.full(rows, most)
    for at in range(most):
        logits = decode(memory, mask, written[:, : first + at])[:, first + at - 1]
        logits[:, list(suppressed)] = -np.inf
        chosen = logits.argmax(-1)
        stopped = np.isin(chosen, stops)
        lengths[~ended & stopped] = at
        ended |= stopped
        if ended.all():
            break
        written[:, first + at] = np.where(ended, stops[0], chosen)
    return [row[first : first + n].tolist() for row, n in zip(written, lengths, strict=True)]
