"""What the task `automatic-speech-recognition` is."""

from typing import Literal

import msgspec

from lmaas.tasks.automatic_speech_recognition.options import ConvCtc, SpeechDataOptions
from lmaas.tasks.spec import LOSS, Checkpoint, Judge, Spec, Training


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a call may set, as in Hugging Face pipelines.

    `return_timestamps` true gives stretches of speech with their times, "word" words, "char"
    letters (of CTC models).
    """

    return_timestamps: bool | Literal["word", "char"] | None = None


SPEC = Spec(
    name="automatic-speech-recognition",
    takes="a sound file",
    gives="what is said in it, with times where asked for",
    fields=("audio",),
    rows_per_call=1,
    transcribes=True,
    pipelines=("automatic-speech-recognition",),
    parameters=Parameters,
    metrics=LOSS
    | {
        "wer": "word errors (substituted, left out, added) by the words that were said",
        "cer": "the same of letters and blanks",
    },
    primary="wer",
    judge=Judge(measures="lmaas.tasks.automatic_speech_recognition.score:measure", falls=True),
    training=Training(
        does="writes down what is said",
        options=SpeechDataOptions,
        columns=("audio", "text"),
        architectures={"conv-ctc": ConvCtc},
        augments="audio",
    ),
    checkpoint=Checkpoint(
        endings=("ForCTC", "WhisperForConditionalGeneration"),
        certain=True,
        builder="lmaas.frameworks.speech:build",
        loads="AutoModelForCTC",
    ),
)
