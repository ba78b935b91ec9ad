"""The task `automatic-speech-recognition`: a sound file in, what is said in it out.

A call `{"inputs": "<base64>", "parameters": {…}}` or the file itself is answered in the Hugging
Face shape, `{"text", "chunks"?: [{"text", "timestamp": [from, to]}]}`; our own doors'
`TranscribeRequest` by a `Transcript`. CTC models answer arrays with arrays; models with a
`sequence` in their signature write token by token (`whisper`).
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.codecs import audio, json, media, tensor
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.runtime.sequence.calls import Conversation
from lmaas.tasks.automatic_speech_recognition import alphabet as alphabets
from lmaas.tasks.automatic_speech_recognition import ctc, lattice, score
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet
from lmaas.tasks.automatic_speech_recognition.spec import SPEC, Parameters
from lmaas.tasks.automatic_speech_recognition.whisper import Whisper, check_whisper
from lmaas.tasks.automatic_speech_recognition.whisper_tokens import TOKENIZER
from lmaas.tasks.base import Batch, Shown, Task, Tensors, read_tensors, softmax, texts_of
from lmaas.transcription_types import TranscribeRequest, Transcript
from lmaas.types import (
    BATCH,
    JSON,
    TENSORS,
    TRANSCRIBE,
    UNREADABLE,
    Answer,
    Payload,
    Signature,
)

MAX_FILE_BYTES: Final = 1 << 30
SECONDS: Final = "seconds"
"""The parameter of a batch that was only measured."""
_request_decoder = msgspec.msgpack.Decoder(TranscribeRequest)
UNABLE: Final = {
    "language": "does not tell languages apart",
    "translate": "writes what is said and does not translate",
    "prompt": "takes no prompt",
    "stream": "answers when it has heard everything",
}
"""What CTC models cannot do."""


class SpeechRecognition:
    """Sound in, text out."""

    spec = SPEC

    def __init__(self, alphabet: Alphabet | None = None, whisper: Whisper | None = None) -> None:
        self._alphabet = alphabet
        self._whisper = whisper

    @property
    def alphabet(self) -> Alphabet:
        """What the numbers of the bound model stand for."""
        assert self._alphabet is not None, "bind first"
        return self._alphabet

    def bind(self, folder: Path) -> Task:
        """This task with the alphabet in `folder`, or with Whisper's tokenizer."""
        if (folder / alphabets.FILE).is_file() or not (folder / TOKENIZER).is_file():
            return SpeechRecognition(alphabets.read(folder))
        return SpeechRecognition(whisper=Whisper.bind(folder))

    def converse(self, payload: Payload, signature: Signature, limits: Limits) -> Conversation:
        """Answer one request to a model that writes token by token."""
        assert self._whisper is not None, "bind first"
        return self._whisper.converse(payload, signature, limits)

    def check_signature(self, signature: Signature) -> Signature:
        """Refuse a model that does not read sound and give scores of letters."""
        if signature.image is not None or signature.language is not None:
            raise InvalidInput("A model that hears takes no image and no language.", param="image")
        if signature.labels is not None:
            raise InvalidInput(
                f"The letters lie in {alphabets.FILE}, not in labels.", param="labels"
            )
        if signature.audio is None:
            raise InvalidInput("How sound becomes the model's input must be said.", param="audio")
        if signature.sequence is not None:
            check_whisper(signature.sequence, signature.audio)
            return signature
        inputs = {spec.name: spec for spec in signature.inputs}
        inputs.pop(ctc.MASK, None)
        bins = signature.audio.mel_bins
        log_mel = signature.audio.features == "log-mel"
        wanted = (BATCH, BATCH, bins) if log_mel else (BATCH, BATCH)
        if [(each.dtype, each.shape) for each in inputs.values()] != [("float32", wanted)]:
            raise InvalidInput(
                f"Expected one float32 input of shape {list(wanted)}, and a mask or none; got "
                f"{[(each.name, each.dtype, list(each.shape)) for each in signature.inputs]}.",
                param="inputs",
            )
        outputs = [(each.dtype, each.shape) for each in signature.outputs]
        if len(outputs) != 1 or outputs[0][0] != "float32" or outputs[0][1][:-1] != (BATCH, BATCH):
            raise InvalidInput(
                f"Expected one float32 output of shape [-1, -1, letters]; got {outputs}.",
                param="outputs",
            )
        return msgspec.structs.replace(signature, outputs_are="logits")

    def read(self, payload: Payload, signature: Signature, limits: Limits) -> Batch:
        """Decode a sound and make the model's input of it."""
        if payload.media_type == TENSORS:
            if payload.count_only:
                return _measured(0.0)
            return read_tensors(payload, signature, limits)
        if payload.media_type == TRANSCRIBE:
            request = read_request(payload)
            _check_able(request)
            if payload.count_only:
                return _measured(audio.seconds(request.audio, limits))
            batch = ctc.read(request.audio, self.alphabet, signature, limits)
            batch.parameters |= {
                "transcript": True, "words": request.words, "segments": request.segments,
                "logprobs": request.logprobs,
            }  # fmt: skip
            return batch
        data, parameters = read_file(payload, limits)
        if payload.count_only:
            return _measured(audio.seconds(data, limits))
        batch = ctc.read(data, self.alphabet, signature, limits)
        batch.parameters["chunks"] = parameters.return_timestamps or None
        return batch

    def write(self, outputs: Tensors, batch: Batch, signature: Signature, model: str) -> Answer:
        """The text, with what was asked for."""
        if batch.tensors is not None:
            return tensor.write(outputs, batch.tensors, signature, model)
        told = batch.parameters
        if SECONDS in told:
            return Answer(body=b"", audio_s=told[SECONDS])
        heard = told["heard"]
        if told.get("transcript"):
            made = ctc.transcript(
                outputs, heard, self.alphabet, signature,
                words=told["words"], segments=told["segments"], logprobs=told["logprobs"],
            )  # fmt: skip
            return Answer(body=msgspec.json.encode(made), audio_s=heard.duration)
        chunks = told["chunks"]
        made = ctc.transcript(
            outputs, heard, self.alphabet, signature, words=chunks == "word",
            segments=chunks is True,
        )  # fmt: skip
        answer: dict[str, Any] = {"text": made.text}
        if chunks == "char":
            answer["chunks"] = list(self._chars(outputs, heard, signature))
        elif chunks:
            answer["chunks"] = chunks_of(made)
        return Answer(body=msgspec.json.encode(answer), audio_s=heard.duration)

    def _chars(
        self, outputs: Tensors, heard: ctc.Heard, signature: Signature
    ) -> Iterator[dict[str, Any]]:
        if not outputs:
            return
        scores = ctc.scores_of(outputs, heard, signature)
        found = ctc.letters_of(scores, heard, self.alphabet)
        for word in lattice.words(found, self.alphabet, heard.step_s):
            for each in word.letters:
                times = [round(each.start * heard.step_s, 3), round(each.end * heard.step_s, 3)]
                yield {"text": lattice.text_of([each], self.alphabet), "timestamp": times}

    def compare(self, outputs: Tensors, signature: Signature) -> Tensors:
        """Probabilities: what decides about letters."""
        return {name: softmax(values) for name, values in outputs.items()}

    def metrics(
        self, outputs: Tensors, targets: np.ndarray, signature: Signature
    ) -> dict[str, float]:
        """WER and CER against letters by number (N, S), below 0 after the last."""
        tally = score.Tally()
        for row, numbers in zip(outputs[signature.outputs[0].name], targets, strict=True):
            heard = score.heard(row, self.alphabet)
            tally.add(heard, score.spelled(numbers[numbers >= 0].tolist(), self.alphabet))
        return tally.result()

    def shown(self, result: Any) -> Shown:
        """The text, or its parts with their times."""
        if "chunks" not in result:
            return Shown((), [(result["text"],)])
        rows = [
            (*(f"{second:.2f}" for second in each["timestamp"]), each["text"].strip())
            for each in result["chunks"]
        ]
        return Shown(("from", "to", "text"), rows)

    def collect(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Any:
        """The sound of a row: the file that it names, beside the rows' own file."""
        found = []
        for index, path in enumerate(texts_of(rows, "audio")):
            try:
                file = folder / path
                usual = file.is_file() and file.stat().st_size <= MAX_FILE_BYTES
                data = file.read_bytes() if usual else b""
            except (OSError, ValueError) as error:
                told = error.strerror if isinstance(error, OSError) else error
                raise InvalidInput(f"inputs[{index}]: {path[:200]!r}: {told}.") from None
            if not audio.is_audio(data):
                # What is sent away is nothing but sound, whatever a file of rows names.
                raise InvalidInput(f"inputs[{index}]: {path[:200]!r} is no file of a sound.")
            found.append(base64.b64encode(data).decode())
        return found[0]

    def records(self, result: Any) -> list[dict[str, Any]]:
        """The text."""
        return [{"text": result["text"]}]


def _measured(seconds: float) -> Batch:
    """A batch of nothing to run, whose sound has this length."""
    return Batch(arrays={}, size=1, single=True, parameters={SECONDS: seconds})


def read_request(payload: Payload) -> TranscribeRequest:
    """The request of a door of ours. Raises InvalidInput."""
    try:
        return _request_decoder.decode(payload.body)
    except UNREADABLE as error:
        raise InvalidInput(f"The request cannot be read: {error}.") from None


def read_file(payload: Payload, limits: Limits) -> tuple[bytes, Parameters]:
    """The sound file of a Hugging Face call, and its parameters. Raises InvalidInput."""
    if payload.media_type != JSON:
        return payload.body, _parameters(payload.parameters)
    call = json.read_call(payload.body)
    parameters = _parameters(payload.parameters | (call.parameters or {}))
    if not isinstance(call.inputs, str):
        raise InvalidInput(
            f"inputs must be a sound file as base64; received {type(call.inputs).__name__}.",
            hint='Send the file itself, or {"inputs": "<base64>"}.',
            param="inputs",
        )
    return media.from_base64(call.inputs, limits, param="inputs"), parameters


def chunks_of(made: Transcript) -> list[dict[str, Any]]:
    """The words, or else the segments, in the Hugging Face shape."""
    if made.words is not None:
        return [{"text": w.word, "timestamp": [w.start, w.end]} for w in made.words]
    return [{"text": s.text, "timestamp": [s.start, s.end]} for s in made.segments or ()]


def _check_able(request: TranscribeRequest) -> None:
    for name, why in UNABLE.items():
        if getattr(request, name):
            raise InvalidInput(f"This model {why}: {name} cannot be honoured.", param=name)
    if request.temperature:
        raise InvalidInput(
            f"This model draws nothing at random: temperature {request.temperature:g} cannot be "
            "honoured.",
            param="temperature",
        )
    if request.beams not in (None, 1):
        raise InvalidInput(
            f"This model takes the likeliest letters: {request.beams} beams cannot be honoured.",
            param="beams",
        )


def _parameters(given: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


TASK: Task = SpeechRecognition()
