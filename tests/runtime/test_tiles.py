"""Images in tiles: pixels, numbers of tokens and their order are those of transformers."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmaas.runtime.language import tiles
from lmaas.runtime.language.pictures import pixels_of
from lmaas.types import VisionSpec
from servers import photo

GRIDS = ((32, 64), (64, 32), (64, 64), (96, 32), (32, 128))
"""Heights and widths, as transformers has them."""
SIZES = [(32, 32), (64, 64), (100, 40), (40, 100), (33, 77), (77, 33), (500, 7), (7, 500), (1, 1),
         (64, 33), (31, 200)]  # fmt: skip
SIDE, NUMBERS = 4, 6


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    return LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=[list(grid) for grid in GRIDS],
    )


@pytest.fixture(scope="module")
def spec(processor: Any) -> VisionSpec:
    return VisionSpec(
        token_id=0,
        tokens=SIDE**2,
        numbers=NUMBERS,
        height=32,
        width=32,
        resize="stretch",
        resample=int(processor.resample),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        grids=tuple((wide, high) for high, wide in GRIDS),
        side=SIDE,
    )


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_transformers(
    processor: Any, spec: VisionSpec, size: tuple[int, int]
) -> None:
    image = Image.open(io.BytesIO(photo(3, size))).convert("RGB")
    told = processor([image], return_tensors="np")["pixel_values"][0]
    own = np.stack([pixels_of(tile, spec) for tile in tiles.cut(image, spec)])
    assert own.shape == told.shape
    assert np.abs(own - told).max() < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_those_of_transformers(spec: VisionSpec, size: tuple[int, int]) -> None:
    import torch
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

    wide, high = tiles.grid_of(size, spec)
    count = 1 + (wide // 32) * (high // 32)
    rng = np.random.default_rng(1)
    features = rng.standard_normal((count, SIDE**2, NUMBERS)).astype(np.float32)
    newline = rng.standard_normal(NUMBERS).astype(np.float32)
    vision = SimpleNamespace(image_size=32, patch_size=32 // SIDE)
    model: Any = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=[list(g) for g in GRIDS])
    )
    (told,), _ = LlavaNextModel.pack_image_features(
        model,
        [torch.from_numpy(features)],
        torch.tensor([[size[1], size[0]]]),
        "default",
        torch.from_numpy(newline),
    )
    own = tiles.packed(features, size, newline, spec)
    assert np.array_equal(own, told.numpy())
    assert len(own) == tiles.count(size, spec) <= tiles.most_tokens(spec)


def test_a_small_copy_alone_ends_with_a_newline(spec: VisionSpec) -> None:
    told, newline = np.ones((1, SIDE**2, NUMBERS)), np.full(NUMBERS, 7.0)
    rows = tiles.packed(told, (50, 50), newline, spec)
    assert len(rows) == SIDE**2 + 1
    assert (rows[-1] == 7).all()


def test_strips_of_any_length_take_few_tokens(spec: VisionSpec) -> None:
    for size in ((60_000_000, 1), (1, 60_000_000), (64_000, 1000)):
        assert spec.tokens <= tiles.count(size, spec) <= tiles.most_tokens(spec)
