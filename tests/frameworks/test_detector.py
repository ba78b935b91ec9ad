"""Detectors of the DETR kind from checkpoints of Hugging Face: tiny, of the true architectures."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detectors
from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.detector import image_of, labels_of
from lmaas.runtime.engine import make_engine
from lmaas.types import Manifest, Payload, PushOptions
from training_kit import verified

MADE: dict[str, Callable[[Path], None]] = {
    "yolos": detectors.make_yolos,
    "detr": detectors.make_detr,
    "d-fine": detectors.make_d_fine,
    "rt-detr": lambda folder: detectors.make_d_fine(folder, "RTDetr"),
}


def own_answer(folder: Path, picture: Image.Image, threshold: float) -> list[tuple[int, Any, Any]]:
    """What transformers makes of the picture, with the checkpoint's own rule for scores."""
    import torch
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    told = json.loads((folder / "preprocessor_config.json").read_text())
    size = getattr(model.config, "image_size", None) or [64, 64]
    pixels = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)) / 255
    if told["do_normalize"]:
        pixels = (pixels - told["image_mean"]) / told["image_std"]
    given = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        out = model(pixel_values=given)
    logits = out.logits[0]
    if logits.shape[-1] > model.config.num_labels:
        scores, classes = logits.softmax(-1)[:, :-1].max(-1)
        queries = torch.arange(len(scores))
    else:
        scores, flat = logits.sigmoid().flatten().sort(descending=True)
        queries, classes = flat // logits.shape[-1], flat % logits.shape[-1]
    cx, cy, w, h = out.pred_boxes[0][queries].unbind(-1)
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)
    boxes = (boxes * torch.tensor([*picture.size] * 2)).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([*picture.size] * 2))
    # A box outside the picture is none.
    kept = (scores >= threshold) & (boxes[:, 2:] - boxes[:, :2] > 0.02).all(-1)
    return sorted(
        zip(classes[kept].tolist(), scores[kept].tolist(), boxes[kept].tolist(), strict=True),
        key=lambda each: -each[1],
    )


def exact_answer(manifest: Manifest, package: Path, payload: Payload) -> Any:
    """What is served in f32."""
    task, engine = tasks.get(manifest.task), make_engine(manifest.engine)
    engine.load(package / "compiled", manifest.signature, "f32", 0)
    try:
        batch = task.read(payload, manifest.signature, Limits())
        outputs = engine.infer(batch.arrays)
    finally:
        engine.close()
    return json.loads(task.write(outputs, batch, manifest.signature, "m:1").body)


@pytest.mark.parametrize("name", list(MADE))
def test_a_checkpoint_answers_as_transformers_does(name: str, tmp_path: Path) -> None:
    MADE[name](tmp_path / "made")
    manifest = checkpoint.build(tmp_path / "made", tmp_path / "package", PushOptions(name="m"))
    assert (manifest.task, manifest.engine) == ("object-detection", "openvino")
    assert verified(tmp_path / "package").signature == manifest.signature
    assert manifest.signature.batch
    noise = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    picture = Image.fromarray(noise).resize((130, 90))
    file = io.BytesIO()
    picture.save(file, "PNG")
    threshold = 0.3
    payload = Payload(body=file.getvalue(), parameters={"threshold": threshold})
    answer = exact_answer(manifest, tmp_path / "package", payload)
    want = own_answer(tmp_path / "made", picture, threshold)
    assert answer
    labels = manifest.signature.labels
    assert labels is not None
    assert len(answer) <= len(want)
    for each, (number, score, box) in zip(answer[:5], want, strict=False):
        assert (each["label"], each["score"]) == (labels[number], pytest.approx(score, abs=1e-3))
        np.testing.assert_allclose([*each["box"].values()], box, atol=0.2)


def test_names_that_stand_twice_are_told_apart() -> None:
    config = SimpleNamespace(id2label={0: "N/A", 1: "cat", 2: "N/A"})
    assert labels_of(config) == ("N/A (0)", "cat", "N/A (2)")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architectures": ["DabDetrForObjectDetection"]}, "not served as a detector"),
        ({"architectures": ["A", "B"]}, "must name one architecture"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    detectors.make_yolos(tmp_path / "made")
    config = tmp_path / "made" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelRefused, match=told):
        checkpoint.build(
            tmp_path / "made", tmp_path / "package", PushOptions(name="m", task="object-detection")
        )


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"size": {"height": 320, "width": 640}}, (320, 640)),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, (800, 1056)),
        ({"size": {"shortest_edge": 480, "longest_edge": 500}}, (480, 480)),
        ({"image_processor": {"size": {"height": 64, "width": 64}}}, (64, 64)),
        ({"size": {"height": 9000, "width": 64}}, "9000 x 64"),
        ({"size": {"max": 5}}, "expected height and width"),
        ({"size": 7}, "expected height and width"),
        ({"size": {"height": 64, "width": 64}, "image_mean": "x"}, "are no numbers"),
    ],
)
def test_the_size_is_the_processor_s(tmp_path: Path, told: dict[str, Any], size: Any) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    if isinstance(size, str):
        with pytest.raises(ModelRefused, match=size):
            image_of(tmp_path, SimpleNamespace())
        return
    image = image_of(tmp_path, SimpleNamespace())
    assert (image.height, image.width, image.resize) == (*size, "stretch")


def test_a_checkpoint_without_its_processor_is_refused(tmp_path: Path) -> None:
    detectors.make_yolos(tmp_path / "made")
    (tmp_path / "made" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"preprocessor_config\.json"):
        checkpoint.build(tmp_path / "made", tmp_path / "package", PushOptions(name="m"))
