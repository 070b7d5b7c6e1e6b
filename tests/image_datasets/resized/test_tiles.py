"""Tiled JPEG files: a part decoded alone has, bit for bit, the pixels of the whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from image_datasets.resized import tiles
from image_datasets.resized.tiles import TiledImage


def pixels(height: int, width: int, chans: int) -> np.ndarray:
    """Smooth colours with some texture."""
    rng = np.random.default_rng(height * width)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    return (smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)[..., :chans]


SIZES = [(256, 341), (341, 256), (1, 1), (16, 32), (17, 33), (15, 31), (7, 200), (300, 20)]


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_any_part_is_that_of_pillows_whole_image(decoder, size, chans):
    height, width = size
    data = tiles.encode(pixels(height, width, chans))
    whole = np.asarray(Image.open(io.BytesIO(data))).reshape(height, -1, chans)[:, :width]
    image = TiledImage(data, (chans, height, width))
    assert np.array_equal(image[:, :, :].permute(1, 2, 0).numpy(), whole)
    rng = np.random.default_rng(0)
    for _ in range(40):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        part = image[:, top:bottom, left:right]
        assert part.dtype == torch.uint8
        assert np.array_equal(part.permute(1, 2, 0).numpy(), whole[top:bottom, left:right])


@pytest.mark.parametrize("chans", [1, 3])
def test_the_pixels_are_close_to_those_that_were_stored(chans):
    stored = pixels(256, 320, chans)
    read = TiledImage(tiles.encode(stored), (chans, 256, 320))[:, :, :].permute(1, 2, 0).numpy()
    error = ((read.astype(float) - stored) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 30
