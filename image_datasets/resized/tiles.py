"""JPEG files that can be decoded in parts: decoding can start at the restart marker after each tile.

They are plain JPEG files (ITU-T T.81, F.1.1.5.2), followed by a table of the tiles. A part has, bit for bit, the pixels
of the whole image.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from image_datasets import decode
from image_datasets.orientation import SCAN, segments

QUALITY = 90
TILE = 32  # px: width of a tile; narrower ones cost more in markers than they save
UNIT = {1: 8, 3: 16}  # px: side of a coded block of grey and of 4:2:0 images; the height of a tile
RESTART, END = 0xD0, 0xD9  # second byte of the first of eight restart markers, and of the end marker
WORD = np.dtype("<u4")


def encode(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels (H, W, C) for `TiledImage`: a JPEG file, padded to whole tiles in width, and a table.

    The table holds the offsets of the frame header, of the start of each tile, and of the end of the last one.
    """
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
    """An image that is decoded by slicing: image[:, top:bottom, left:right] is uint8 (C, h, w) in (h, w, C) memory.

    Args:
        data: result of `encode`.
        shape: (C, H, W).
    """

    def __init__(self, data: bytes, shape: tuple[int, int, int]):
        self.data, self.shape = data, shape

    def __getitem__(self, index: tuple[slice, slice, slice]) -> torch.Tensor:
        chans, height, width = self.shape
        unit = UNIT[chans]
        top, bottom, _ = index[1].indices(height)
        left, right, _ = index[2].indices(width)
        # Tiles of the part and of one pixel around it, as colours are interpolated with their neighbours.
        rows = slice(max(0, top - 1) // unit, min(height + unit - 1, bottom + unit) // unit)
        columns = slice(max(0, left - 1) // TILE, min(width + TILE - 1, right + TILE) // TILE)
        pixels = decode.decode(self._tiles(rows, columns), chans)
        top, bottom = top - rows.start * unit, bottom - rows.start * unit
        return pixels[:, top:bottom, left - columns.start * TILE : right - columns.start * TILE]

    def _tiles(self, rows: slice, columns: slice) -> bytearray:
        """Assembles a JPEG file of these tiles alone."""
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
        # After each tile comes a marker, numbered 0 to 7 in turn; after the last one the end of the image.
        lengths = np.cumsum(ends - begins)
        content = np.frombuffer(part, np.uint8)
        content[lengths + (len(part) - 1 - int(lengths[-1]))] = RESTART + (np.arange(len(lengths)) & 7)
        content[-1] = END
        return part
