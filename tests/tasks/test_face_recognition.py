"""Faces as numbers: how well vectors tell people apart, and how a face is laid by its points."""

import msgspec
import numpy as np
import pytest
from PIL import Image

from lmaas.errors import InvalidInput
from lmaas.tasks import get
from lmaas.tasks.face_recognition import alignment
from lmaas.tasks.face_recognition.verification import Pairs, judged, measure, read_rates
from lmaas.tasks.object_detection import heads
from lmaas.types import (
    DetectionSpec,
    FaceSpec,
    ImageSpec,
    PointName,
    Signature,
    TensorSpec,
)

FACE = FaceSpec(dimensions=4)
RANDOM = np.random.default_rng(5)


def drawn(people: int, photos: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors about each person's own direction."""
    middles = np.random.default_rng(1).standard_normal((people, 32))
    numbers = np.repeat(np.arange(people), photos)
    vectors = middles[numbers] + noise * np.random.default_rng(2).standard_normal(
        (len(numbers), 32)
    )
    return vectors.astype(np.float32), numbers


def test_pairs_are_all_pairs_and_rates_are_shares_of_them() -> None:
    vectors, people = drawn(30, 4, 1.0)
    pairs = Pairs(vectors, people)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    same: list[float] = []
    other: list[float] = []
    for one in range(len(units)):
        for two in range(one):
            (same if people[one] == people[two] else other).append(float(units[one] @ units[two]))
    np.testing.assert_allclose(pairs.same, sorted(same), atol=1e-6)
    np.testing.assert_allclose(pairs.other, sorted(other), atol=1e-6)
    for rate in (0.1, 0.01, 0.001):
        threshold = pairs.threshold(rate)
        accepted = np.mean(pairs.other >= threshold)
        assert rate - 1.5 / len(other) <= accepted <= rate
        assert pairs.accepted(threshold) == np.mean(pairs.same >= threshold)
    every = np.array([*same, *other])
    gaps = [abs(np.mean(np.array(same) < t) - np.mean(np.array(other) >= t)) for t in every]
    best = every[int(np.argmin(gaps))]
    expected = (np.mean(np.array(same) < best) + np.mean(np.array(other) >= best)) / 2
    assert pairs.equal_error_rate() == pytest.approx(expected, abs=2e-3)
    with pytest.raises(ValueError, match="do not measure"):
        pairs.threshold(1e-6)


def test_metrics_rank_good_vectors_before_bad_ones() -> None:
    good, bad = measure(*drawn(40, 4, 0.2)), measure(*drawn(40, 4, 2.0))
    assert good["eer"] == pytest.approx(0, abs=1e-3)
    assert good["tar_at_0.01"] == good["rank1"] == 1
    assert bad["eer"] > 0.1
    assert bad["tar_at_0.01"] < 0.7
    assert bad["rank1"] < good["rank1"]
    assert good["loss"] < bad["loss"]
    chance = measure(RANDOM.standard_normal((160, 32)).astype(np.float32), np.arange(160) % 40)
    assert chance["eer"] == pytest.approx(0.5, abs=0.06)
    assert measure(*drawn(40, 1, 0.2)) == {}, "nobody has two photos"
    face = read_rates(FACE, {f"valid_{name}": value for name, value in bad.items()})
    assert [rate.false_accept_rate for rate in face.rates] == [0.1, 0.01, 0.001]
    assert face.pairs == bad["stranger_pairs"]
    assert read_rates(FACE, {}) == FACE


def test_compressed_models_are_judged_by_pairs() -> None:
    vectors, people = drawn(30, 3, 0.5)
    answers = [
        msgspec.json.encode([{"embedding": v.tolist(), "score": 1}]).decode() for v in vectors
    ]
    names = [f"p{number}" for number in people]
    assert judged(answers, names)["tar_at_0.01"] == measure(vectors, people)["tar_at_0.01"]
    for few in (answers[:3], ["[]"] * 90):
        with pytest.raises(InvalidInput, match="Too few"):
            judged(few, names[: len(few)])


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0, 3.1])
def test_a_similarity_is_found_again(angle: float) -> None:
    source = RANDOM.uniform(0, 100, (5, 2))
    turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = source @ turn.T + (3, -8)
    found = alignment.similarity(source, target)
    np.testing.assert_allclose(found, np.column_stack([turn, (3, -8)]), atol=1e-9)
    # Mirrored points are not mirrored: a face seen in a mirror stays another one.
    mirrored = source * (-1, 1)
    assert np.linalg.det(alignment.similarity(mirrored, target)[:, :2]) > 0


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan)])
def test_points_that_say_no_place_are_refused(points: np.ndarray) -> None:
    image = Image.new("RGB", (50, 50))
    with pytest.raises(ValueError, match="place"):
        alignment.aligned(image, alignment.FIVE, points, FACE, ImageSpec(height=32, width=32))


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0, 9.0])
@pytest.mark.parametrize("angle", [0.0, 0.6, -1.2])
def test_a_face_is_laid_by_its_points(scale: float, angle: float) -> None:
    """Discs are drawn where the points are; afterwards they are where the template has them."""
    spec = ImageSpec(height=112, width=112)
    where = alignment.template(FACE, (112, 112))
    names = ("right_eye", "left_eye", "nose", "mouth", "left_ear")
    wanted = np.stack([where.get(name, np.array([111.0, 60.0])) for name in names])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = int(112 * scale * 2) + 40
    points = (wanted - 56) @ turn.T + side / 2
    y, x = np.mgrid[:side, :side] + 0.5
    pixels = np.zeros((side, side, 3), np.uint8)
    for number, (px, py) in enumerate(points[:4]):
        near = (x - px) ** 2 + (y - py) ** 2 < (5 * scale) ** 2
        pixels[near] = (250, 0, 0) if number % 2 else (0, 250, 0)
    laid = alignment.aligned(Image.fromarray(pixels), names, points, FACE, spec)
    assert laid.size == (112, 112)
    told = np.asarray(laid, np.float64)
    columns, rows = np.arange(112) + 0.5, (np.arange(112) + 0.5)[:, None]
    for number, (wx, wy) in enumerate(wanted[:4]):
        channel = told[..., 0 if number % 2 else 1]
        weight = channel * ((columns - wx) ** 2 + (rows - wy) ** 2 < 81)
        assert (weight * columns).sum() / weight.sum() == pytest.approx(wx, abs=0.6)
        assert (weight * rows).sum() / weight.sum() == pytest.approx(wy, abs=0.6)


def test_a_square_is_cut_about_a_box_and_ends_with_the_image() -> None:
    image = Image.new("RGB", (200, 100))
    face = FaceSpec(margin=0.25)
    assert alignment.cropped(image, (80, 40, 100, 80), face).size == (60, 60)
    assert alignment.cropped(image, (-10, -10, 10, 10), face).size == (15, 15)


def test_anchors_with_linear_sizes_give_boxes_and_points() -> None:
    """As BlazeFace has them: offsets in pixels of the input, of anchors that are the image."""
    names: tuple[PointName, ...] = (
        "right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear",
    )  # fmt: skip
    signature = get("object-detection").check_signature(
        Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 128, 128, 3)),),
            outputs=(
                TensorSpec(name="scores", dtype="float32", shape=(-1, 3, 1)),
                TensorSpec(name="boxes", dtype="float32", shape=(-1, 3, 16)),
            ),
            image=ImageSpec(height=128, width=128, layout="HWC", resize="letterbox"),
            labels=("face",),
            detection=DetectionSpec(
                head="anchors",
                anchors=3,
                scores="sigmoid",
                background="none",
                boxes="cxcywh",
                variances=(1 / 128,) * 4,
                sizes="linear",
                points=names,
            ),
        )
    )
    assert signature.detection is not None
    assert signature.detection.outputs == ("boxes", "scores")
    raw = np.zeros((1, 3, 16), np.float32)
    raw[0, 1, :4] = 4, -2, 40, 30
    raw[0, 1, 4:] = np.arange(12)
    scores = np.array([[[-9.0], [3.0], [-9.0]]], np.float32)
    anchors = np.array([[0.1, 0.1, 1, 1], [0.5, 0.25, 1, 1], [0.9, 0.9, 1, 1]])
    parts = heads.split({"boxes": raw, "scores": scores}, signature)
    found = heads.find(parts, 0, signature, anchors, 0.5, 0.3)
    np.testing.assert_allclose(found.boxes, [[48, 15, 88, 45]], atol=1e-4)
    assert found.points is not None
    expected = np.arange(12).reshape(6, 2) + np.array([64, 32])
    np.testing.assert_allclose(found.points[0], expected, atol=1e-4)
    five = alignment.five_of(names, found.points[0])
    np.testing.assert_allclose(five[3], five[4])
    with pytest.raises(InvalidInput, match="anchors"):
        get("object-detection").check_signature(
            msgspec.structs.replace(
                signature, detection=DetectionSpec(head="grid", points=("nose",))
            )
        )
