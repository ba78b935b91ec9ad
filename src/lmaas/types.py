"""The records that every part of LMaaS shares. Each round-trips to JSON and msgpack.

This module knows no storage, no transport and no framework.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypedDict

import msgspec

TENANT = "default"
"""The operator's tenant; it owns everything until others are made."""

Precision = Literal["f32", "bf16"]
FrameworkName = Literal[
    "pytorch",
    "keras",
    "tensorflow",
    "onnx",
    "openvino",
    "tflite",
    "lightgbm",
    "xgboost",
    "scikit-learn",
    "stack",
    "ngrams",
    "upstream",
    "pipeline",
]
EngineName = Literal[
    "openvino",
    "encoder-decoder",
    "speech",
    "torch",
    "tensorflow",
    "keras",
    "onnxruntime",
    "pipeline",
]
"""What runs a model that is not a language model. `openvino` and the native engines answer arrays
with arrays; `encoder-decoder` writes tokens, `speech` speaks texts, `pipeline` runs several of the
first kind, one after another."""
FileRole = Literal["source", "compiled", "native", "sample", "variant", "curves"]
VariantName = Literal["bf16", "int8", "int4"]
PartKind = Literal["text", "image", "audio"]
"""What a part of a message can be."""
InputKind = Literal["tensors"] | PartKind
"""What an engine can be given."""
Scope = Literal["admin", "call"]
KeyVariable = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z][A-Z0-9_]{0,100}_API_KEY\Z")]

Anchor = tuple[float, float, float, float]
FacePoint = tuple[float, float]
PointName = Literal[
    "right_eye", "left_eye", "nose", "mouth", "mouth_right", "mouth_left", "right_ear", "left_ear"
]
"""Points of a face; right and left are its own."""

MAX_TEXT_CHARS = 1 << 20
"""Longest text that a compressed model is measured on."""

MAX_SAMPLES = 2048
"""Most samples that a compressed model is measured on."""

BATCH = -1
"""In a shape: any size. As the first dimension: the batch axis."""

JSON: Final = "application/json"
TENSORS: Final = "application/vnd.lmaas.tensors"
TEXTS: Final = "application/vnd.lmaas.texts+msgpack"
GENERATE: Final = "application/vnd.lmaas.generate+msgpack"
TRANSCRIBE: Final = "application/vnd.lmaas.transcribe+msgpack"
SPEAK: Final = "application/vnd.lmaas.speak+msgpack"
"""Media types of a `Payload`."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON or MessagePack from outside can raise: no JSON or not of its shape; bytes that
are no UTF-8, for which msgspec has no error of its own; nested too deeply."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, keyword-only, unknown fields refused."""


def know_records(kind: type[msgspec.Struct] = msgspec.Struct) -> None:
    """Have msgspec look at every kind of record that there is, in this thread.

    It does so when a kind is first decoded, and shows what it knows so far to other threads: two
    that decode a kind for the first time at once can end the process (seen with msgspec 0.22). So
    whoever decodes in threads calls this before it starts them.
    """
    for each in kind.__subclasses__():
        if each.__module__.startswith("lmaas."):
            with contextlib.suppress(TypeError, NameError):  # none that is decoded by itself
                msgspec.json.Decoder(each)
        know_records(each)


class TensorSpec(Record, frozen=True, kw_only=True):
    """One named tensor of a model. `shape` includes the batch axis; -1 means any size.

    `dtype` is numpy's name ("float32", "int64", …), or "string". `axes` names the free axes, "" for
    the others; it is empty where only the batch axis is free. Axes of one name have one size.
    `minimum` and `maximum` bound the whole numbers that the model takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


class ImageSpec(Record, frozen=True, kw_only=True):
    """How an image becomes the model's input array: `(pixel * scale - mean) / std`.

    `channels` 1 is grey, 3 is RGB. `layout` gives one sample's axes: "flat" is row-major HWC
    flattened. `mean` and `std` hold one number, or one for each channel.
    `resize`: "stretch" to height x width; "crop": short side resized, centre kept; "short": the
    short side becomes `short_side` pixels, of which the centre is kept; "letterbox":
    the whole image in the middle, around it pixels of the value `fill`; "line": the image at the
    left, as high as the input and as wide in proportion (`width` at most), then pixels of `fill`.
    `order` is that of the colours in the model's input. `resample` is the filter of "stretch" and
    "short", by Pillow's number.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    layout: Literal["HWC", "CHW", "HW", "flat"] = "CHW"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: Literal["stretch", "crop", "short", "letterbox", "line"] = "stretch"
    short_side: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)] = 2
    invert: bool = False
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    order: Literal["RGB", "BGR"] = "RGB"


class DetectionSpec(Record, frozen=True, kw_only=True):
    """How a detector's raw outputs become boxes; part of its version's signature.

    N images, C classes; `outputs` names what the head reads, in this order:

    - "centers": (N, h, w, 4 + C), log width, log height and the centre's place in its cell, in
      units of a cell, then logits of each class's centres (Zhou et al., 2019). Peaks are boxes.
    - "grid": (N, 4 + C, cells), or with `channels` "last" (N, cells, 4 + C): a box and its classes'
      scores for each cell. `objectness`: a score of any object lies between them, and multiplies
      theirs.
    - "rows": (N, boxes, 6): xmin, ymin, xmax, ymax, score and class number.
    - "queries": boxes (N, Q, 4), class scores (N, Q, C) (Carion et al., 2020).
    - "anchors": offsets (N, A, 4) to the `anchors` of a file beside the model, class scores
      (N, A, C); the offsets are times `variances` (Liu et al., 2016). Sides are logarithms in units
      of an anchor's, or with `sizes` "linear" just in such units. After the four numbers of a box
      may come two for each of `points`, offsets as those of a box's centre.
    - "distributions": for each of `strides` class scores (N, cells, C), then for each the
      distributions (N, cells, 4 * bins) of a box's four sides (Li et al., 2020).
    - "map": (N, 1, H, W), how likely each pixel of the input is inside a line of text (Liao et al.,
      2020). Pixels above `binary` that touch are a place: the smallest rectangle around them, at
      any angle, that `grow` times its area by its circumference is added to on each side.

    `scores` says what turns the class scores into probabilities, `background` where among them the
    class of no object is. `boxes` and `normalized` (shares of the input's sides, else its pixels)
    say what a box is. Of a class's boxes that overlap by more than `nms` the best one stays; 1
    leaves all. A call gets at most `most` boxes of at least `threshold`, where it does not say its
    own. What is left out is as the head usually has it.
    """

    head: Literal["centers", "grid", "rows", "queries", "anchors", "distributions", "map"]
    outputs: tuple[str, ...] = ()
    scores: Literal["probabilities", "sigmoid", "softmax"] | None = None
    background: Literal["none", "first", "last"] | None = None
    boxes: Literal["cxcywh", "xyxy", "cycxhw"] | None = None
    normalized: bool | None = None
    channels: Literal["first", "last"] = "first"
    objectness: bool = False
    strides: tuple[Annotated[int, msgspec.Meta(ge=1, le=1024)], ...] = ()
    anchors: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    sizes: Literal["log", "linear"] = "log"
    points: Annotated[tuple[PointName, ...], msgspec.Meta(max_length=8)] = ()
    nms: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    most: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    binary: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.3
    grow: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.6


class ReadingSpec(Record, frozen=True, kw_only=True):
    """How a reader's outputs (N, steps, classes) become a text; part of its version's signature.

    `characters` are the classes by number, without CTC's blank (Graves et al., 2006), which is the
    `blank` one of all. A text has the form that `pattern` says, where a call does not say its own;
    "" is any (see docs/ocr.md). Files of PaddleOCR's kind say their characters themselves.
    """

    characters: Annotated[tuple[str, ...], msgspec.Meta(max_length=65_536)] = ()
    blank: Literal["first", "last"] = "first"
    pattern: Annotated[str, msgspec.Meta(max_length=256)] = ""


class VisionSpec(Record, frozen=True, kw_only=True):
    """How an image becomes tokens of a language model's prompt; part of its `LanguageSpec`.

    An image, upright and RGB, becomes `height` x `width` pixels of `(pixel * scale - mean) / std`
    and `tokens` times the placeholder `token_id`, each a row of `numbers` (the hidden size).
    `resize`: "stretch", or "crop": the short side
    becomes `short_side` pixels, the centre is kept; with `pad` it is first filled up to a square
    with the mean's colour. `resample` is the filter, by Pillow's number. With `grids` (widths and
    heights in pixels) an image is also read in tiles of `width` x `height`, in each of which the
    tower has `side` x `side` cells; it has `tokens` and one for each cell and each row of them.
    """

    token_id: int
    tokens: int
    numbers: int
    height: int
    width: int
    resize: Literal["stretch", "crop"] = "crop"
    short_side: int = 0
    pad: bool = False
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)] = 3
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grids: Annotated[tuple[tuple[int, int], ...], msgspec.Meta(max_length=256)] = ()
    side: int = 0


class LanguageSpec(Record, frozen=True, kw_only=True):
    """What is fixed about a language model; part of its version's signature.

    `kv_bytes_per_token` is the size of one token's keys and values in all layers at 2 bytes an
    element, `state_bytes` what a sequence has beside them from its beginning (recurrent layers).
    `dimensions` and `pooling` are an embedding model's. `accepts` are the parts of messages that
    the model was trained on; `vision` says how it takes images, if it runs here.
    """

    architecture: str
    context_length: int
    vocabulary_size: int
    kv_bytes_per_token: int = 0
    state_bytes: int = 0
    stop_token_ids: tuple[int, ...] = ()
    chat_template: bool = False
    reasoning: bool = False
    tools: bool = False
    dimensions: int | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    normalize: bool = True
    accepts: tuple[PartKind, ...] = ("text",)
    vision: VisionSpec | None = None


class AudioSpec(Record, frozen=True, kw_only=True):
    """How sound becomes the model's input: mono, at `sample_rate` Hz.

    "waveform": the samples (T,), with `normalize` at mean 0 and variance 1. "log-mel": (mel_bins,
    frames), windows of `window` samples (Hann) every `hop` samples, `scale` "whisper" as Radford et
    al. 2022 scale them, "standard" natural logarithms at mean 0 and variance 1 of each bin where
    there is sound.
    `most_s` is the longest sound that the model reads at once (None: any).
    """

    sample_rate: int = 16_000
    features: Literal["waveform", "log-mel"] = "waveform"
    normalize: bool = False
    mel_bins: int = 80
    window: int = 400
    hop: int = 160
    scale: Literal["whisper", "standard"] = "standard"
    most_s: float | None = None


class SequenceSpec(Record, frozen=True, kw_only=True):
    """What is fixed about an encoder-decoder model; part of its version's signature.

    `source` is what its encoder reads: token ids, the features of a sound, the pixels of an image.
    An answer begins with `start` (token ids), ends at one of `stop_token_ids` and has at most
    `most_target` tokens, `start` included; a source has at most `most_source` tokens or frames.
    `suppressed` tokens are never chosen, `suppressed_first` not as the first one. `languages` maps
    a language's code to its token; `directions` are pairs of codes, from and to, that a model
    without such tokens translates. Where nobody says otherwise, answers are searched by `beams`,
    with `length_penalty`, `early_stop` and `no_repeat_ngram` as in transformers' `generate`, have
    at least `least_target` and at most `usual_target` tokens, and end with `forced_last` where they
    are cut off. `cache_bytes_per_token` is what a token of an answer keeps in
    all layers at 4 bytes an element, `cache_bytes_per_source` what a token of a source keeps.
    """

    architecture: str
    source: Literal["tokens", "audio", "image"]
    most_source: int
    most_target: int
    vocabulary_size: int
    start: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    languages: dict[str, int] = {}
    directions: tuple[tuple[str, str], ...] = ()
    beams: int = 1
    length_penalty: float = 1.0
    early_stop: bool = False
    no_repeat_ngram: int = 0
    least_target: int = 0
    usual_target: int | None = None
    forced_last: int | None = None
    cache_bytes_per_token: int = 0
    cache_bytes_per_source: int = 0


class SpeechSpec(Record, frozen=True, kw_only=True):
    """What is fixed about a model that speaks; part of its version's signature.

    Its sound is mono, at `sample_rate` Hz. `voices` are the names that it knows, the first of them
    the default. It is given at most `most_chars` characters at once; longer texts are cut. A token
    of text (a character; one before and one after each piece) is at most `most_s_per_token` long.
    """

    architecture: str
    sample_rate: int
    voices: tuple[str, ...]
    most_chars: int
    most_s_per_token: float


class FaceRate(Record, frozen=True, kw_only=True):
    """A threshold of similarity: of pairs of strangers a share of `false_accept_rate` reaches it,
    of pairs of one person a share of `true_accept_rate`."""

    false_accept_rate: float
    threshold: float
    true_accept_rate: float


class FaceSpec(Record, frozen=True, kw_only=True):
    """How a face becomes the input of an embedder, and what its vectors mean; part of its version's
    signature.

    Two vectors of `dimensions` numbers are compared by the cosine of their angle. `rates` were
    measured on so many `pairs` of strangers whom the model has not learned; none: nobody has
    measured it. `points` are where right eye, left eye, nose, right and left corner of the mouth
    lie, in shares of the input's sides (left out, those of ArcFace: Deng et al., 2019). Where a
    detector gives no points, a square about its box is taken, on each side by `margin` (a share)
    larger.
    """

    dimensions: int = 0
    rates: tuple[FaceRate, ...] = ()
    pairs: int = 0
    points: tuple[FacePoint, FacePoint, FacePoint, FacePoint, FacePoint] = (
        (0.341916, 0.461574),
        (0.656534, 0.459833),
        (0.500225, 0.640505),
        (0.370976, 0.824692),
        (0.631517, 0.823250),
    )
    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1


class Signature(Record, frozen=True, kw_only=True):
    """What goes in and out of a version, and how the task reads it.

    `batch` says whether the first axis of every tensor is a free batch axis whose rows do not
    depend on each other, so that requests may be joined. `axes` has the least and the most size of
    each named free axis; None: no most is known. Along `pad_axis` a request may be filled up with
    `pads` (by input) without a change to its answers, so that different lengths join.
    `outputs_are` tells an image classifier's raw outputs apart; None for the tensor task.
    `language` is what is known of a model that reads text, `sequence` of one that turns a source
    into a text, `audio` how a sound becomes the input, `detection` how outputs become boxes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: bool = True
    axes: dict[str, tuple[int, int | None]] = {}
    pad_axis: str = ""
    pads: dict[str, int] = {}
    labels: tuple[str, ...] | None = None
    image: ImageSpec | None = None
    outputs_are: Literal["logits", "probabilities"] | None = None
    language: LanguageSpec | None = None
    sequence: SequenceSpec | None = None
    audio: AudioSpec | None = None
    detection: DetectionSpec | None = None
    reading: ReadingSpec | None = None
    speech: SpeechSpec | None = None
    face: FaceSpec | None = None


class ParityCheck(Record, frozen=True, kw_only=True):
    """Source against served outputs for one precision and one set of inputs, called `name`.

    Errors are in the units of the compared outputs (probabilities for a classifier, raw values
    otherwise); `max_scaled_error` is max |difference| / max(|source output|).
    """

    precision: Precision
    batch_size: int
    name: str = ""
    max_abs_error: float
    max_scaled_error: float
    top1_agreement: float | None = None
    passed: bool


class ParityReport(Record, frozen=True, kw_only=True):
    """All parity checks of one version, and the tolerances they were held to.

    `notes` say in words what was not compared, and what was found out about the source.
    """

    tolerance: dict[str, float]
    checks: tuple[ParityCheck, ...]
    notes: tuple[str, ...] = ()

    def passed(self, precision: Precision) -> bool:
        """Whether every check at `precision` passed (False when there is none)."""
        checks = [check.passed for check in self.checks if check.precision == precision]
        return bool(checks) and all(checks)

    def max_scaled_error(self, precision: Precision) -> float:
        """The largest error by the largest output, over all checks at `precision` (0: none)."""
        scaled = (c.max_scaled_error for c in self.checks if c.precision == precision)
        return max(scaled, default=0.0)

    def max_abs_error(self, precision: Precision) -> float:
        """The largest absolute error over all batch sizes at `precision`."""
        return max(c.max_abs_error for c in self.checks if c.precision == precision)


class FileRef(Record, frozen=True, kw_only=True):
    """One file of a version: its relative path, its content's sha256 (hex) and its size."""

    path: str
    role: FileRole
    sha256: str
    size_bytes: int


class Lineage(Record, frozen=True, kw_only=True):
    """Where a version came from."""

    origin: Literal["publish", "push", "pull", "demo", "connect", "train", "pipeline"] = "publish"
    code: str | None = None
    parent: str | None = None
    data_sha256: str | None = None
    recipe: dict[str, Any] = {}


class UpstreamSpec(Record, frozen=True, kw_only=True):
    """A model that another service runs: an OpenAI-compatible base URL, and its name there.

    `key_env` names the variable of the server's environment that holds the key: the key itself is
    never stored. Only names that end in _API_KEY, so that no other secret can be sent out.
    `dialect`: "compatible" sends OpenAI's fields with `max_tokens`, "openai" with
    `max_completion_tokens`; "vllm" adds its further fields (`top_k`, `min_p`, …).
    `context_length` is what is reserved at most for a request of a key with limits.
    `timeout_s` is how long the service may be silent; times in seconds. `accepts` are the parts of
    messages that the model there takes.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    key_env: KeyVariable | None = None
    dialect: Literal["compatible", "openai", "vllm"] = "compatible"
    context_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = 32_768
    connect_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    accepts: tuple[PartKind, ...] = ("text",)


class ConnectBody(Record, frozen=True, kw_only=True):
    """A model of another service that is to be served here as `name`."""

    name: str
    upstream: UpstreamSpec
    task: Literal["text-generation", "embedding"] = "text-generation"


class Part(Record, frozen=True, kw_only=True):
    """One model of a pipeline, and what it does there; the rest is as its own version has it.

    `model` is the version (`name:3`) that it was made of, `variant` the compressed one whose files
    were taken. Its files lie under `compiled/<role>/`.
    """

    role: str
    model: str
    task: str
    framework: FrameworkName
    signature: Signature
    num_parameters: int
    engine: EngineName
    engine_reason: str = ""
    variant: VariantName | None = None
    parity: ParityReport


class PipelineBody(Record, frozen=True, kw_only=True):
    """A model that is to be made of others: `parts` names one (`name`, `name:3`, `name@alias`) for
    each role that the task has."""

    name: str
    task: str
    parts: Annotated[dict[str, str], msgspec.Meta(min_length=1, max_length=16)]
    card: str = ""


class Manifest(Record, frozen=True, kw_only=True):
    """What is known of a model before it has a version number; stored as `manifest.json`.

    A *package* is a folder that holds `manifest.json`, `source/`, `compiled/model.xml` and
    `model.bin` or the files of a native engine in `native/`, and `sample.safetensors`: the cases
    on which source and served model are compared (`runtime.cases`; a language
    model's: `runtime.language.references`). `engine` runs it, for the
    reason in `engine_reason`. A model with `upstream` has no files: another service runs it. One
    with `parts` is a pipeline of them, and has the files that serve them.
    """

    name: str
    task: str
    framework: FrameworkName
    signature: Signature
    num_parameters: int
    framework_version: str
    engine: EngineName = "openvino"
    engine_reason: str = ""
    metrics: dict[str, float] = {}
    lineage: Lineage = Lineage()
    card: str = ""
    upstream: UpstreamSpec | None = None
    parts: tuple[Part, ...] = ()


class PushOptions(Record, frozen=True, kw_only=True):
    """What a caller says of model files that it pushes. `sample` names a file of sample inputs,
    `base` the model that a LoRA adapter was made for.

    `task` may be left out for a checkpoint, whose architecture tells it, and for a package.
    `dynamic` names free axes by input and axis; `signature` is which one of a SavedModel is served.
    `detection` says what a detector's outputs are where their shapes do not, `anchors` where its
    anchors are, each as cx, cy, width and height in shares of the image. `face` says how faces are
    laid and what similarities mean, `reading` what characters a reader's outputs are.
    """

    name: str
    task: str | None = None
    labels: tuple[str, ...] | None = None
    image: ImageSpec | None = None
    outputs_are: Literal["logits", "probabilities"] | None = None
    detection: DetectionSpec | None = None
    face: FaceSpec | None = None
    anchors: Annotated[tuple[Anchor, ...], msgspec.Meta(max_length=20_000)] | None = None
    reading: ReadingSpec | None = None
    sample: str | None = None
    dynamic: dict[str, dict[int, str]] | None = None
    signature: str | None = None
    base: str | None = None
    card: str = ""


class Progress(Record, frozen=True, kw_only=True):
    """How far a long piece of work is: what it does now, and how much of that is done (0 to 1)."""

    stage: str
    done: float


class PullBody(Record, frozen=True, kw_only=True):
    """A model that a server is to download: `ORG/NAME[@revision]`, and what it is to be here.

    `token` is the caller's own for the hub, used for this download and kept until it has ended.
    """

    repo: str
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    name: str | None = None
    task: str | None = None


class PullProgress(Record, frozen=True, kw_only=True):
    """How far a download is; the bytes are those of all its files, earlier runs' too."""

    file: str
    done_bytes: int
    total_bytes: int


class CompressSample(Record, frozen=True, kw_only=True):
    """A call of a model, as `inputs` and `parameters` of its JSON, and the text or the label that
    is the right answer."""

    inputs: Any
    expected: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
    parameters: dict[str, Any] = {}


class CompressOptions(Record, frozen=True, kw_only=True):
    """Which compressed variant is made of a model, and what it may lose.

    Of a language model, the perplexity on `text` (None: a built-in text) may rise by `max_drop`,
    relative. Of others, the task's primary metric on `samples` may get worse by `max_drop`,
    absolute, as a share of the most that it can be; of an encoder-decoder without `samples`, so
    many of the tokens that its source wrote when it was imported may change. `group_size` and
    `ratio` (of the weights that become int4, the others int8) are int4's.
    """

    to: VariantName
    samples: Annotated[tuple[CompressSample, ...], msgspec.Meta(max_length=MAX_SAMPLES)] = ()
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)] | None = None
    max_drop: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    group_size: Annotated[int, msgspec.Meta(ge=8, le=65_536)] | None = None
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class PublishOptions(TypedDict, total=False):
    """What may be said of a live model beside its name, task and sample."""

    labels: Sequence[str] | None
    """Class names, in the order of the outputs."""
    image: ImageSpec | None
    """How an image becomes the model's input; guessed from the input's shape where left out."""
    outputs_are: Literal["logits", "probabilities"] | None
    """What a classifier gives; told from the sample's outputs where left out."""
    detection: DetectionSpec | None
    """What a detector's outputs are; told from their shapes where left out."""
    face: FaceSpec | None
    """How faces are laid, and what similarities mean."""
    reading: ReadingSpec | None
    """What characters a reader's outputs are."""
    dynamic: Mapping[str, Mapping[int, str]] | None
    """Axes beside the batch that are free, named by input and axis: `{"x": {1: "time"}}`."""
    second_sample: Any
    """Inputs of other sizes than the sample's: the axes in which they differ are free."""
    metrics: Mapping[str, float] | None
    """What was measured, by the metric's name."""
    card: str
    """A description in Markdown."""
    lineage: Lineage | None
    """Where the model comes from."""


class Measured(Record, frozen=True, kw_only=True):
    """One variant of a model: bytes of its weights on disk, and what it does.

    A language model has a `perplexity`; `tokens_per_s` are greedy tokens of one sequence. Other
    models have `metrics`, and as many `calls_per_s` as one caller gets; encoder-decoders have
    `tokens_per_s` too. Times are of this machine, that once.
    """

    size_bytes: int
    perplexity: float | None = None
    metrics: dict[str, float] = {}
    load_s: float
    tokens_per_s: float | None = None
    calls_per_s: float | None = None


class VariantReport(Record, frozen=True, kw_only=True):
    """A compressed variant against the source, both measured in one run on the same data.

    It was judged by `metric`, which got worse by `drop`: "perplexity" relative to the source's,
    others as a share of the most that they can be. `max_drop` is what was allowed.

    For language models, `token_agreement` is the fraction of identical greedy tokens over prompts
    of `new_tokens` tokens each; `first_differences` has one position for each prompt, None where
    there is none. `text` is "built-in" or the sha256 of the given text; `text_tokens` were read.
    For others, `token_agreement` is the fraction of identical tokens over the references of the
    import, or of identical answers to `samples` samples.
    """

    source: Measured
    compressed: Measured
    metric: str = "perplexity"
    drop: float = 0.0
    max_drop: float
    token_agreement: float
    first_differences: tuple[int | None, ...] = ()
    new_tokens: int = 0
    text: str = ""
    text_tokens: int = 0
    samples: int = 0
    method: dict[str, Any]


class Variant(Record, frozen=True, kw_only=True):
    """A compressed variant of a version; its files lie under `variants/<name>/`."""

    name: VariantName
    report: VariantReport
    created_at: float


class ModelVersion(Record, frozen=True, kw_only=True):
    """An immutable version of a model, as the registry gives it back."""

    tenant: str
    name: str
    version: int
    manifest: Manifest
    parity: ParityReport
    files: tuple[FileRef, ...]
    created_at: float
    aliases: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()

    @property
    def ref(self) -> str:
        """The one way to name this version exactly: `name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def compiled_bytes(self) -> int:
        """Size of the files that are served, in bytes."""
        return sum(f.size_bytes for f in self.files if f.role in ("compiled", "native"))


class KeyRecord(Record, frozen=True, kw_only=True):
    """An API key without its secret. Times are Unix seconds."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    revoked_at: float | None = None


class Payload(Record, frozen=True, kw_only=True):
    """A request body as it came, and its media type (RFC 6838); None where nobody said one.

    `JSON` is `{"inputs": …, "parameters": …}`. Our own doors send `GENERATE` (a
    `generation_types.GenerateRequest` in msgpack), `TEXTS` (a `TextsCall` in msgpack, answered by
    raw float32 numbers), `TRANSCRIBE` (a `transcription_types.TranscribeRequest` in msgpack,
    answered by a `Transcript`), `SPEAK` (a `speech_types.SpeakRequest` in msgpack, answered by a
    file of sound) and `TENSORS` (an Open Inference Protocol v2 body; with the binary
    extension, `json_bytes` is the length of its JSON part). Anything else is a file: whether it is
    one that the model takes is its task's to judge, by its bytes, since stock clients send no media
    type.
    With `count_only`, a model that reads text only counts the tokens.
    """

    body: bytes
    media_type: str | None = None
    parameters: dict[str, Any] = {}
    json_bytes: int | None = None
    count_only: bool = False


class Answer(Record, frozen=True, kw_only=True):
    """A response body: JSON, or JSON followed by binary tensors after `json_bytes` bytes.

    `tokens` is how many the request's texts had, `new_tokens` how many the model wrote; `audio_s`
    is the length of its sound in seconds.
    """

    body: bytes
    json_bytes: int | None = None
    tokens: int = 0
    new_tokens: int = 0
    audio_s: float = 0.0


class TextsCall(Record, frozen=True, kw_only=True):
    """Texts, or lists of token ids, for an embedding model; for a reranker, what `query` asks.

    `images` are files in base64 by their places among all inputs, of which `texts` are the others.
    `dimensions` cuts embeddings to their first so many numbers, at length 1 again.
    """

    texts: tuple[str | tuple[int, ...], ...]
    images: dict[int, str] = {}
    query: str | None = None
    dimensions: int | None = None


class WorkerStatus(Record, frozen=True, kw_only=True):
    """What `lmaas ps` shows of one worker. `precision` None: another service's matter."""

    model: str
    tenant: str
    state: Literal["loading", "ready", "draining", "failed"]
    engine: str
    precision: Precision | None
    variant: str | None = None
    reason: str
    pid: int | None
    memory_bytes: int
    requests: int
    queued: int
    cache_used: float = 0.0
    restarts: int
    pinned: bool
    idle_s: float
