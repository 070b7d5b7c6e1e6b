"""Image files as pixels: which files are images by their name, and how one is opened, decoded and turned."""

from __future__ import annotations

import contextlib
import math
import re
import warnings

from image_datasets.bad_images import BadImage
from image_datasets.orientation import file_orientation, image_orientation, upright
from image_datasets.pixels import convert
from image_datasets.reading import CURRENT, OLDEST, Reading

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_ASPECT = 1000  # times a side may be the other: of a line of pixels resizing would make more than memory holds
# Pillow's remarks on images that are refused below, on transparency, and on metadata that nothing depends on.
warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
warnings.filterwarnings("ignore", "Palette images with Transparency")
warnings.filterwarnings("ignore", "Corrupt EXIF data")


def read_image(path: str, chans: int, reading: Reading = CURRENT):
    """The decoded image in RGB or grey, of several frames the first: by the meaning of its pixels, and upright, as
    image_datasets/pixels.py has it; under the oldest rules as Pillow's `convert` has it, and not turned. Raises
    BadImage where it is damaged, too large, or does not tell its colours."""
    with open_image(path, reading) as image:
        if reading.rules == OLDEST:
            return image.convert("RGB" if chans == 3 else "L")
        orientation = image_orientation(image) if reading.turns else 1
        return upright(convert(image, chans), orientation)


def stored_size(path: str, reading: Reading = CURRENT) -> tuple[int, int] | None:
    """(height, width) of an image, upright where it is to be turned, from its header; None where it is refused."""
    try:
        with open_image(path, reading) as image:
            size = image.size
    except BadImage:
        return None
    return size if reading.turns and file_orientation(path) > 4 else size[::-1]


def too_slim(width: int, height: int) -> bool:
    """Whether an image of this shape is refused."""
    return max(width, height) > MAX_ASPECT * min(width, height)


@contextlib.contextmanager
def open_image(path: str, reading: Reading):
    from PIL import Image

    if reading.max_pixels > (Image.MAX_IMAGE_PIXELS or math.inf):
        Image.MAX_IMAGE_PIXELS = reading.max_pixels  # never lowered, so threads cannot disturb each other
    too_many = f"are more than --max-pixels {reading.max_pixels:,} allows"
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > reading.max_pixels:
                raise ValueError(f"{width:,} x {height:,} pixels {too_many}")
            if too_slim(width, height):
                shape = f"{width:,} x {height:,} pixels"
                raise ValueError(f"of {shape} one side is more than {MAX_ASPECT:,} times the other")
            yield image
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise BadImage(path, f"{int(count[0]):,} pixels {too_many}" if count else f"its pixels {too_many}") from None
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise BadImage(path, str(error) or type(error).__name__) from None
