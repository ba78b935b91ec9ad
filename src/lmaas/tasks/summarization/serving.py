"""The task `summarization`: texts in, a shorter text for each out.

A JSON call `{"inputs": "a text"}` or a list of texts is answered in the Hugging Face shape,
`[{"summary_text"}]`, one for each text. A text longer than the encoder reads is refused with both
lengths: nothing is left out silently.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import numpy as np

from lmaas.codecs import json
from lmaas.codecs.limits import Limits
from lmaas.errors import ContextLengthExceeded, InvalidInput
from lmaas.runtime.sequence.calls import (
    Conversation,
    Decoding,
    SequenceCall,
    SequenceTask,
)
from lmaas.tasks import text_layout
from lmaas.tasks.base import Batch, Shown, Tensors, refuse_file, texts_of
from lmaas.tasks.generate_parameters import GenerateParameters
from lmaas.tasks.sequence_decoding import decoding_of, refuse, write_all
from lmaas.tasks.sequence_text import SequenceTokenizer, check_signature, spec_of
from lmaas.tasks.summarization.spec import SPEC, Parameters
from lmaas.tasks.text_layout import TextLayout
from lmaas.types import JSON, Answer, Payload, SequenceSpec, Signature

MAX_TEXTS: Final = 64
CHARS_PER_TOKEN: Final = 64
"""A text with more characters for each token that the encoder reads is not even tokenised."""
PROMPT: Final = "summarization"


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """The Hugging Face request."""

    inputs: Any
    parameters: Parameters | None = None


class Summary(msgspec.Struct, frozen=True):
    """One answer."""

    summary_text: str


class Summarization:
    """Texts in, summaries out."""

    spec = SPEC

    def __init__(
        self, tokenizer: SequenceTokenizer | None = None, layout: TextLayout | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._layout = layout or TextLayout()

    def bind(self, folder: Path) -> "Summarization":
        """This task with the tokenizer and the layout in `folder`."""
        return Summarization(SequenceTokenizer(folder), text_layout.read(folder))

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not read and write token ids."""
        return check_signature(signature, SPEC.name)

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Answer one request body; all its texts are written at once."""
        if payload.media_type != JSON:
            raise refuse_file(payload, "text", 'Send {"inputs": "a text"}.')
        call = json.read(payload.body, Call)
        texts = [call.inputs] if isinstance(call.inputs, str) else call.inputs
        decoding = _decoding(call.parameters or Parameters(), spec_of(signature))
        sources = self._sources(_checked(texts), spec_of(signature))
        tokens = sum(map(len, sources))
        if payload.count_only:
            return Answer(body=b"", tokens=tokens)
        calls = [
            SequenceCall(tag=index, source=source, decoding=decoding)
            for index, source in enumerate(sources)
        ]
        written = yield from write_all(calls)
        assert self._tokenizer is not None
        summaries = [Summary(self._tokenizer.decode(each.candidates[0].tokens)) for each in written]
        return Answer(
            body=msgspec.json.encode(summaries),
            tokens=tokens,
            new_tokens=sum(len(each.candidates[0].tokens) for each in written),
        )

    def _sources(self, texts: list[str], spec: SequenceSpec) -> list[np.ndarray]:
        """The token ids of each text. Raises ContextLengthExceeded, InvalidInput."""
        assert self._tokenizer is not None
        most = spec.most_source
        for index, text in enumerate(texts):
            if len(text) > CHARS_PER_TOKEN * most:
                _refuse_long(index, f"{len(text)} characters", most)
        prompt = self._layout.prompts.get(PROMPT)
        prefix = "" if prompt is None else prompt.prefix
        layout, sources = self._layout, []
        encoded = self._tokenizer.encode([prefix + text for text in texts], param="inputs")
        for index, ids in enumerate(encoded):
            if not ids:
                raise InvalidInput(f"inputs[{index}] has no tokens.", param="inputs")
            source = np.array([*layout.before, *ids, *layout.after], np.int64)
            if len(source) > most:
                _refuse_long(index, f"{len(source)} tokens", most)
            sources.append(source)
        return sources

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Refuse: requests are answered in conversation."""
        raise InvalidInput("A summarization model is not called with arrays.")

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """Refuse, as `read` does."""
        raise InvalidInput("A summarization model is not called with arrays.")

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """What is compared as it is."""
        return outputs

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """Share of texts `outputs["text"]` that are those of `targets`."""
        return {"exact": float(np.mean(outputs["text"] == targets))}

    def shown(self, result: Any) -> Shown:
        """The summaries, a line each."""
        return Shown((), [(each["summary_text"],) for each in result])

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The texts of the rows."""
        return texts_of(rows, "text")

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The summary of each row."""
        return [{"summary": each["summary_text"]} for each in result]


def _checked(texts: Any) -> list[str]:
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidInput(
            f"inputs must be a text or a list of 1 to {MAX_TEXTS} texts.", param="inputs"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            told = "an empty one" if isinstance(text, str) else type(text).__name__
            raise InvalidInput(f"inputs[{index}] must be a text; received {told}.", param="inputs")
    return texts


def _decoding(parameters: Parameters, spec: SequenceSpec) -> Decoding:
    """How summaries are written. Raises InvalidInput for what does not go together, by name."""
    if parameters.truncation not in (None, "do_not_truncate"):
        refuse("truncation", "nothing of a text is left out; send it in parts")
    if parameters.clean_up_tokenization_spaces:
        refuse("clean_up_tokenization_spaces", "texts are given as the tokenizer decodes them")
    return decoding_of(parameters.generate_parameters or GenerateParameters(), spec)


def _refuse_long(index: int, size: str, most: int) -> NoReturn:
    raise ContextLengthExceeded(
        f"inputs[{index}] has {size}; the model reads at most {most} tokens.",
        hint="Send it in parts.",
        param="inputs",
    )


TASK: SequenceTask = Summarization()
