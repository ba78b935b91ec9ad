"""The kit that every task passes. A new task is tested by adding an example to EXAMPLES."""

import base64
import contextlib
import csv
import gzip
import importlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import sounds
from checkpoints import make_encoder, word_tokenizer
from llava import make_clip
from lmaas import tasks
from lmaas.cli import main
from lmaas.client import read_answer
from lmaas.codecs.limits import Limits
from lmaas.data.reading import rows
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.frameworks import checkpoint
from lmaas.recipe import recipe_of
from lmaas.runtime import verify
from lmaas.tasks import Batch, Task
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet, Convolution
from lmaas.tasks.tabular.columns import Category, Columns, Number
from lmaas.training import run as training
from lmaas.types import (
    JSON,
    TENSORS,
    Answer,
    AudioSpec,
    ImageSpec,
    LanguageSpec,
    Payload,
    PushOptions,
    ReadingSpec,
    Signature,
    TensorSpec,
)
from sequence_examples import EXAMPLES as SEQUENCES
from servers import png
from training_kit import served


class Example(msgspec.Struct):
    """A task, a signature that fits it, a body that it takes and a signature that it refuses.

    `takes` are bodies that are good for this task, though bad for the others. `rows` is a file of
    three rows, as people have them, by its name. `made` writes a data file or a Hugging Face
    checkpoint into a folder, from which a model of the task is made; it gives what a recipe says of
    the data, or nothing for a checkpoint.
    """

    task: str
    signature: Signature
    body: bytes
    refused: Signature
    rows: tuple[str, str]
    takes: tuple[bytes, ...] = ()
    made: Callable[[Path], dict[str, Any] | None] | None = None


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def images(folder: Path) -> dict[str, Any]:
    for index in range(12):
        path = folder / ("light", "dark")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 250 * (index % 2) + index % 5, np.uint8)).save(path)
    return {"data": {"train": str(folder)}, "model": {"architecture": "mlp"}}


def scenes(folder: Path) -> dict[str, Any]:
    """Images with a white square each, and where it is."""
    folder.mkdir()
    lines = []
    for index in range(12):
        pixels = np.full((32, 32, 3), index, np.uint8)
        pixels[8:20, index : index + 12] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        box = {"label": "square", "box": [index, 8, index + 12, 20]}
        lines.append(json.dumps({"image": f"{index}.png", "boxes": [box]}))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    options = {"widths": [8, 8, 8, 8], "head": 8}
    return {"data": {"train": str(folder)}, "model": {"options": options}}


def people(folder: Path) -> dict[str, Any]:
    """Folders of four people, three pictures each."""
    for index in range(12):
        path = folder / f"p{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = np.random.default_rng(index % 4).integers(0, 250, (32, 32, 3), np.uint8)
        Image.fromarray(drawn + np.uint8(index % 5)).save(path)
    options = {"widths": [8, 8, 8, 8], "dimensions": 8}
    data = {"train": str(folder), "options": {"size": 32}}
    return {"data": data, "model": {"options": options}}


def lines(folder: Path) -> dict[str, Any]:
    """Texts of two kinds: bars on the left or on the right."""
    folder.mkdir()
    rows = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 60, (16, 32), np.uint8)
        pixels[:, 16 * (index % 2) + 4 : 16 * (index % 2) + 8] = 250
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{('ON', 'OFF')[index % 2]}")
    (folder / "texts.csv").write_text("\n".join(["image,text", *rows]))
    options = {"widths": [8, 8, 8, 8], "width": 8, "depth": 1}
    return {"data": {"train": str(folder)}, "model": {"options": options}}


def speech(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for index in range(12):
        tone = sounds.tone(0.3, 300 * (1 + index % 2))
        (folder / f"{index}.wav").write_bytes(sounds.wav(tone))
        (folder / f"{index}.txt").write_text(("low", "high")[index % 2])
    return {
        "data": {"train": str(folder)},
        "model": {"options": {"width": 16, "depth": 1, "kernel": 3}},
    }


def table(folder: Path) -> dict[str, Any]:
    return learned(folder, "age,job,ill", ["31,nurse,no", "62,pilot,yes"], "target", "ill", "mlp")


def texts(folder: Path) -> dict[str, Any]:
    return learned(
        folder, "text,mood", ["a fine day,good", "a bad one,bad"], "label", "mood", "bag"
    )


def learned(
    folder: Path, head: str, lines: list[str], field: str, column: str, architecture: str
) -> dict[str, Any]:
    """A CSV file, and what a recipe says of it."""
    file = folder / "train.csv"
    folder.mkdir()
    file.write_text("\n".join([head, *(lines * 10)]) + "\n")
    data = {"train": str(file), "columns": {field: column}}
    return {"data": data, "model": {"architecture": architecture}}


def encoder(folder: Path) -> None:
    make_encoder(folder)


def reranker(folder: Path) -> None:
    make_encoder(folder, labels=1)


def judge(folder: Path) -> None:
    make_encoder(folder, relations=("contradiction", "neutral", "entailment"))


def finder(folder: Path) -> None:
    make_encoder(folder, finds=True)


def comparing(folder: Path) -> None:
    make_clip(folder)


def tagger(folder: Path) -> None:
    make_encoder(folder, tags=("O", "B-ANIMAL", "I-ANIMAL"))


FLAT = Signature(inputs=(spec("x", -1, 16),), outputs=(spec("y", -1, 3),), outputs_are="logits")
FINDS = Signature(
    inputs=(spec("x", -1, 3, 4, 4),),
    outputs=(spec("y", -1, 64, 6),),
    labels=("cat", "dog", "owl"),
)
PAIR = Signature(
    inputs=(spec("a", -1, 2), spec("b", -1, dtype="int64")), outputs=(spec("y", -1, 2),)
)
SPELLS = Signature(
    inputs=(spec("x", -1, 3, 16, 32),),
    outputs=(spec("y", -1, 8, 4),),
    image=ImageSpec(height=16, width=32, resize="line"),
    reading=ReadingSpec(characters=("A", "B", "0")),
)
TOKENS = (spec("input_ids", -1, -1, dtype="int64"), spec("attention_mask", -1, -1, dtype="int64"))
TYPES = spec("token_type_ids", -1, -1, dtype="int64")
READS = LanguageSpec(
    architecture="BertModel",
    context_length=16,
    vocabulary_size=9,
    dimensions=4,
    pooling="mean",
)
EMBEDS = Signature(inputs=TOKENS, outputs=(spec("embedding", -1, 4),), language=READS)
RANKS = Signature(inputs=(*TOKENS, TYPES), outputs=(spec("logits", -1, 1),), language=READS)
FIXED = (spec("input_ids", -1, 16, dtype="int64"), spec("attention_mask", -1, 16, dtype="int64"))
SORTS = Signature(
    inputs=FIXED,
    outputs=(spec("logits", -1, 2),),
    labels=("bad", "good"),
    outputs_are="logits",
    language=READS,
)
TAGS = Signature(
    inputs=TOKENS,
    outputs=(spec("logits", -1, -1, 3),),
    labels=("O", "B-X", "I-X"),
    outputs_are="logits",
    language=READS,
)
JUDGES = Signature(
    inputs=(*TOKENS, TYPES),
    outputs=(spec("logits", -1, 3),),
    labels=("contradiction", "neutral", "entailment"),
    outputs_are="logits",
    language=READS,
)
QUOTES = Signature(inputs=(*TOKENS, TYPES), outputs=(spec("logits", -1, -1, 2),), language=READS)
SEES = Signature(
    inputs=(
        msgspec.structs.replace(spec("pixel_values", -1, 3, 4, 4), axes=("images", "", "", "")),
        *(msgspec.structs.replace(each, axes=("labels", "tokens")) for each in TOKENS),
    ),
    outputs=(msgspec.structs.replace(spec("logits", -1, -1), axes=("images", "labels")),),
    batch=False,
    language=READS,
    image=ImageSpec(height=4, width=4),
)
TABLE = Signature(
    inputs=(spec("features", -1, 4),),
    outputs=(spec("y", -1, 2),),
    labels=("no", "yes"),
    outputs_are="logits",
)
VALUE = Signature(inputs=(spec("features", -1, 4),), outputs=(spec("y", -1, 1),))
FACES = Signature(
    inputs=(spec("x", -1, 3, 16, 16),),
    outputs=(spec("y", -1, 8),),
    image=ImageSpec(height=16, width=16),
)
PICTURE = base64.b64encode(png()).decode()
HEARS = Signature(
    inputs=(spec("features", -1, -1, 40), spec("mask", -1, -1, dtype="int64")),
    outputs=(spec("y", -1, -1, 4),),
    audio=AudioSpec(features="log-mel", mel_bins=40),
)
BEEP = base64.b64encode(sounds.wav(sounds.tone(0.3))).decode()
EXAMPLES = [
    Example(
        "image-classification",
        FLAT,
        json.dumps({"inputs": [0.5] * 16}).encode(),
        msgspec.structs.replace(FLAT, labels=("just one",)),
        rows=("rows.csv", "id,image\n1,a.png\n2,a.png\n3,a.png\n"),
        made=images,
    ),
    Example(
        "object-detection",
        FINDS,
        json.dumps({"inputs": np.zeros((3, 4, 4)).tolist()}).encode(),
        msgspec.structs.replace(FINDS, outputs=(spec("y", -1, 64, 5),)),
        rows=("rows.csv", "id,image\n1,a.png\n2,a.png\n3,a.png\n"),
        made=scenes,
    ),
    Example(
        "face-recognition",
        FACES,
        json.dumps({"inputs": PICTURE}).encode(),
        msgspec.structs.replace(FACES, outputs=(spec("y", -1, 4, 4),)),
        takes=(json.dumps({"inputs": PICTURE, "parameters": {"limit": 3}}).encode(),),
        rows=("rows.csv", "id,image\n1,a.png\n2,a.png\n3,a.png\n"),
        made=people,
    ),
    Example(
        "optical-character-recognition",
        SPELLS,
        json.dumps({"inputs": PICTURE, "parameters": {"pattern": "A{1,3}"}}).encode(),
        msgspec.structs.replace(SPELLS, reading=ReadingSpec(characters=("A", "B"))),
        rows=("rows.csv", "id,image\n1,a.png\n2,a.png\n3,a.png\n"),
        made=lines,
    ),
    Example(
        "tensor",
        PAIR,
        json.dumps({"inputs": {"a": [1.0, 2.0], "b": 3}}).encode(),
        msgspec.structs.replace(PAIR, labels=("a", "b")),
        rows=("rows.jsonl", '{"a": [1.0, 2.0], "b": 3}\n' * 3),
    ),
    Example(
        "embedding",
        EMBEDS,
        json.dumps({"inputs": "a b c"}).encode(),
        msgspec.structs.replace(EMBEDS, outputs=(spec("embedding", -1, 5),)),
        takes=(b'{"inputs": "text!"}',),
        rows=("rows.csv.gz", "id;text\n1;a b\n2;c\n3;a\n"),
        made=encoder,
    ),
    Example(
        "text-classification",
        SORTS,
        json.dumps({"inputs": "a b c"}).encode(),
        msgspec.structs.replace(SORTS, language=None),
        takes=(b'{"inputs": "text!"}',),
        rows=("rows.jsonl", '{"id": 1, "text": "a b"}\n' * 3),
        made=texts,
    ),
    Example(
        "token-classification",
        TAGS,
        json.dumps({"inputs": "a b c", "parameters": {"ignore_labels": []}}).encode(),
        msgspec.structs.replace(TAGS, labels=("O",)),
        takes=(b'{"inputs": "text!"}',),
        rows=("rows.csv", "id,text\n1,the quick fox\n2,a dog\n3,how are you?\n"),
        made=tagger,
    ),
    Example(
        "zero-shot-classification",
        JUDGES,
        json.dumps({"inputs": "a b", "parameters": {"candidate_labels": ["c"]}}).encode(),
        msgspec.structs.replace(JUDGES, labels=("a", "b", "c")),
        rows=("rows.csv", "id,text\n1,a b\n2,c\n3,a\n"),
        made=judge,
    ),
    Example(
        "zero-shot-image-classification",
        SEES,
        json.dumps({"inputs": PICTURE, "parameters": {"candidate_labels": ["c"]}}).encode(),
        msgspec.structs.replace(SEES, image=None),
        rows=("rows.csv", "id,image\n1,a.png\n2,a.png\n3,a.png\n"),
        made=comparing,
    ),
    Example(
        "question-answering",
        QUOTES,
        json.dumps({"inputs": {"question": "a", "context": "b c"}}).encode(),
        msgspec.structs.replace(QUOTES, labels=("start", "end")),
        rows=("rows.csv", "id,question,context\n1,a,b c\n2,c,a\n3,a,d e\n"),
        made=finder,
    ),
    Example(
        "tabular",
        TABLE,
        json.dumps({"inputs": {"age": 31, "job": "nurse"}}).encode(),
        msgspec.structs.replace(TABLE, labels=("just one",)),
        rows=("rows.csv", ',age,job,ill\n0,31,nurse,no\n1,,"a, b",\n2,NA,,yes\n'),
        made=table,
    ),
    Example(
        "tabular",
        VALUE,
        json.dumps({"inputs": {"age": 31, "job": "nurse"}}).encode(),
        msgspec.structs.replace(VALUE, outputs=(spec("y", -1, 2),)),
        rows=("rows.csv", ',age,job,ill\n0,31,nurse,no\n1,,"a, b",\n2,NA,,yes\n'),
    ),
    Example(
        "text-ranking",
        RANKS,
        json.dumps({"inputs": {"query": "a", "documents": ["b c"]}}).encode(),
        msgspec.structs.replace(RANKS, language=None),
        rows=("rows.tsv", "query\tdocument\na\tb c\na\tc\nb\ta\n"),
        made=reranker,
    ),
    Example(
        "automatic-speech-recognition",
        HEARS,
        json.dumps({"inputs": BEEP}).encode(),
        msgspec.structs.replace(HEARS, audio=None),
        rows=("rows.csv", "id,audio\n1,a.wav\n2,a.wav\n3,a.wav\n"),
        made=speech,
    ),
]
OF_IMAGES = (
    "image-classification", "object-detection", "face-recognition",
    "optical-character-recognition",
)  # fmt: skip
"""Tasks that take an image file."""
WITHOUT_ARRAYS = {
    "image-text-to-text",
    "image-to-text",
    "summarization",
    "text-generation",
    "text-to-speech",
    *(example.task for example in SEQUENCES),
}
"""Tasks with a path of their own, on which no arrays travel; for some there is another kit."""


def test_every_task_has_an_example() -> None:
    assert {example.task for example in EXAMPLES} == set(tasks.TASKS) - WITHOUT_ARRAYS
    made = {example.task for example in EXAMPLES if example.made}
    assert made == (tasks.trained().keys() | tasks.checkpoints().keys()) - WITHOUT_ARRAYS


@pytest.fixture(params=EXAMPLES, ids=lambda example: example.task)
def example(request: pytest.FixtureRequest) -> Example:
    assert isinstance(request.param, Example)
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served beside a model: a tokenizer, a table's columns."""
    folder = word_tokenizer(tmp_path_factory.mktemp("served"))
    age = Number(name="age", mean=40, std=10, missing=True)
    job = Category(name="job", values=("nurse",))
    Columns(columns=(age, job), target="ill").save(folder)
    halves = (Convolution(kernel=3, stride=2, padding=1),) * 2
    Alphabet(tokens=("", "|", "a", "b"), delimiter=1, convolutions=halves, pads=True).save(folder)
    return folder


@pytest.fixture
def task(example: Example, folder: Path) -> Task:
    return tasks.get(example.task).bind(folder)


def of_one(tensor: TensorSpec, batch: int) -> list[int]:
    """A shape that fits, with sizes of 4 where any does."""
    return [batch, *(4 if size < 0 else size for size in tensor.shape[1:])]


LONG_ROW = np.zeros(0)
LONG = 16
"""The size of an output's free axes: as long as a short text is padded to."""


def outputs_for(signature: Signature, batch: Batch) -> dict[str, np.ndarray]:
    """Random outputs. Where axes have names, their sizes are those of the inputs."""
    rng = np.random.default_rng(0)
    named = {
        axis: size
        for tensor in signature.inputs
        for axis, size in zip(tensor.axes, batch.arrays.get(tensor.name, LONG_ROW).shape)  # noqa: B905
        if axis
    }
    return {
        out.name: rng.standard_normal(
            tuple(named[axis] for axis in out.axes)
            or (batch.size, *(n if n > 0 else LONG for n in out.shape[1:]))
        ).astype(out.dtype)
        for out in signature.outputs
    }


def test_checking_a_signature_twice_changes_nothing(example: Example, task: Task) -> None:
    once = task.check_signature(example.signature)
    assert task.check_signature(once) == once
    assert msgspec.json.decode(msgspec.json.encode(once), type=Signature) == once


def test_a_signature_that_does_not_fit_is_refused(example: Example) -> None:
    with pytest.raises(InvalidInput):
        tasks.get(example.task).check_signature(example.refused)


def test_a_body_becomes_arrays_of_the_signature_and_an_answer(example: Example, task: Task) -> None:
    signature = task.check_signature(example.signature)
    batch = task.read(Payload(media_type=JSON, body=example.body), signature, Limits())
    assert batch.size == 1
    assert batch.single or example.task == "text-ranking"
    for tensor in signature.inputs:
        array = batch.arrays[tensor.name]
        assert array.dtype == tensor.dtype
        assert array.ndim == len(tensor.shape)
        assert array.shape[0] == 1
        for size, declared in zip(array.shape, tensor.shape, strict=True):
            assert declared in (size, -1)
    outputs = outputs_for(signature, batch)
    answer = task.write(outputs, batch, signature, "model:1")
    assert json.loads(answer.body)


def test_tensors_pass_through_as_json_and_as_binary(example: Example, task: Task) -> None:
    signature = task.check_signature(example.signature)
    names = {"float32": "FP32", "int64": "INT64"}
    described: list[dict[str, Any]] = []
    blobs = []
    for tensor in signature.inputs:
        shape = of_one(tensor, 2)
        array = np.arange(int(np.prod(shape))).reshape(shape).astype(tensor.dtype)
        if tensor.name in ("input_ids", "attention_mask", "token_type_ids"):
            array = np.ones_like(array)
        raw = array.tobytes()
        described.append(
            {
                "name": tensor.name,
                "shape": shape,
                "datatype": names[tensor.dtype],
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        blobs.append(raw)
    head = json.dumps(
        {"id": "7", "inputs": described, "parameters": {"binary_data_output": True}}
    ).encode()
    payload = Payload(media_type=TENSORS, body=head + b"".join(blobs), json_bytes=len(head))
    batch = task.read(payload, signature, Limits())
    assert batch.size == (2 if signature.batch else 1)
    outputs = outputs_for(signature, batch)
    answer = task.write(outputs, batch, signature, "model:4")
    assert answer.json_bytes is not None
    told = json.loads(answer.body[: answer.json_bytes])
    assert (told["model_name"], told["model_version"], told["id"]) == ("model", "4", "7")
    first = signature.outputs[0].name
    raw = outputs[first].tobytes()
    assert answer.body[answer.json_bytes :] == raw
    assert told["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": []}',
        b'{"inputs": [[1, 2], [3]]}',
        b'{"inputs": [NaN]}',
        b'{"inputs": [1e999]}',
        b'{"inputs": "text!"}',
        b'{"inputs": {"a": [1, 2], "b": 0.5}}',
        b'{"inputs": {"x": 1, "y": 2, "z": 3}}',
        b'{"inputs": [1], "paramters": {}}',
        b'{"inputs": [1], "parameters": {"unknown": 1}}',
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs": [' + b"9" * 10_000 + b"]}",
    ],
)
def test_a_bad_body_is_an_error_for_the_caller(example: Example, task: Task, body: bytes) -> None:
    if body in example.takes:
        return
    signature = task.check_signature(example.signature)
    with pytest.raises(InvalidInput):
        task.read(Payload(media_type=JSON, body=body), signature, Limits())


@pytest.mark.parametrize("change", ["name", "datatype", "shape", "missing", "size", "twice"])
def test_wrong_tensors_are_refused(example: Example, task: Task, change: str) -> None:
    signature = task.check_signature(example.signature)
    names = {"float32": "FP32", "int64": "INT64"}
    inputs: list[dict[str, Any]] = [
        {
            "name": tensor.name,
            "shape": of_one(tensor, 1),
            "datatype": names[tensor.dtype],
            "data": [1] * int(np.prod(of_one(tensor, 1))),
        }
        for tensor in signature.inputs
    ]
    match change:
        case "name":
            inputs[0]["name"] = "other"
        case "datatype":
            inputs[0]["datatype"] = "BYTES"
        case "shape":
            inputs[0]["shape"] = [1, 1, 1, 1]
        case "missing":
            inputs.pop()
        case "size":
            inputs[0]["data"] = [1] * 3
        case "twice":
            inputs.append(inputs[0])
    body = json.dumps({"inputs": inputs}).encode()
    with pytest.raises(InvalidInput):
        task.read(Payload(media_type=TENSORS, body=body), signature, Limits())


def test_more_elements_than_the_limit_are_refused(example: Example, task: Task) -> None:
    signature = task.check_signature(example.signature)
    with pytest.raises(PayloadTooLarge):
        task.read(Payload(media_type=JSON, body=example.body), signature, Limits(max_elements=1))


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), 7).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("said", [None, "image/png", "audio/wav", "text/plain"])
@pytest.mark.parametrize("kind", ["image/png", "audio/flac"])
def test_a_file_is_judged_by_the_task(
    example: Example, task: Task, kind: str, said: str | None
) -> None:
    """Whatever a header says of it: a task takes the files that it reads, and names the others."""
    signature = task.check_signature(example.signature)
    payload = Payload(media_type=said, body=picture() if kind == "image/png" else b"fLaC" * 9)
    if example.task in OF_IMAGES and kind == "image/png":
        assert task.read(payload, signature, Limits()).size == 1
        return
    if (example.task, kind) == ("automatic-speech-recognition", "audio/flac"):
        with pytest.raises(InvalidInput, match="The sound is damaged"):
            task.read(payload, signature, Limits())
        return
    with pytest.raises(InvalidInput, match=kind) as caught:
        task.read(payload, signature, Limits())
    taken = {
        **dict.fromkeys(OF_IMAGES, "not an image"),
        "automatic-speech-recognition": "not a sound",
        "tensor": "takes arrays",
        "tabular": "takes rows of named values",
        "zero-shot-image-classification": "takes an image and labels",
    }
    assert taken.get(example.task, "takes text") in caught.value.message
    assert caught.value.hint


def test_what_images_become_is_bounded() -> None:
    task = tasks.get("image-classification")
    signature = task.check_signature(FLAT)
    small = base64.b64encode(picture()).decode()
    call = json.dumps({"inputs": [small] * 4}).encode()
    payload = Payload(media_type=JSON, body=call)
    elements = 4 * int(np.prod(signature.inputs[0].shape[1:]))
    assert task.read(payload, signature, Limits(max_elements=elements)).size == 4
    with pytest.raises(PayloadTooLarge, match="4 images"):
        task.read(payload, signature, Limits(max_elements=elements - 1))
    with pytest.raises(PayloadTooLarge, match=r"inputs\[0\]"):
        task.read(payload, signature, Limits(max_media_bytes=len(picture()) - 3))


def test_nan_from_a_model_is_an_error_never_a_null(example: Example, task: Task) -> None:
    signature = task.check_signature(example.signature)
    batch = task.read(Payload(media_type=JSON, body=example.body), signature, Limits())
    outputs = {name: np.full_like(v, np.nan) for name, v in outputs_for(signature, batch).items()}
    with pytest.raises(LMaaSError):
        task.write(outputs, batch, signature, "model:1")


def test_metrics_of_known_answers() -> None:
    classifier = tasks.get("image-classification")
    logits = {"y": np.array([[2.0, 1, 0], [0, 2, 1], [0, 3, 1], [0, 1, 2]], np.float32)}
    told = classifier.metrics(logits, np.array([0, 1, 2, 2]), FLAT)
    assert told["accuracy"] == 0.75
    assert told["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    errors = tasks.get("tensor").metrics(
        {"y": np.array([[1.0], [3.0]])}, np.array([[0], [0]]), PAIR
    )
    assert errors == {"mae": 2.0, "rmse": pytest.approx(5**0.5)}


def test_image_file_array_and_pixels_give_one_answer() -> None:
    task = tasks.get("image-classification")
    image = ImageSpec(height=4, width=4, channels=1, layout="flat")
    signature = task.check_signature(msgspec.structs.replace(FLAT, image=image))
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    bodies = {
        "file": Payload(body=file.getvalue()),
        "model input": Payload(
            media_type=JSON, body=json.dumps({"inputs": (pixels / 255).ravel().tolist()}).encode()
        ),
        "pixels": Payload(
            media_type=JSON,
            body=json.dumps({"inputs": pixels.tolist(), "parameters": {"pixels": True}}).encode(),
        ),
    }
    read = {k: task.read(p, signature, Limits()).arrays["x"] for k, p in bodies.items()}
    for array in read.values():
        np.testing.assert_allclose(array, (pixels / 255).reshape(1, 16), rtol=1e-6)


def test_top_k_and_function() -> None:
    task = tasks.get("image-classification")
    signature = task.check_signature(msgspec.structs.replace(FLAT, labels=("cat", "dog", "owl")))

    def ask(**parameters: Any) -> Any:
        body = json.dumps({"inputs": [[0.5] * 16] * 2, "parameters": parameters}).encode()
        batch = task.read(Payload(media_type=JSON, body=body), signature, Limits())
        logits = {"y": np.array([[0.0, 2.0, 1.0]] * 2, np.float32)}
        return json.loads(task.write(logits, batch, signature, "m:1").body)

    two = ask(top_k=2)
    assert len(two) == 2
    assert [label["label"] for label in two[0]] == ["dog", "owl"]
    assert sum(label["score"] for label in ask()[0]) == pytest.approx(1)
    assert ask(function_to_apply="none")[0][0]["score"] == 2.0
    assert ask(function_to_apply="sigmoid")[0][2]["score"] == 0.5
    for bad in ({"top_k": 0}, {"top_k": 2.5}, {"function_to_apply": "tanh"}, {"topk": 1}):
        with pytest.raises(InvalidInput):
            ask(**bad)


class Stub:
    """Stands for a server: a task between random outputs of a model."""

    def __init__(self, example: Example, task: Task) -> None:
        self._example = example
        self._task = task
        self._signature = task.check_signature(example.signature)

    def task(self, name: str) -> str:
        return self._example.task

    def answer(self, name: str, payload: Payload) -> Answer:
        batch = self._task.read(payload, self._signature, Limits())
        outputs = outputs_for(self._signature, batch)
        return self._task.write(outputs, batch, self._signature, "model:1")


@pytest.fixture
def predict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`lmaas predict` at a stub: the exit code, and what it prints."""

    def run(stub: Any, *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(
            "lmaas.cli.predict.server_or_none", lambda _: contextlib.nullcontext(stub)
        )
        with pytest.raises(SystemExit) as ended:
            main(["predict", "model", *map(str, arguments)])
        printed = capsys.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    return run


def test_predict_prints_every_task(
    example: Example, task: Task, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    if task.spec.transcribes:
        return  # the command takes sounds for such a task: tests/e2e/test_speech.py
    file = tmp_path / "call.json"
    file.write_bytes(example.body)
    stub = Stub(example, task)
    code, out, err = predict(stub, file)
    assert (code, err) == (0, "")
    assert out.strip()
    code, out, err = predict(stub, file, "--json")
    assert (code, err) == (0, "")
    told = read_answer(stub.answer("model", Payload(media_type=JSON, body=example.body)))
    told = {"outputs": told} if example.task == "tensor" else told
    assert json.loads(out) == msgspec.to_builtins(told)


def test_the_client_reads_every_answer(example: Example, task: Task) -> None:
    payload = Payload(media_type=JSON, body=example.body)
    told = read_answer(Stub(example, task).answer("model", payload))
    assert told or told == 0.0
    assert json.loads(msgspec.json.encode(told))


def test_predict_takes_rows_and_gives_them_back_for_every_task(
    example: Example, task: Task, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    name, content = example.rows
    file, raw = tmp_path / name, content.encode()
    file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    write_named(tmp_path)
    stub = Stub(example, task)
    wanted = json.loads(example.body).get("parameters", {})
    more = [f"--parameter={name}={json.dumps(value)}" for name, value in wanted.items()]
    code, out, err = predict(stub, file, *more)
    assert (code, err) == (0, ""), err
    told: list[Any]
    if ".jsonl" in name:
        told = [json.loads(line) for line in out.splitlines()]
    else:
        told = list(csv.DictReader(io.StringIO(out), delimiter="\t" if ".tsv" in name else ","))
    assert len(told) == 3
    before, after = list(rows(file)), told
    for row, answered in zip(before, after, strict=True):
        assert {name: answered[name] for name in row.values} == row.values
        assert answered.keys() - row.values.keys()
    written = tmp_path / "out.jsonl.gz"
    code, out, err = predict(stub, file, "--out", written, *more)
    assert (code, out) == (0, "")
    assert "Wrote 3 rows" in err
    as_lines = [json.loads(line) for line in gzip.decompress(written.read_bytes()).splitlines()]
    assert [row.keys() for row in as_lines] == [row.keys() for row in told]
    assert not list(tmp_path.glob(".*part"))


def write_named(folder: Path) -> None:
    """The files that rows name."""
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    (folder / "a.wav").write_bytes(sounds.wav(sounds.tone(0.3)))


def test_predict_refuses_a_language_model_and_says_how_to_ask_it(
    tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    class Language:
        def task(self, name: str) -> str:
            return "text-generation"

        def answer(self, name: str, payload: Payload) -> Answer:
            raise InvalidInput("model:1 is a language model: it is not called this way.")

    for name, content in (("a.json", '{"inputs": "a"}'), ("a.csv", "prompt\na\n")):
        (tmp_path / name).write_text(content)
        for more in ((), ("--json",)):
            code, out, err = predict(Language(), tmp_path / name, *more)
            assert (code, out) == (1, "")
            assert "is a language model" in err
    assert "lmaas chat" in err


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "secret", "..", "none.png", "a\x00b", ""])
@pytest.mark.parametrize(
    ("task", "field"),
    [("image-classification", "image"), ("automatic-speech-recognition", "audio")],
)
def test_rows_send_nothing_but_what_they_name(
    tmp_path: Path, path: str, task: str, field: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("a key")
    with pytest.raises(InvalidInput, match=r"inputs\[0\]"):
        tasks.get(task).collect([{field: path}], tmp_path)


def test_every_task_says_what_it_is(example: Example) -> None:
    told = tasks.spec(example.task)
    assert told.name == example.task
    assert tasks.get(example.task).spec is told
    assert told.primary in told.metrics
    if told.training is not None:
        problem = importlib.import_module(f"{tasks.home(example.task)}.training.problem")
        assert callable(problem.open_problem)
        assert {*told.training.left_open, *told.training.only_in} <= {*told.training.architectures}


def test_parameters_are_those_of_the_spec(example: Example, task: Task) -> None:
    signature = task.check_signature(example.signature)
    parameters = tasks.spec(example.task).parameters
    known = {} if parameters is None else msgspec.to_builtins(parameters())
    body = json.loads(example.body)
    # What a call must say, the example says.
    good = json.dumps(body | {"parameters": known | body.get("parameters", {})}).encode()
    assert task.read(Payload(media_type=JSON, body=good), signature, Limits()).size
    bad = json.dumps(body | {"parameters": {"no_such": 1}}).encode()
    with pytest.raises(InvalidInput, match="no_such"):
        task.read(Payload(media_type=JSON, body=bad), signature, Limits())


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.made], ids=lambda each: each.task)
def test_from_a_file_of_data_or_a_checkpoint_to_an_answer(example: Example, tmp_path: Path) -> None:
    assert example.made is not None
    told = example.made(tmp_path / "made")
    package = tmp_path / "job" / "result"
    if told is None:
        checkpoint.build(tmp_path / "made", package, PushOptions(name="m"))
    else:
        recipe = recipe_of({"name": "m", "task": example.task, "epochs": 2, **told})
        assert training.run(recipe, tmp_path / "job", None, lambda _: None)
    checked = verify.run(msgspec.json.encode(verify.VerifyRequest(folder=str(package))))
    reply = msgspec.json.decode(checked, type=verify.Reply)
    assert reply.parity.passed("f32")
    assert reply.manifest.task == example.task
    file = tmp_path / example.rows[0]
    file.write_text(example.rows[1])
    if example.rows[0].endswith(".gz"):
        file.write_bytes(gzip.compress(example.rows[1].encode()))
    write_named(tmp_path)
    task = tasks.get(example.task)
    asked = [row.values for row in rows(file)][: min(2, task.spec.rows_per_call)]
    given = task.collect(asked, tmp_path)
    call = {"inputs": given, "parameters": json.loads(example.body).get("parameters", {})}
    payload = Payload(media_type=JSON, body=json.dumps(call).encode())
    answer = served(reply.manifest, package, payload)
    assert len(task.records(answer)) == len(asked)
    assert task.shown(answer).rows
