"""The task `translation`: texts in one language in, the same in another out.

A text is cut at its sentences; each becomes a source of the encoder-decoder, and what it writes is
put in the sentence's place, with all that lay between. Sentences of all texts of a request are
written together. A JSON call has the Hugging Face shape.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.runtime.sequence.calls import (
    Conversation,
    Decoding,
    SequenceCall,
    SequenceResult,
    Turn,
)
from lmaas.tasks import sequence_text, text_layout
from lmaas.tasks.base import Batch, Shown, Task, Tensors, refuse_file, texts_of
from lmaas.tasks.text_layout import TextLayout
from lmaas.tasks.translation import request as requests
from lmaas.tasks.translation.document import Document, cutter
from lmaas.tasks.translation.spec import SPEC
from lmaas.types import JSON, Answer, Payload, Signature

AT_ONCE: Final = 64
"""So many sentences of a request are with the engine at a time."""
CHARS_PER_TOKEN: Final = 4
"""A sentence with more characters for each token that is read is cut before it is tokenised."""


class Translated(msgspec.Struct, kw_only=True):
    """One text in the other language."""

    translation_text: str


class Translation:
    """Texts in, texts out."""

    spec = SPEC

    def __init__(self, folder: Path | None = None) -> None:
        self._tokenizer: sequence_text.SequenceTokenizer | None = None
        self._layout = TextLayout()
        if folder is not None:
            self._layout = text_layout.read(folder)
            self._tokenizer = sequence_text.SequenceTokenizer(folder)

    def bind(self, folder: Path) -> Task:
        """This task with the tokenizers and the layout in `folder`."""
        return Translation(folder)

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not read token ids and write."""
        return sequence_text.check_signature(signature, SPEC.name)

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Answer one request body."""
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
        tokenizer = self._tokenizer
        assert tokenizer is not None, "only a bound task reads"
        spec = sequence_text.spec_of(signature)
        request = requests.read(payload.body)
        way = requests.direction(request, self._layout, spec)
        if not spec.languages and not way.prefix:
            prefix = requests.tag_of(request)
            if prefix and tokenizer.knows(prefix.strip()):
                way = msgspec.structs.replace(way, prefix=prefix)
        decoding = requests.decoding(request, spec, way.start)
        added = len(way.before) + len(way.after)

        def encode(texts: Sequence[str]) -> list[list[int]]:
            return tokenizer.encode([way.prefix + text for text in texts], param="inputs")

        most = spec.most_source - added
        spare = most - len(encode([""])[0]) - 1

        def measure(text: str) -> int:
            # No token is less than a byte, so a short text need not be tokenised for it.
            return 0 if len(text) < spare and text.isascii() else len(encode([text])[0])

        cut = cutter(measure, most, CHARS_PER_TOKEN * most)
        html = request.parameters.format == "html"
        documents = [
            Document(text.removeprefix(way.prefix), html=html, cut=cut) for text in request.texts
        ]
        pieces = [sentence for document in documents for sentence in document.texts]
        encoded = encode(pieces)
        tokens = sum(map(len, encoded)) + added * len(encoded)
        if tokens > limits.max_elements:
            raise PayloadTooLarge(
                f"inputs has {tokens} tokens; at most {limits.max_elements} are taken.",
                param="inputs",
            )
        if payload.count_only:
            most_new = len(pieces) * decoding.returned * (decoding.max_tokens - 1)
            return Answer(body=b"", tokens=tokens, new_tokens=most_new)
        sources = [np.array((*way.before, *ids, *way.after), np.int64) for ids in encoded]
        written = yield from _write(sources, decoding)
        new = sum(len(one.tokens) for result in written for one in result.candidates)
        answer = self._answer(request, documents, written, decoding.returned)
        return Answer(body=msgspec.json.encode(answer), tokens=tokens, new_tokens=new)

    def _answer(
        self,
        request: requests.Request,
        documents: list[Document],
        written: list[SequenceResult],
        returned: int,
    ) -> list[Any]:
        """What is answered: an object a text; with several candidates a list of them for each."""
        tidy = bool(request.parameters.clean_up_tokenization_spaces)
        ranked = []
        assert self._tokenizer is not None
        for rank in range(returned):
            texts = [
                self._tokenizer.decode(
                    result.candidates[min(rank, len(result.candidates) - 1)].tokens
                )
                for result in written
            ]
            ranked.append([_tidied(text) for text in texts] if tidy else texts)
        answers: list[Any] = []
        at = 0
        for document in documents:
            end = at + len(document.texts)
            several = [
                Translated(translation_text=document.joined(texts[at:end])) for texts in ranked
            ]
            answers.append(several if returned > 1 else several[0])
            at = end
        return answers[0] if request.single and returned > 1 else answers

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Refuses: a model that writes is not called with arrays."""
        raise InvalidInput(
            "This is a translation model: it is not called with tensors.",
            hint='Send {"inputs": "a text"} to /models/NAME, or a text to /translate.',
        )

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Refuses: as `read`."""
        raise InvalidInput("This is a translation model: it does not answer with tensors.")

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Logits are compared as they are."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Share of the tokens (N, T) that the logits (N, T, V) give; -100 does not count."""
        (logits,) = outputs.values()
        there = targets >= 0
        return {"token_accuracy": float((logits.argmax(-1) == targets)[there].mean())}

    def shown(self, result: Any) -> Shown:
        """A text a line."""
        return Shown((), [(text,) for text in _texts(result)])

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """Each text's translation."""
        return [{"translation_text": text} for text in _texts(result)]


def _write(sources: list[np.ndarray], decoding: Decoding) -> Any:
    """Have all sources written, equal ones once where nothing is drawn; results in their order."""
    by_content: dict[bytes, int] = {}
    first = list(range(len(sources)))
    if decoding.temperature == 0:
        for index, source in enumerate(sources):
            first[index] = by_content.setdefault(source.tobytes(), index)
    # The longest first: what is written together then ends together.
    order = sorted(set(first), key=lambda index: -len(sources[index]))
    found: dict[int, SequenceResult] = {}
    waiting = iter(order)
    asked = [_call(index, sources[index], decoding) for index in islice(waiting, AT_ONCE)]
    for _ in order:
        result = yield Turn(calls=asked)
        assert isinstance(result, SequenceResult)
        if result.error is not None:
            raise result.error
        if not result.candidates:
            raise LMaaSError("The engine wrote nothing for a sentence.")
        found[result.tag] = result
        asked = [_call(index, sources[index], decoding) for index in islice(waiting, 1)]
    return [found[index] for index in first]


def _call(index: int, source: np.ndarray, decoding: Decoding) -> SequenceCall:
    if decoding.seed is not None:
        decoding = msgspec.structs.replace(decoding, seed=(decoding.seed + index) % (1 << 63))
    return SequenceCall(tag=index, source=source, decoding=decoding)


def _tidied(text: str) -> str:
    """Blanks before punctuation and contractions gone, as transformers' clean-up does it."""
    for before, after in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
        (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(before, after)
    return text


def _texts(result: Any) -> list[str]:
    """The texts of an answer, the best of each where there are several."""
    rows = result if isinstance(result, list) else [result]
    return [str((row[0] if isinstance(row, list) else row)["translation_text"]) for row in rows]


TASK: Task = Translation()
