"""Opens, decodes and turns image files."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from image_datasets.bad_images import BadImage
from image_datasets.members import for_pillow
from image_datasets.orientation import file_orientation, image_orientation, upright
from image_datasets.pixels import convert
from image_datasets.reading import CURRENT, OLDEST, Reading
from utils import Stopped

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_ASPECT = 1000  # longest side over shortest: resizing a line of pixels would exhaust memory
# Pillow's warnings about images refused below, transparency, and metadata that nothing depends on.
warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
warnings.filterwarnings("ignore", "Palette images with Transparency")
warnings.filterwarnings("ignore", "Corrupt EXIF data")


def read_image(path: str, chans: int, reading: Reading = CURRENT) -> Image.Image:
    """Decodes an image to RGB (chans=3) or grey (1), a PIL image; of several frames the first.

    Pixels are converted by their meaning (see pixels.py) and turned upright. Rules 1 convert like Pillow and do not
    turn. Raises BadImage if the file is damaged, too large, or does not say its colours.
    """
    with open_image(path, reading) as image:
        if reading.rules == OLDEST:
            return image.convert("RGB" if chans == 3 else "L")
        orientation = image_orientation(image) if reading.turns else 1
        return upright(convert(image, chans), orientation)


def stored_size(path: str, reading: Reading = CURRENT) -> tuple[int, int] | None:
    """(height, width) of an image as it is read, upright, by its header; None if it is refused."""
    try:
        with open_image(path, reading) as image:
            size = image.size
    except BadImage:
        return None
    return size if reading.turns and file_orientation(path) > 4 else size[::-1]


def too_slim(width: int, height: int) -> bool:
    """Whether an image is refused for its shape."""
    return max(width, height) > MAX_ASPECT * min(width, height)


@contextlib.contextmanager
def open_image(path: str, reading: Reading) -> Iterator[Image.Image]:
    """Opens an image file with Pillow, without decoding it.

    Raises BadImage if it has more than `reading.max_pixels` or too slim a shape, and for whatever Pillow raises, also
    in the block.
    """
    from PIL import Image

    if reading.max_pixels > (Image.MAX_IMAGE_PIXELS or math.inf):
        Image.MAX_IMAGE_PIXELS = reading.max_pixels  # only ever raised, so threads do not disturb each other
    too_many = f"are more than --max-pixels {reading.max_pixels:,} allows"
    try:
        with Image.open(for_pillow(path)) as image:
            width, height = image.size
            if width * height > reading.max_pixels:
                raise ValueError(f"{width:,} x {height:,} pixels {too_many}")
            if too_slim(width, height):
                shape = f"{width:,} x {height:,} pixels"
                raise ValueError(f"of {shape} one side is more than {MAX_ASPECT:,} times the other")
            yield image
    except Stopped:  # a signal, not the file
        raise
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise BadImage(path, f"{int(count[0]):,} pixels {too_many}" if count else f"its pixels {too_many}") from None
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise BadImage(path, str(error) or type(error).__name__) from None
