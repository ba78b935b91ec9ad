"""Object detection: heads, what overlaps, where a box lies in the picture, what parity compares."""

import base64
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detectors
from lmaas import tasks
from lmaas.codecs.image import Placement
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput, LMaaSError, PayloadTooLarge
from lmaas.tasks import Batch
from lmaas.tasks.object_detection import heads, matching
from lmaas.tasks.object_detection.boxes import MOST, areas, corners, overlaps, suppress
from lmaas.tasks.object_detection.heads import Parts
from lmaas.types import DetectionSpec, ImageSpec, Payload, Signature, TensorSpec

TASK = tasks.get("object-detection")
RANDOM = np.random.default_rng(0)


def signed(
    *shapes: tuple[int, ...],
    size: tuple[int, int] = (64, 64),
    image: ImageSpec | None = None,
    detection: DetectionSpec | None = None,
    labels: tuple[str, ...] | None = ("a", "b"),
    names: tuple[str, ...] = (),
) -> Signature:
    """A signature of a detector with inputs of `size` (height, width)."""
    return TASK.check_signature(
        Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, *size)),),
            outputs=tuple(
                TensorSpec(name=names[i] if names else f"y{i}", dtype="float32", shape=(-1, *shape))
                for i, shape in enumerate(shapes)
            ),
            labels=labels,
            image=image,
            detection=detection,
        )
    )


def found(signature: Signature, *outputs: Any, **how: Any) -> list[tuple[Any, ...]]:
    """Labels, scores and boxes in a picture of the input's own size."""
    image = signature.image
    assert image is not None
    given = {
        spec.name: np.asarray(array, np.float32)[None]
        for spec, array in zip(signature.outputs, outputs, strict=True)
    }
    place = Placement.of((image.width, image.height), image)
    told = {"placements": [place], "threshold": None, "overlap": None, **how}
    batch = Batch(arrays={}, size=1, single=True, parameters=told)
    answer = json.loads(TASK.write(given, batch, signature, "m:1").body)
    return [(each["label"], each["score"], *each["box"].values()) for each in answer]


def drawn_boxes(count: int, side: float = 100.0) -> np.ndarray:
    low = RANDOM.uniform(0, side, (count, 2))
    return np.concatenate([low, low + RANDOM.uniform(1, side / 2, (count, 2))], axis=1)


def test_overlaps_are_those_of_rasters() -> None:
    ones, others = np.rint(drawn_boxes(12)), np.rint(drawn_boxes(9))

    def raster(box: np.ndarray) -> np.ndarray:
        grid = np.zeros((160, 160), bool)
        left, top, right, bottom = box.astype(int)
        grid[top:bottom, left:right] = True
        return grid

    for i, one in enumerate(ones):
        assert areas(one) == raster(one).sum()
        for j, other in enumerate(others):
            a, b = raster(one), raster(other)
            assert overlaps(ones, others)[i, j] == pytest.approx((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.7])
def test_what_overlaps_goes_by_class_and_exactly(limit: float) -> None:
    boxes = np.tile(drawn_boxes(40), (5, 1)) + RANDOM.uniform(0, 3, (200, 4))
    scores = RANDOM.random(200)
    scores[50:60] = scores[50]
    classes = RANDOM.integers(0, 3, 200)
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        rivals = [k for k in kept if classes[k] == classes[place]]
        if all(overlaps(boxes[[place]], boxes[[k]])[0, 0] <= limit for k in rivals):
            kept.append(place)
    assert suppress(boxes, scores, classes, limit, 1000).tolist() == kept
    assert suppress(boxes, scores, classes, limit, 7).tolist() == kept[:7]
    assert 10 < len(kept) < 190


def test_candidates_are_bounded() -> None:
    signature = signed((MOST + 500, 6), detection=DetectionSpec(head="rows", threshold=0.0))
    rows = np.concatenate(
        [drawn_boxes(MOST + 500, 50), RANDOM.random((MOST + 500, 1)), np.zeros((MOST + 500, 1))], 1
    )
    assert len(found(signature, rows)) == 100
    grid = signed((6, 84), detection=DetectionSpec(head="grid", threshold=0.0, nms=0.99))
    wide = np.concatenate([np.full((4, 84), 30), RANDOM.random((2, 84))])
    assert len(found(grid, wide)) == 2  # one of each class, as all lie on each other


def test_grids_are_told_by_their_shapes() -> None:
    signature = signed((6, 84))
    spec = signature.detection
    assert spec is not None
    assert (spec.head, spec.nms, spec.outputs) == ("grid", 0.7, ("y0",))
    assert signature.image is not None
    assert signature.image.resize == "letterbox"
    grid = np.zeros((6, 84))
    grid[:, 3] = [32, 20, 16, 8, 0.9, 0.1]
    grid[:, 4] = [33, 20, 16, 8, 0.8, 0.6]
    assert found(signature, grid) == [("a", 0.9, 24, 16, 40, 24), ("b", 0.6, 25, 16, 41, 24)]
    assert found(signature, grid, threshold=0.85) == [("a", 0.9, 24, 16, 40, 24)]
    assert len(found(signature, grid, overlap=0.95)) == 3
    last = signed((84, 7), detection=DetectionSpec(head="grid", channels="last", objectness=True))
    rows = np.insert(grid.T, 4, 0.5, axis=1)
    assert found(last, rows) == [("a", 0.45, 24, 16, 40, 24), ("b", 0.3, 25, 16, 41, 24)]


def test_rows_are_taken_as_they_are() -> None:
    signature = signed((300, 6))
    rows = np.zeros((300, 6))
    rows[:3] = [[1, 2, 30, 40, 0.5, 1], [1, 2, 31, 40, 0.9, 0], [5, 5, 5, 9, 0.8, 0]]
    assert found(signature, rows) == [("a", 0.9, 1, 2, 31, 40), ("b", 0.5, 1, 2, 30, 40)]
    assert found(signature, rows, threshold=0.0)[-1][1] == 0.5  # rows of score 0 fill up the rest


@pytest.mark.parametrize("softmax", [False, True])
def test_queries_are_shares_of_the_picture(softmax: bool) -> None:
    spec = DetectionSpec(head="queries", outputs=("boxes", "logits"))
    if softmax:
        spec = DetectionSpec(head="queries", scores="softmax", background="last")
    names = ("logits", "boxes")
    signature = signed((5, 3 if softmax else 2), (5, 4), detection=spec, names=names)
    logits = np.full((5, 3 if softmax else 2), -9.0)
    logits[:, -1] = 0.0 if softmax else -9.0
    logits[2, 0], logits[4, 1] = 4.0, 3.0
    sides = np.tile([0.5, 0.25, 0.5, 0.25], (5, 1))
    told = found(signature, logits, sides)
    assert [row[0] for row in told] == ["a", "b"]
    assert told[0][2:] == (16, 8, 48, 24)
    assert told[0][1] == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-3)


def test_centers_are_peaks() -> None:
    signature = signed((16, 16, 6), detection=DetectionSpec(head="centers"))
    grid = np.full((16, 16, 6), -8.0)
    grid[..., :4] = 0
    grid[4, 6] = [np.log(4), np.log(2), 0.5, 0.25, 3, -8]
    grid[4, 7, 4] = 2.9  # a neighbour of the peak
    grid[5, 7, 5] = 2.0  # of another class
    told = found(signature, grid)
    assert told[0] == ("a", pytest.approx(0.9526, abs=1e-4), 18, 13, 34, 21)
    assert [row[0] for row in told] == ["a", "b"]


def test_anchors_and_their_offsets(tmp_path: Any) -> None:
    from safetensors.numpy import save_file

    spec = DetectionSpec(head="anchors", anchors=2, boxes="cycxhw")
    signature = signed((2, 4), (2, 3), detection=spec)
    anchors = np.array([[0.5, 0.5, 0.5, 0.25], [0.2, 0.2, 0.1, 0.1]], np.float32)
    save_file({"anchors": anchors}, tmp_path / "anchors.safetensors")
    bound = TASK.bind(tmp_path)
    offsets = np.array([[1, 0, 0, np.log(2) / 0.2], [0, 0, 0, 0]], np.float32)
    scores = np.array([[-9, 3, -9], [-9, -9, -9]], np.float32)
    image = signature.image
    assert image is not None
    told = {"placements": [Placement.of((64, 64), image)], "threshold": None, "overlap": None}
    batch = Batch(arrays={}, size=1, single=True, parameters=told)
    outputs = {"y0": offsets[None], "y1": scores[None]}
    (one,) = json.loads(bound.write(outputs, batch, signature, "m:1").body)
    assert one["label"] == "a"
    # Moved down by a tenth of its height, twice as wide.
    assert list(one["box"].values()) == pytest.approx([0, 25.6, 64, 41.6], abs=0.02)
    with pytest.raises(LMaaSError, match="anchors"):
        TASK.write(outputs, batch, signature, "m:1")


def test_distributions_of_four_sides() -> None:
    spec = DetectionSpec(head="distributions", strides=(32,))
    signature = signed((4, 2), (4, 32), detection=spec)
    scores, sides = np.zeros((4, 2)), np.zeros((4, 4, 8))
    scores[3, 1] = 0.8
    sides[3, :, 0] = 50.0
    assert found(signature, scores, sides.reshape(4, 32)) == []  # no distance: no area
    sides[3, 0, :2] = 50.0  # half a cell to the left, the mean of 0 and 1
    sides[3, 1, :3] = 50.0  # and a whole one up
    sides[3, 2:, :2] = 50.0
    told = found(signature, scores, sides.reshape(4, 32))
    assert told == [("b", 0.8, 32, 16, 64, 64)]


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(64, 64), (200, 50), (31, 97), (1, 1)])
def test_a_box_goes_into_the_input_and_back(resize: Any, size: tuple[int, int]) -> None:
    place = Placement.of(size, ImageSpec(height=48, width=64, resize=resize))
    boxes = RANDOM.random((20, 4)) * np.array([*size, *size])
    np.testing.assert_allclose(place.back(place.put(boxes)), boxes, atol=1e-9)
    outside = place.back(np.array([[-500.0, -500, 900, 900]]))
    np.testing.assert_allclose(outside, [[0, 0, *size]])


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8, 5])
def test_the_input_shows_the_upright_picture_where_boxes_say(turn: int, form: str) -> None:
    """Also of a large JPEG, which is decoded to a part, and one that its EXIF turns."""
    from lmaas.codecs import image as codec

    whole = np.zeros((600, 1000, 3), np.uint8)
    whole[150:450, 250:500] = 255
    upright = Image.fromarray(whole)
    stored = upright
    if turn == 3:
        stored = upright.transpose(Image.Transpose.ROTATE_180)
    elif turn == 6:
        stored = upright.transpose(Image.Transpose.ROTATE_90)
    elif turn == 8:
        stored = upright.transpose(Image.Transpose.ROTATE_270)
    elif turn == 5:
        stored = upright.transpose(Image.Transpose.TRANSPOSE)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    stored.save(file, form, exif=exif)
    spec = ImageSpec(height=96, width=96, resize="letterbox", fill=0)
    picture, size = codec.decode_sized(file.getvalue(), spec, Limits())
    assert size == (1000, 600)
    array = codec.to_array(picture, spec, "float32", size).mean(0)
    rows, columns = np.where(array > 0.5)
    there = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    place = Placement.of(size, spec)
    np.testing.assert_allclose(place.back(there[None]), [[250, 150, 500, 450]], atol=8)


def test_sets_are_compared_and_not_rows() -> None:
    signature = signed((6, 2), (6, 4), detection=DetectionSpec(head="queries"))
    logits, sides = RANDOM.standard_normal((2, 6, 2)), RANDOM.random((2, 6, 4))
    order = RANDOM.permutation(6)
    want = matching.view({"y0": logits, "y1": sides}, signature)
    have = matching.view({"y0": logits[:, order], "y1": sides[:, order]}, signature)
    assert np.abs(want["boxes"] - have["boxes"]).max() > 0.1
    same = matching.aligned(want, have, signature)
    for name in want:
        np.testing.assert_allclose(same[name], want[name], atol=1e-6)
    moved = {**have, "boxes": have["boxes"].copy()}
    moved["boxes"][1, 2, 0] += 0.01
    off = matching.aligned(want, moved, signature)
    assert np.abs(off["boxes"] - want["boxes"]).max() == pytest.approx(0.05, rel=0.01)


def test_cells_are_compared_by_their_place() -> None:
    signature = signed((6, 84))
    outputs = {"y0": RANDOM.random((1, 6, 84)).astype(np.float32)}
    want = matching.view(outputs, signature)
    have = matching.view({"y0": outputs["y0"][..., ::-1]}, signature)
    told = matching.aligned(want, have, signature)
    assert np.abs(told["scores"] - want["scores"]).max() > 0.1


@pytest.mark.parametrize(
    ("shapes", "detection", "labels", "told"),
    [
        (((25200, 6),), None, ("a",), "do not say how"),
        (((5, 3), (5, 4)), None, ("a", "b", "c"), "do not say how"),
        (((5, 4), (5, 4)), DetectionSpec(head="queries"), None, "not clear which"),
        (((6, 84),), None, ("a", "b", "c"), "2 classes; received 3 labels"),
        (((300, 6),), None, None, "how many classes"),
        (((300, 6),), None, ("a", "a"), "each once"),
        (((4, 84),), DetectionSpec(head="grid"), None, "do not fit"),
        (((6, 84),), DetectionSpec(head="queries"), None, "reads 2 outputs"),
        (((6, 84),), DetectionSpec(head="grid", outputs=("z",)), None, "reads 1 outputs"),
        (((16, 15, 6),), DetectionSpec(head="centers"), None, "do not fit"),
        (((4, 2), (4, 31)), DetectionSpec(head="distributions", strides=(32,)), None, "not fit"),
    ],
)
def test_outputs_that_are_not_clear_are_asked_for(
    shapes: Any, detection: DetectionSpec | None, labels: Any, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        signed(*shapes, detection=detection, labels=labels)


def test_boxes_of_nan_are_no_answer() -> None:
    signature = signed((6, 84))
    grid = np.zeros((6, 84))
    grid[:, 3] = [np.nan, 20, 16, 8, 0.9, 0.1]
    with pytest.raises(LMaaSError, match="boxes hold NaN"):
        found(signature, grid)
    grid[:, 3] = [20, 20, 16, 8, np.nan, 0.1]
    with pytest.raises(LMaaSError, match="scores hold NaN"):
        found(signature, grid)
    grid[:, 3] = [20, 20, np.inf, 8, 0.9, 0.1]
    with pytest.raises(LMaaSError, match="boxes hold NaN or inf"):
        found(signature, grid)


def huge_png(side: int) -> bytes:
    """A PNG whose header claims `side` x `side` pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 64))


def read(body: bytes, **parameters: Any) -> Any:
    payload = Payload(media_type=None, body=body, parameters=parameters)
    return TASK.read(payload, signed((6, 84)), Limits())


def test_pictures_of_every_kind_become_the_same_input() -> None:
    squares = [("red", (16, 16, 32, 32)), ("blue", (32, 48, 48, 64))]
    plain = read(detectors.scene(squares)).arrays["x"]
    picture = Image.open(io.BytesIO(detectors.scene(squares)))
    for mode, form, how in (
        ("P", "PNG", {}),
        ("P", "GIF", {"save_all": True, "append_images": [picture.convert("P")] * 3}),
        ("RGBA", "PNG", {}),
        ("CMYK", "TIFF", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
    ):
        file = io.BytesIO()
        picture.convert(mode).save(file, form, **how)
        other = read(file.getvalue()).arrays["x"]
        np.testing.assert_allclose(other, plain, atol=0.02, err_msg=f"{mode} {form}")
    deep = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) << 8)
    file = io.BytesIO()
    deep.save(file, "PNG")
    grey = read(file.getvalue()).arrays["x"]
    assert np.abs(grey[0, 0] - np.asarray(picture.convert("L")) / 255).max() < 0.02


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        (huge_png(65_000), PayloadTooLarge, "4225000000 pixels"),
        (huge_png(9_000), PayloadTooLarge, "9000 x 9000"),
        (detectors.scene([])[:60], InvalidInput, "damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", InvalidInput, "not an image|SVG"),
        (b"GIF89a" + bytes(4), InvalidInput, "not an image"),
        (b"%PDF-1.7\n" + detectors.scene([]), InvalidInput, "not an image"),
    ],
)
def test_what_is_no_picture_is_refused(body: bytes, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        read(body)


def test_parameters_that_cannot_be_honoured_are_refused() -> None:
    scene = detectors.scene([])
    assert read(scene, threshold=0.1).parameters["threshold"] == 0.1
    for parameters in ({"threshold": 2}, {"treshold": 0.1}, {"overlap": 0}, {"threshold": "x"}):
        with pytest.raises(InvalidInput, match="parameters"):
            read(scene, **parameters)
    signature = signed((300, 6))
    payload = Payload(media_type=None, body=scene, parameters={"overlap": 0.5})
    with pytest.raises(InvalidInput, match="cannot be honoured"):
        TASK.read(payload, signature, Limits())


def test_lists_of_pictures_run_together_or_one_by_one() -> None:
    scene = base64.b64encode(detectors.scene([], (128, 64))).decode()
    body = json.dumps({"inputs": [scene, scene]}).encode()
    payload = Payload(media_type="application/json", body=body)
    batch = TASK.read(payload, signed((6, 84)), Limits())
    assert (batch.size, len(batch.parts), len(batch.parameters["placements"])) == (2, 0, 2)
    from msgspec.structs import replace

    signature = signed((6, 84))
    (entry,) = signature.inputs
    alone = replace(signature, batch=False, inputs=(replace(entry, shape=(1, 3, 64, 64)),))
    batch = TASK.read(payload, alone, Limits())
    assert (batch.size, len(batch.parts)) == (2, 2)
    outputs = {"y0": np.zeros((2, 6, 84), np.float32)}
    assert json.loads(TASK.write(outputs, batch, alone, "m:1").body) == [[], []]


def test_corners_of_every_form() -> None:
    box = np.array([[10.0, 20, 4, 6]])
    assert corners(box, "cxcywh").tolist() == [[8, 17, 12, 23]]
    assert corners(box[:, [1, 0, 3, 2]], "cycxhw").tolist() == [[8, 17, 12, 23]]
    assert corners(box, "xyxy").tolist() == box.tolist()
    assert isinstance(heads.split({"y0": np.zeros((1, 6, 84))}, signed((6, 84))), Parts)
