"""From a face's points in an image to the face as an embedder takes it.

A similarity (turn, scale, shift) lays the points as near as it can to where the embedder has them
(Umeyama, 1991).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from lmaas.codecs.image import cut_out
from lmaas.types import FaceSpec, ImageSpec

FIVE: Final = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""Points as templates have them. Right and left are the face's own: its right eye is on the left of
an image that is not mirrored."""
MOUTH: Final = "mouth"
LEAST_POINTS: Final = 2
MOST_REDUCED: Final = 64


def template(face: FaceSpec, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Where an embedder has each point, in pixels of its input of `size` (width, height)."""
    points = np.asarray(face.points, np.float64) * size
    named = dict(zip(FIVE, points, strict=True))
    return named | {MOUTH: (named["mouth_right"] + named["mouth_left"]) / 2}


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity (2, 3) that brings `source` (n, 2) nearest to `target` (n, 2).

    Raises ValueError for points that all lie in one place.
    """
    middle, wanted = source.mean(axis=0), target.mean(axis=0)
    ours, theirs = source - middle, target - wanted
    spread = (ours**2).sum()
    if not np.isfinite(spread) or spread < 1e-9:
        raise ValueError("The points lie in one place.")
    # As complex numbers a turn with a scale is one factor, and mirroring is not among them.
    ours_c, theirs_c = ours @ (1, 1j), theirs @ (1, 1j)
    factor = (theirs_c * ours_c.conj()).sum() / spread
    if abs(factor) < 1e-9:
        raise ValueError("The points lie across the template.")
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([turn, wanted - turn @ middle])


def five_of(names: Sequence[str], points: np.ndarray) -> np.ndarray:
    """The five points of a face (5, 2) for people to see, of those that a detector has; the mouth's
    corners are both its middle where it has no corners.
    """
    named = dict(zip(names, points, strict=False))
    return np.stack([named[name if name in named else MOUTH] for name in FIVE])


def aligned(
    image: Image.Image, names: Sequence[str], points: np.ndarray, face: FaceSpec, spec: ImageSpec
) -> Image.Image:
    """The face with these points (n, 2), laid as the embedder has it; black where the image ends.

    Raises ValueError for points that say no place.
    """
    size = spec.width, spec.height
    where = template(face, size)
    shared = [number for number, name in enumerate(names) if name in where]
    if len(shared) < LEAST_POINTS:
        raise ValueError("A detector needs two points that the embedder has.")
    source = np.asarray(points, np.float64)[shared]
    target = np.stack([where[names[number]] for number in shared])
    matrix = similarity(source, target)
    return warped(image, matrix, size)


def warped(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image under the similarity `matrix` (2, 3), cut to `size`.

    One that gets much smaller is averaged first, so that no pixel is left out.
    """
    turn = matrix[:, :2]
    back = np.linalg.inv(turn)
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], size], np.float64)
    there = (corners - matrix[:, 2]) @ back.T
    low, high = np.floor(there.min(axis=0)) - 2, np.ceil(there.max(axis=0)) + 2
    box = (
        int(max(low[0], 0)),
        int(max(low[1], 0)),
        int(min(high[0], image.width)),
        int(min(high[1], image.height)),
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        return Image.new(image.mode, size)
    part = image.crop(box)
    times = int(min(MOST_REDUCED, max(1, round(1 / np.sqrt(abs(np.linalg.det(turn)))))))
    if times > 1:
        part = part.reduce(times)
    # Pillow asks where each pixel comes from: input = (back @ (output - shift) - corner) / times.
    shift = -back @ matrix[:, 2] - np.array(box[:2])
    a, b, c, d, e, f = np.column_stack([back, shift]).ravel() / times
    return part.transform(
        size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )


def cropped(image: Image.Image, box: Sequence[float], face: FaceSpec) -> Image.Image:
    """The square about a box, with the embedder's margin: what is done without points."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return cut_out(image, (x - half, y - half, x + half, y + half), face.margin)
