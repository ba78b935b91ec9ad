"""Texts as token ids for models that read each text at once; what embedding and ranking share.

Owns the tokenizer, the bounds of a text and the batches in which little is padding. Knows no
results.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import tensor
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput, PayloadTooLarge
from lmaas.tasks import base
from lmaas.tasks.base import Batch, Tensors
from lmaas.tasks.spec import Spec
from lmaas.types import BATCH, Answer, LanguageSpec, Payload, Signature, TensorSpec, TextsCall

MAX_TEXTS: Final = 2048
CHARS_PER_TOKEN: Final = 64
"""A text with more characters for each token of the context is refused before it is tokenised."""
PART_TOKENS: Final = 1024
"""A request with more, padding counted, runs in parts, so that others get their turn between."""
PART_ROWS: Final = 32
FINE_STEP, COARSE_STEP, FINE_UP_TO = 16, 32, 128
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"

Text = str | tuple[str, str]
"""A text, or a pair of texts that the model reads together."""

_decoder = msgspec.msgpack.Decoder(TextsCall)


class Tokens(msgspec.Struct, frozen=True):
    """A tokenised text. `types` says for each token which text of a pair it is of, or is None."""

    ids: Sequence[int]
    types: Sequence[int] | None = None


class Located(msgspec.Struct, frozen=True):
    """A tokenised text, and for each token what it reads as, where in the text that stands, and
    whether the model added it.
    """

    tokens: Tokens
    words: Sequence[str]
    spans: Sequence[tuple[int, int]]
    added: Sequence[bool]


class Second(msgspec.Struct, frozen=True):
    """A tokenised pair of texts, and for each token whether it is of the second one, and where in
    that the word stands that it is a part of.
    """

    tokens: Tokens
    inside: Sequence[bool]
    spans: Sequence[tuple[int, int]]


class Tokenizer:
    """A model's `tokenizer.json`; what texts spell is never taken for a special token."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Raw

        try:
            self._raw = Raw.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
            raise InvalidInput(f"{path.name} is missing or no tokenizer: {error}.") from None
        self._raw.no_truncation()
        self._raw.no_padding()
        self._raw.encode_special_tokens = True
        unknown = getattr(self._raw.model, "unk_token", None) or "<unk>"
        self._unknown: int | None = self._raw.token_to_id(unknown)
        added = self._raw.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        self._special = frozenset(special - {self._unknown})

    def encode(self, texts: Sequence[Text], spec: LanguageSpec, *, param: str) -> list[Tokens]:
        """The tokens of each text, those that the model adds included.

        Raises ContextLengthExceeded, naming the text of `param` that is too long.
        """
        encodings, ours = self._encodings(texts, spec, param, self._raw.encode_batch_fast)
        return [self._plain(encoding, ours) for encoding in encodings]

    def locate(self, texts: Sequence[str], spec: LanguageSpec, *, param: str) -> list[Located]:
        """As `encode`, with the place of each token. An unknown one reads as its text does."""
        encodings, ours = self._encodings(texts, spec, param, self._raw.encode_batch)
        return [
            self._located(encoding, ours, text)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def locate_second(
        self, pairs: Sequence[tuple[str, str]], spec: LanguageSpec, *, param: str
    ) -> list[Second]:
        """As `encode`, with the place of each token of a pair's second text."""
        encodings, ours = self._encodings(pairs, spec, param, self._raw.encode_batch)
        return [self._second(encoding, ours) for encoding in encodings]

    def _second(self, encoding: Any, ours: int) -> Second:
        inside = [place == 1 for place in encoding.sequence_ids]
        words: dict[int, tuple[int, int]] = {}
        for mine, word, (start, end) in zip(
            inside, encoding.word_ids, encoding.offsets, strict=True
        ):
            if mine and word is not None:
                first, last = words.get(word, (start, end))
                words[word] = min(first, start), max(last, end)
        spans = [
            words[word] if mine and word is not None else tuple(span)
            for mine, word, span in zip(inside, encoding.word_ids, encoding.offsets, strict=True)
        ]
        return Second(self._plain(encoding, ours), inside, spans)

    def joined(self, words: Sequence[str]) -> str:
        """The text of tokens that follow each other, by what they read as."""
        decoder = self._raw.decoder
        return " ".join(words) if decoder is None else str(decoder.decode(list(words)))

    def _encodings(
        self,
        texts: Sequence[Text],
        spec: LanguageSpec,
        param: str,
        encode: Callable[[list[Text]], Any],
    ) -> tuple[Any, int]:
        for index, text in enumerate(texts):
            size = len(text) if isinstance(text, str) else sum(map(len, text))
            if size > CHARS_PER_TOKEN * spec.context_length:
                raise too_long(f"{param}[{index}] has {size} characters", spec, param)
        try:
            encodings = encode(list(texts))
        except (TypeError, ValueError, UnicodeError) as error:
            raise InvalidInput(f"A text cannot be tokenised: {error}.", param=param) from None
        pairs = bool(texts) and not isinstance(texts[0], str)
        return encodings, self._raw.num_special_tokens_to_add(pairs)

    def _located(self, encoding: Any, ours: int, text: str) -> Located:
        tokens, spans = self._plain(encoding, ours), encoding.offsets
        words = [
            text[start:end] if token == self._unknown else word
            for token, word, (start, end) in zip(tokens.ids, encoding.tokens, spans, strict=True)
        ]
        return Located(tokens, words, spans, [bool(mark) for mark in encoding.special_tokens_mask])

    def _plain(self, encoding: Any, ours: int) -> Tokens:
        """The tokens, with the unknown one where the text's own words made a special one.

        That happens where a vocabulary lists special tokens among its words.
        """
        ids = encoding.ids
        if sum(map(self._special.__contains__, ids)) <= ours:
            return Tokens(ids, encoding.type_ids)
        instead = 0 if self._unknown is None else self._unknown
        marks = encoding.special_tokens_mask
        return Tokens(
            [
                instead if index in self._special and not mark else index
                for index, mark in zip(ids, marks, strict=True)
            ],
            encoding.type_ids,
        )


class TextTask(ABC):
    """What both tasks do alike. Text is read by the task that `bind` gives."""

    spec: Spec

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """One request's texts as padded batches; empty where they are only to be counted."""
        batch = self.read_all(payload, signature, limits)
        if payload.count_only:
            return Batch(arrays={}, size=0, parameters=batch.parameters)
        return batch

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """The answer, and how many tokens the texts had."""
        if batch.tensors is not None:
            answer = tensor.write(outputs, batch.tensors, signature, model)
        elif batch.size:
            answer = self.write_all(outputs, batch, signature)
        else:
            answer = Answer(body=b"")
        return msgspec.structs.replace(answer, tokens=batch.parameters["tokens"])

    @abstractmethod
    def read_all(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """The task's own part of `read`."""

    @abstractmethod
    def write_all(self, outputs: Tensors, batch: Batch, signature: Signature) -> Answer:
        """The task's own part of `write`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; only a bound task has one."""
        assert self._tokenizer is not None
        return self._tokenizer


def check_signature(signature: Signature, width: int | None) -> LanguageSpec:
    """The language spec of a signature with token ids in and one row of numbers a text out.

    `width` is how many numbers. Raises InvalidInput for any other signature.
    """
    for field in ("labels", "image", "outputs_are"):
        if getattr(signature, field) is not None:
            raise InvalidInput(f"A model that reads text takes no {field}.", param=field)
    spec = check_inputs(signature)
    shapes = [(tensor.dtype, tensor.shape) for tensor in signature.outputs]
    if shapes != [("float32", (BATCH, width))]:
        raise InvalidInput(f"Expected one float32 output of shape [-1, {width}]; got {shapes}.")
    return spec


def check_inputs(signature: Signature) -> LanguageSpec:
    """The language spec of a signature with token ids in. Raises InvalidInput for another one."""
    spec = signature.language
    if spec is None or not signature.batch or spec.context_length < 1 or spec.vocabulary_size < 1:
        raise InvalidInput(
            "A model that reads text needs `language`, with its context length and vocabulary, and "
            "a free batch axis.",
            hint="Push the Hugging Face checkpoint: its folder says all of it.",
        )
    names = [tensor.name for tensor in signature.inputs]
    wanted = [IDS, MASK, TYPES][: len(names)]
    if len(names) < 2 or names != wanted or not all(map(_is_tokens, signature.inputs)):
        raise InvalidInput(
            f"Expected the int64 inputs {IDS}, {MASK} and perhaps {TYPES} of shape [-1, -1]; "
            f"received {[(t.name, t.dtype, list(t.shape)) for t in signature.inputs]}."
        )
    return spec


def _is_tokens(tensor: TensorSpec) -> bool:
    return tensor.dtype == "int64" and tensor.shape == (BATCH, BATCH)


def read_call(body: bytes) -> TextsCall:
    """The call that one of our own doors made."""
    return _decoder.decode(body)


def read_tensors(payload: Payload, signature: Signature, limits: Limits) -> Batch:
    """Token ids that come as Open Inference Protocol tensors, within the model's bounds."""
    batch = base.read_tensors(payload, signature, limits)
    spec = signature.language
    assert spec is not None
    shapes = {array.shape for array in batch.arrays.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise InvalidInput(f"All inputs must have one shape; received {sorted(shapes)}.")
    length = next(iter(shapes))[1]
    if length > spec.context_length:
        raise too_long(f"{IDS} has {length} tokens", spec, IDS)
    for name, below in ((IDS, spec.vocabulary_size), (MASK, 2), (TYPES, 2)):
        array = batch.arrays.get(name)
        if array is not None and (array.min() < 0 or array.max() >= below):
            raise InvalidInput(f"{name} must be within 0 and {below - 1}.", param=name)
    if not batch.arrays[MASK].any(axis=1).all():
        raise InvalidInput(f"{MASK} hides a whole text.", param=MASK)
    tokens = int(batch.arrays[MASK].sum())
    return msgspec.structs.replace(batch, row_cost=length, parameters={"tokens": tokens})


def check_texts(texts: Any, *, param: str, allow_empty: bool = False) -> list[str]:
    """`texts` if it is a list of texts within bounds. Raises InvalidInput."""
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidInput(f"{param} must be a text or a list of texts, not empty.", param=param)
    if len(texts) > MAX_TEXTS:
        raise InvalidInput(
            f"{param} has {len(texts)} texts; at most {MAX_TEXTS} are taken at once.", param=param
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            told = type(text).__name__
            raise InvalidInput(f"{param}[{index}] must be a text; received {told}.", param=param)
        if not text and not allow_empty:
            raise InvalidInput(f"{param}[{index}] is empty.", param=param)
    return list(texts)


def batch(
    tokens: Sequence[Tokens],
    signature: Signature,
    limits: Limits,
    *,
    param: str,
    one_length: bool = False,
    **told: Any,
) -> Batch:
    """`tokens` as the model takes them, shortest first, in parts where they are many.

    Rows of one part are padded to the same length, one of a few, so that requests of several
    callers join; with `one_length` all are, so that outputs of each token have one shape.
    `parameters["order"]` says which text each row is; `told` is added to them.
    Raises ContextLengthExceeded, PayloadTooLarge.
    """
    assert signature.language is not None
    spec = signature.language
    lengths = [len(each.ids) for each in tokens]
    for index, length in enumerate(lengths):
        if length > spec.context_length:
            raise too_long(f"{param}[{index}] has {length} tokens", spec, param)
    total = sum(lengths)
    if total > limits.max_elements:
        raise PayloadTooLarge(
            f"{param} has {total} tokens; at most {limits.max_elements} are taken.", param=param
        )
    order = sorted(range(len(tokens)), key=lengths.__getitem__)
    padded = [min(bucket(lengths[index]), spec.context_length) for index in order]
    if one_length:
        padded = [padded[-1]] * len(padded)
    has_types = len(signature.inputs) > 2
    parts, start = [], 0
    while start < len(order):
        length = padded[start]
        most = start + min(PART_ROWS, max(1, PART_TOKENS // length))
        end = start + 1
        while end < min(most, len(order)) and padded[end] == length:
            end += 1
        rows = pad([tokens[index] for index in order[start:end]], length, types=has_types)
        parts.append(Batch(arrays=rows, size=end - start, row_cost=length))
        start = end
    parameters = {"order": order, "tokens": total, **told}
    if len(parts) == 1:
        (only,) = parts
        return msgspec.structs.replace(only, parameters=parameters)
    return Batch(arrays={}, size=len(order), parameters=parameters, parts=tuple(parts))


def bucket(length: int) -> int:
    """The length that a text of `length` tokens is padded to."""
    step = FINE_STEP if length <= FINE_UP_TO else COARSE_STEP
    return max(step, -(-length // step) * step)


def pad(rows: Sequence[Tokens], length: int, *, types: bool) -> Tensors:
    """Token ids, mask and perhaps types of shape [rows, length], zeros at the end of each row."""
    arrays = {name: np.zeros((len(rows), length), np.int64) for name in (IDS, MASK)}
    if types:
        arrays[TYPES] = np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        size = len(row.ids)
        arrays[IDS][index, :size] = row.ids
        arrays[MASK][index, :size] = 1
        if types and row.types is not None:
            arrays[TYPES][index, :size] = row.types
    return arrays


def in_order(rows: np.ndarray, batch: Batch) -> np.ndarray:
    """A model's `rows`, in the order in which the texts came, as float32."""
    ordered = np.empty(rows.shape, "<f4")
    ordered[batch.parameters["order"]] = rows
    return ordered


def too_long(what: str, spec: LanguageSpec, param: str) -> ContextLengthExceeded:
    """What tells that a text has more tokens than the model reads."""
    return ContextLengthExceeded(
        f"{what}; the model takes at most {spec.context_length} tokens.",
        hint="Split the text: texts are never cut.",
        param=param,
    )
