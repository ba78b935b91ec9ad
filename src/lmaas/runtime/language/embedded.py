"""Prompts of models that take images: one row of numbers for each token, with a key before it.

OpenVINO GenAI shares what it has computed of prompts that begin alike. For prompts of rows it
compares every 50th number of a row, ten of them at most: two images, or two tokens of a small
model, can agree there and differ elsewhere, and one caller would be answered about the picture of
another. So these numbers are ours. A row is `KEY_NUMBERS` numbers that say exactly which token or
which part of which image it is, then the model's own; the compiled model drops the first.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput, LMaaSError
from lmaas.runtime import ov
from lmaas.runtime.language.pictures import KEPT_BYTES, WAITING_BYTES, Picture
from lmaas.types import VisionSpec

TEXT_ROWS: Final = "openvino_text_embeddings_model.xml"
"""From token ids (B, T) to rows (B, T, `KEY_NUMBERS` + hidden size)."""
STRIDE: Final = 50
"""Which numbers of a row the pipeline compares."""
KEY_NUMBERS: Final = 9 * STRIDE + 1
"""The ten compared ones are among them. Of a token, three are its id in bytes, which bfloat16 has
exactly, too: the pipeline computes rows of what it writes in the precision of the model. Of an
image, the first is -1, and nine are parts of its digest."""
PART_BYTES: Final = 3
"""So much of a digest is a whole number that float32 has exactly."""
ID_BYTES: Final = 3
"""So many bytes an id has: vocabularies of up to 16 million."""


def vision_bytes(vision: VisionSpec, cache_tokens: int) -> int:
    """What images take beside weights and cache: rows of prompts that run, as many as the cache
    has tokens, and rows of images that wait or are kept.
    """
    rows = cache_tokens * (KEY_NUMBERS + vision.numbers) * 4
    return rows + KEPT_BYTES + WAITING_BYTES


class Rows:
    """The table of a model's tokens. One thread calls it."""

    def __init__(self, folder: Path, vision: VisionSpec) -> None:
        try:
            core = ov.core()
            model = core.read_model(folder / TEXT_ROWS)
            config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
            self._request: Any = core.compile_model(model, "CPU", config).create_infer_request()
        except RuntimeError as error:
            told = " ".join(str(error).split())[-200:]
            raise LMaaSError(f"The model's table of tokens cannot be loaded: {told}") from None
        if len(model.outputs[0].get_partial_shape()) != 3 or (
            model.outputs[0].get_partial_shape()[2].get_length() != KEY_NUMBERS + vision.numbers
        ):
            raise LMaaSError("The model's table of tokens is not of the signature's width.")
        self._vision = vision

    def check(self, ids: np.ndarray, pictures: Sequence[Picture]) -> None:
        """Raise InvalidInput unless `ids` (L) have the placeholders of `pictures`."""
        places = int((ids == self._vision.token_id).sum())
        if places != sum(len(picture.rows) for picture in pictures):
            raise InvalidInput(
                f"The prompt has {places} placeholders for {len(pictures)} images.",
                param="messages",
            )

    def of(
        self, ids: np.ndarray, pictures: Sequence[Picture], start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Rows (1, L, `KEY_NUMBERS` + hidden size) float32 of `ids` from `start` to `stop`.

        Each of `pictures` has its placeholders in `ids`, in their order.
        """
        stop = len(ids) if stop is None else stop
        rows = np.array(self._request.infer([ids[None, start:stop]])[0], np.float32)
        for own, picture in _placed(ids, self._vision.token_id, pictures):
            inside = (own >= start) & (own < stop)
            if not inside.any():
                continue
            at = own[inside] - start
            rows[0, at, KEY_NUMBERS:] = picture.rows[inside]
            rows[0, at, :KEY_NUMBERS] = 0
            rows[0, at, 0] = -1
            for part in range(1, KEY_NUMBERS // STRIDE + 1):
                piece = picture.digest[(part - 1) * PART_BYTES : part * PART_BYTES]
                rows[0, at, part * STRIDE] = int.from_bytes(piece, "little")
        return rows


def _placed(
    ids: np.ndarray, token_id: int, pictures: Sequence[Picture]
) -> Iterator[tuple[np.ndarray, Picture]]:
    """Where the placeholders of each picture are."""
    (places,) = np.nonzero(ids == token_id)
    at = 0
    for picture in pictures:
        yield places[at : at + len(picture.rows)], picture
        at += len(picture.rows)


def told_apart(ids: np.ndarray, token_id: int, pictures: Sequence[Picture]) -> np.ndarray:
    """The ids, with numbers of its own for each part of an image: equal where rows are."""
    told = ids.copy()
    for own, picture in _placed(ids, token_id, pictures):
        told[own] = -1 - (int.from_bytes(picture.digest[:6], "little") + np.arange(len(own)))
    return told
