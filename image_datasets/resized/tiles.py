"""JPEG files of which a part is decoded alone: a restart marker stands behind every tile, where decoding can begin.

They are plain JPEG files (ITU-T T.81, F.1.1.5.2), with a table of the tiles behind the image. What is decoded is bit
for bit what the whole image has there.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from image_datasets import decode
from image_datasets.orientation import SCAN, segments

QUALITY = 90
TILE = 32  # px: the width of a tile. In narrower ones more is spent on the markers than is saved
UNIT = {1: 8, 3: 16}  # px: side of what is coded at once, of grey and of 4:2:0 images; the height of a tile
RESTART, END = 0xD0, 0xD9  # the last byte of the first of eight markers, and of the last one
WORD = np.dtype("<u4")


def encode(pixels: np.ndarray) -> bytes:
    """A file of uint8 pixels (H, W, C) that `TiledImage` reads: the JPEG, whose width is that of whole tiles, and the
    table: where the frame header stands, and where each tile begins and the last one ends."""
    _, width, chans = pixels.shape
    pixels = np.pad(pixels, ((0, 0), (0, -width % TILE), (0, 0)), mode="edge")
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if chans == 1 else pixels)
    options = {"subsampling": "4:2:0"} if chans == 3 else {}
    image.save(file, "JPEG", quality=QUALITY, restart_marker_blocks=TILE // UNIT[chans], **options)
    data = file.getvalue()
    places = dict(segments(data))
    frame = next(place for marker, place in places.items() if marker in decode.FRAMES)
    scan = places[SCAN] + 2 + int.from_bytes(data[places[SCAN] + 2 : places[SCAN] + 4], "big")
    content = np.frombuffer(data, np.uint8)
    marked = np.flatnonzero(content[scan:-2] == 0xFF) + scan
    markers = marked[(content[marked + 1] & 0xF8) == RESTART]
    return data + np.array([frame, scan, *(markers + 2), len(data)], WORD).tobytes()


class TiledImage:
    """An image that is decoded when it is sliced: image[:, top:bottom, left:right] is a uint8 tensor (C, h, w) with
    memory (h, w, C).

    Args:
        data: what `encode` made.
        shape: (C, H, W).
    """

    def __init__(self, data: bytes, shape: tuple[int, int, int]):
        self.data, self.shape = data, shape

    def __getitem__(self, index: tuple[slice, slice, slice]) -> torch.Tensor:
        chans, height, width = self.shape
        unit = UNIT[chans]
        top, bottom, _ = index[1].indices(height)
        left, right, _ = index[2].indices(width)
        # The tiles of the part, and of one pixel more on every side: colours are interpolated with their neighbours.
        rows = slice(max(0, top - 1) // unit, min(height + unit - 1, bottom + unit) // unit)
        columns = slice(max(0, left - 1) // TILE, min(width + TILE - 1, right + TILE) // TILE)
        pixels = decode.decode(self._tiles(rows, columns), chans)
        top, bottom = top - rows.start * unit, bottom - rows.start * unit
        return pixels[:, top:bottom, left - columns.start * TILE : right - columns.start * TILE]

    def _tiles(self, rows: slice, columns: slice) -> bytearray:
        """These tiles as a JPEG file of their own."""
        chans, height, width = self.shape
        unit = UNIT[chans]
        grid = -(-height // unit), -(-width // TILE)
        table = np.frombuffer(self.data, WORD, offset=len(self.data) - WORD.itemsize * (grid[0] * grid[1] + 2))
        frame, edges = int(table[0]), table[1:]
        begins, ends = edges[:-1].reshape(grid)[rows, columns], edges[1:].reshape(grid)[rows, columns]
        size = min(height, rows.stop * unit) - rows.start * unit, (columns.stop - columns.start) * TILE
        part = bytearray().join((
            self.data[: frame + 5], *(side.to_bytes(2, "big") for side in size), self.data[frame + 9 : int(edges[0])],
            *(self.data[a:b] for a, b in zip(begins[:, 0].tolist(), ends[:, -1].tolist(), strict=True)),
        ))  # fmt: skip
        # Behind each tile is a marker, counted from 0 to 7 over and over; behind the last one is the image's end.
        lengths = np.cumsum(ends - begins)
        content = np.frombuffer(part, np.uint8)
        content[lengths + (len(part) - 1 - int(lengths[-1]))] = RESTART + (np.arange(len(lengths)) & 7)
        content[-1] = END
        return part
