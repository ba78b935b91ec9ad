"""What the task `text-to-speech` is."""

from lmaas.tasks.spec import Checkpoint, Spec

SPEC = Spec(
    name="text-to-speech",
    takes="a text, and the name of a voice",
    gives="sound: mp3, opus, aac, flac, wav or raw samples, sentence by sentence",
    fields=("text",),
    rows_per_call=1,
    pipelines=("text-to-speech", "text-to-audio"),
    speaks=True,
    metrics={"waveform_error": "largest difference to the source's sound, of its largest value"},
    primary="waveform_error",
    checkpoint=Checkpoint(
        endings=("ForTextToSpeech",), builder="lmaas.frameworks.text_to_speech:build"
    ),
)
