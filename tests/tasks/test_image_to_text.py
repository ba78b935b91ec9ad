"""Images to texts: a TrOCR checkpoint becomes a model, and files become texts."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.runtime.sequence.session import Session
from lmaas.types import JSON, TENSORS, Answer, Manifest, Payload, PushOptions
from sequence_checkpoints import make


class Served:
    """A package, its task and its engine."""

    def __init__(self, folder: Path) -> None:
        make("trocr", folder / "checkpoint")
        options = PushOptions(name="read")
        self.manifest: Manifest = checkpoint.build(
            folder / "checkpoint", folder / "package", options
        )
        compiled = folder / "package" / "compiled"
        self.task: Any = tasks.get(self.manifest.task).bind(compiled)
        self.signature = self.task.check_signature(self.manifest.signature)
        engine = SequenceEngine()
        engine.load(compiled, self.signature.sequence, EngineOptions(precision="f32", threads=1))
        self.session = Session(engine)

    def ask(self, payload: Payload) -> list[str]:
        conversation = self.task.converse(payload, self.signature, Limits())
        told = self.session.begin(1, conversation, next(conversation))
        while not (told.done or told.failed):
            told = self.session.step()
        for _, error in told.failed:
            raise error
        ((_, answer),) = told.done
        assert isinstance(answer, Answer)
        assert answer.new_tokens > 0
        return [each["generated_text"] for each in json.loads(answer.body)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("trocr"))


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def call(inputs: Any, **parameters: Any) -> Payload:
    body = {"inputs": inputs, "parameters": parameters}
    return Payload(media_type=JSON, body=json.dumps(body).encode())


def test_files_and_base64_give_the_same_text(served: Served) -> None:
    assert served.manifest.task == "image-to-text"
    files = [picture(seed) for seed in range(3)]
    alone = [served.ask(Payload(media_type="image/png", body=file))[0] for file in files]
    texts = [base64.b64encode(file).decode() for file in files]
    assert served.ask(call(texts)) == alone
    assert served.ask(call(texts[0])) == alone[:1]
    short = served.ask(call(texts[0], max_new_tokens=3))[0]
    assert short.split() == alone[0].split()[: len(short.split())]
    assert len(short.split()) <= 3


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (Payload(media_type="image/png", body=b"nonsense"), "not an image"),
        (Payload(media_type=TENSORS, body=b"{}"), "no tensors"),
        (call([]), "list of 1 to 64"),
        (call([5]), r"inputs\[0\] must be base64"),
        (call("!"), "base64"),
        (call(base64.b64encode(picture(0)).decode(), words=1), "words"),
        (call(base64.b64encode(picture(0)).decode(), max_new_tokens=64), "at most 64"),
        (
            call(
                base64.b64encode(picture(0)).decode(),
                max_new_tokens=4,
                generate_parameters={"max_new_tokens": 5},
            ),
            "another number",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(served: Served, payload: Payload, text: str) -> None:
    with pytest.raises(LMaaSError, match=text):
        served.ask(payload)


def test_images_that_are_read_otherwise_are_refused(tmp_path: Path) -> None:
    folder = make("trocr", tmp_path / "checkpoint")
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(told | {"resample": 3}))
    with pytest.raises(ModelRefused, match="resample 3"):
        checkpoint.build(folder, tmp_path / "package", PushOptions(name="read"))


def test_a_signature_without_images_is_refused(served: Served) -> None:
    with pytest.raises(InvalidInput, match="images as its source"):
        import msgspec

        served.task.check_signature(msgspec.structs.replace(served.signature, image=None))
