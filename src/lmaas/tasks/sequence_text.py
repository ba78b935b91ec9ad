"""Texts as sources of an encoder-decoder, and its answers as texts; what tasks of it share."""

from collections.abc import Sequence
from pathlib import Path

from lmaas.errors import InvalidInput
from lmaas.tasks.text_layout import TARGET_TOKENIZER, TOKENIZER
from lmaas.types import SequenceSpec, Signature


class SequenceTokenizer:
    """The tokenizers of a served folder; what texts spell is never taken for a special token."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        def load(path: Path) -> Tokenizer:
            try:
                raw = Tokenizer.from_file(str(path))
            except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
                raise InvalidInput(f"{path.name} is missing or no tokenizer: {error}.") from None
            raw.no_truncation()
            raw.no_padding()
            raw.encode_special_tokens = True
            return raw

        self._raw = self._target = load(folder / TOKENIZER)
        if (folder / TARGET_TOKENIZER).is_file():
            self._target = load(folder / TARGET_TOKENIZER)
        unknown = getattr(self._raw.model, "unk_token", None) or "<unk>"
        self._unknown: int | None = self._raw.token_to_id(unknown)
        added = self._raw.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        self._special = frozenset(special - {self._unknown})

    def encode(self, texts: Sequence[str], *, param: str) -> list[list[int]]:
        """The tokens of each text, none of the model's own around them."""
        try:
            encodings = self._raw.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, ValueError, UnicodeError) as error:
            raise InvalidInput(f"A text cannot be tokenised: {error}.", param=param) from None
        instead = 0 if self._unknown is None else self._unknown
        # A vocabulary may list special tokens among its words.
        return [
            [instead if index in self._special else index for index in each.ids]
            for each in encodings
        ]

    def knows(self, token: str) -> bool:
        """Whether a token is spelled so."""
        return self._raw.token_to_id(token) is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._target.decode(list(ids), skip_special_tokens=True))


def check_signature(signature: Signature, task: str) -> Signature:
    """`signature` if it is that of a model that reads token ids and writes. Raises InvalidInput."""
    spec = signature.sequence
    if spec is None or spec.source != "tokens":
        raise InvalidInput(
            f"A {task} model needs signature.sequence whose source are tokens.",
            hint="Push the Hugging Face checkpoint: its folder says all of it.",
        )
    if spec.most_source < 2 or spec.most_target < 2 or spec.vocabulary_size < 1:
        raise InvalidInput(f"signature.sequence of a {task} model has no room for a text.")
    for field in ("labels", "image", "outputs_are", "audio"):
        if getattr(signature, field):
            raise InvalidInput(f"The task {task} takes no {field}.", param=field)
    return signature


def spec_of(signature: Signature) -> SequenceSpec:
    """The sequence of a checked signature."""
    assert signature.sequence is not None
    return signature.sequence
