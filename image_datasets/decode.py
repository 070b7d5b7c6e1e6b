"""Decodes plain JPEG files straight to uint8 tensors, by libjpeg-turbo; all other files by `read_image`.

The pixels are those of `read_image`, bit for bit, so the decoder that is installed affects only the speed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from image_datasets.image_files import read_image, too_slim
from image_datasets.members import open_binary
from image_datasets.orientation import JPEG_START, jpeg_orientation, segments
from image_datasets.reading import CURRENT, Reading
from utils import Stopped

if TYPE_CHECKING:
    from PIL import Image

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a frame header, which holds the image's shape
MAX_JPEG_PIXELS = 50_000_000  # larger images are left to Pillow, which refuses decompression bombs
MAX_JPEG_BYTES = 1 << 28  # larger files are left to Pillow, which reads only what it needs


def read_pixels(path: str, chans: int, reading: Reading = CURRENT) -> torch.Tensor | Image.Image:
    """Reads an image in RGB (chans=3) or grey (1), as input of `data_transform.image_transform`.

    Returns a uint8 tensor (C, H, W) in (H, W, C) memory for JPEG files of 8 bits per sample, in colour or grey, and a
    PIL image for all others. Raises BadImage like `read_image`.
    """
    try:
        with open_binary(path) as file:
            start = file.read(len(JPEG_START))
            data = start + file.read(MAX_JPEG_BYTES) if start == JPEG_START else b""
        orientation = jpeg_orientation(data) if data and reading.turns else 1
        pixels = None if orientation is None else decode(data, chans, reading.max_pixels)
    except Stopped:  # a signal, not the file
        raise
    except Exception:  # Pillow decides below whether the file is damaged, and why
        pixels = None
    if pixels is None:
        return read_image(path, chans, reading)
    return pixels if orientation == 1 else _upright(pixels, orientation)


def as_array(pixels: torch.Tensor | Image.Image) -> np.ndarray:
    """Turns a result of `read_pixels` into uint8 (H, W, C)."""
    if isinstance(pixels, torch.Tensor):
        return pixels.permute(1, 2, 0).numpy()
    array = np.asarray(pixels)
    return array if array.ndim == 3 else array[..., None]


def decode(data: bytes, chans: int, max_pixels: int = MAX_JPEG_PIXELS) -> torch.Tensor | None:
    """Decodes a JPEG file to uint8 (C, H, W) in (H, W, C) memory.

    Returns None if `data` is no JPEG, needs a conversion other than grey to colour, or has more than `max_pixels`.
    Raises ValueError or OSError if it is damaged.
    """
    if not _is_plain(data, chans, max_pixels):
        return None
    return torch.from_numpy(_decoder()(data, chans)).permute(2, 0, 1)


def _is_plain(data: bytes, chans: int, max_pixels: int) -> bool:
    """Whether `decode` handles a file, by its frame header: precision, height, width, number of components."""
    if not data.startswith(JPEG_START):
        return False
    at = next((at for marker, at in segments(data) if marker in FRAMES), len(data))
    if at + 10 > len(data):
        return False
    height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
    components = data[at + 9]
    wanted = components == chans or (components == 1 and chans == 3)
    usual = 0 < height * width <= min(MAX_JPEG_PIXELS, max_pixels) and not too_slim(width, height)
    return data[at + 4] == 8 and wanted and usual and len(data) <= MAX_JPEG_BYTES


def _upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """`orientation.upright` for uint8 (C, H, W) in (H, W, C) memory."""
    array = pixels.permute(1, 2, 0).numpy()
    if orientation > 4:
        array = array.transpose(1, 0, 2)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    array = array[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


@functools.cache
def _decoder() -> Callable[[bytes, int], np.ndarray]:
    """simplejpeg if it is installed, else Pillow: the same pixels, in 1.5 times the time."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return _decode_pillow
    colours = {1: "GRAY", 3: "RGB"}
    return lambda data, chans: decode_jpeg(data, colours[chans])


def _decode_pillow(data: bytes, chans: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert("RGB" if chans == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], chans)
