"""Orientation of photographs: cameras store the pixels as they are and note in EXIF how to turn them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from image_datasets.members import for_pillow, open_binary

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # tag of EXIF and TIFF
JPEG_START = b"\xff\xd8\xff"
METADATA = 0xE1  # JPEG marker of EXIF and XMP
SCAN = 0xDA  # JPEG marker that the image data follow
EXIF = b"Exif\0\0"
ENTRY, SHORT = 12, 3  # EXIF: bytes of an entry; the type code of 16-bit values
HEADER = 1 << 17  # bytes at the start of a JPEG file that usually hold its metadata
IN_INFO = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # Pillow's keys of metadata with an orientation


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields (marker, offset) of each segment of a JPEG file up to the first scan."""
    at, marker = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and marker != SCAN:
        marker = data[at + 1]
        yield marker, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def jpeg_orientation(data: bytes) -> int | None:
    """EXIF orientation of a JPEG file, 1 to 8; None if only `image_orientation` can tell.

    Raises struct.error if the metadata are damaged.
    """
    marker, metadata = 0, []
    for marker, at in segments(data):
        if marker == METADATA:
            metadata.append((at + 4, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")))
    if marker != SCAN:
        return None
    exif = [(start, end) for start, end in metadata if data.startswith(EXIF, start)]
    if len(exif) > 1:
        return None
    for start, end in exif:
        at = start + len(EXIF)  # start of an embedded TIFF file
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[at : at + 4])
        if order is None:
            return None
        table = at + struct.unpack_from(f"{order}I", data, at + 4)[0]
        first, (count,) = table + 2, struct.unpack_from(f"{order}H", data, table)
        if first + ENTRY * count > end:
            return None
        for entry in range(first, first + ENTRY * count, ENTRY):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == ORIENTATION:
                return value if (kind, values) == (SHORT, 1) and 1 <= value <= 8 else None
    return None if any(data.find(b"tiff:Orientation", *place) >= 0 for place in metadata) else 1  # in XMP


def image_orientation(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8; 1 (upright) also if its metadata are damaged.

    Pillow turns TIFF files itself, as their orientation is part of the format.
    """
    image.load()
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise many kinds
        return 1
    return found if found in range(1, 9) else 1


def file_orientation(path: str) -> int:
    """EXIF orientation of a file by its header, without decoding; 1 for TIFF files and unreadable ones."""
    from PIL import Image

    try:
        with open_binary(path) as file:
            start = file.read(len(JPEG_START))
            found = jpeg_orientation(start + file.read(HEADER)) if start == JPEG_START else None
        if found is not None:
            return found
    except (OSError, ValueError, struct.error):
        pass
    try:
        with Image.open(for_pillow(path)) as image:
            known = image.format != "TIFF" and any(key in image.info for key in IN_INFO)
            found = image.getexif().get(ORIENTATION, 1) if known else 1
    except Exception:
        return 1
    return found if found in range(1, 9) else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turns an image upright, given its EXIF orientation, 1 to 8."""
    from PIL.Image import Transpose

    steps = (None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
             Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)  # fmt: skip
    return image if orientation == 1 else image.transpose(steps[orientation - 1])
