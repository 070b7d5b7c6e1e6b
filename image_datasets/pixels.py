"""Converts the pixels of image files to 8-bit RGB or grey by their meaning. docs/data.md has the table for users."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# TIFF tags: bits per sample, 0 if white is the lowest value, type of number, lowest and highest value.
BITS, PHOTOMETRIC, SAMPLE_FORMAT, LOWEST, HIGHEST = 258, 262, 339, 340, 341
WHITE_IS_ZERO, UNSIGNED = 0, 1
SIXTEEN_BIT = ("PNG", "PPM", "JPEG2000")  # formats whose deeper greys Pillow scales to 16 bits


def convert(image: Image.Image, chans: int) -> Image.Image:
    """Converts an image to RGB (chans=3) or grey (1).

    Transparent pixels become white. More than 8 bits are scaled by the range of the format, not of the image. Raises
    ValueError if the file does not say which colours its numbers stand for.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled(image)
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    elif image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        from PIL import ImageChops

        image = ImageChops.invert(image)  # Pillow treats every CMYK JPEG like Adobe's, which are inverted
    elif image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    return image.convert("RGB" if chans == 3 else "L")


def _scaled(image: Image.Image) -> Image.Image:
    """Scales greys of more than 8 bits, or floats, to 8 bits."""
    import numpy as np
    from PIL import Image

    lowest, highest = _range(image)
    values = np.asarray(image).astype(np.float64)
    scaled = ((values - lowest) * (255 / (highest - lowest))).clip(0, 255)
    if not np.isfinite(scaled).all():
        raise ValueError("some of its floats are not finite")
    grey = Image.fromarray((scaled + 0.5).astype(np.uint8))
    tags = getattr(image, "tag_v2", {})
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return grey.point(lambda value: 255 - value)
    see_through = image.info.get("transparency")  # PNG: the grey that is transparent
    if see_through is None:
        return grey
    alpha = Image.fromarray(np.where(values == see_through, 0, 255).astype(np.uint8))
    return _on_white(Image.merge("LA", (grey, alpha)).convert("RGBA"))


def _range(image: Image.Image) -> tuple[float, float]:
    """Values of black and white. Raises ValueError if the file does not say."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        lowest, highest = (_number(tags.get(tag)) for tag in (LOWEST, HIGHEST))
        if lowest is None or highest is None or not lowest < highest:
            raise ValueError("its pixels are floats, and the file does not say which are black and white;"
                             " save it with 8 or 16 bits")  # fmt: skip
        return lowest, highest
    bits, kind = (_number(tags.get(tag, default)) for tag, default in ((BITS, 16), (SAMPLE_FORMAT, UNSIGNED)))
    if kind == UNSIGNED and bits <= 16 and (tags or image.format in SIXTEEN_BIT):
        return 0, 2**bits - 1
    what = "32-bit integers" if bits > 16 else f"{'signed ' if kind != UNSIGNED else ''}16-bit integers"
    raise ValueError(f"its pixels are {what}, and the file does not say which are black and white;"
                     " save it with 8 or 16 bits, unsigned")  # fmt: skip


def _number(value) -> float | None:
    """The first value of a tag."""
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) or value is None else float(value)


def _on_white(image: Image.Image) -> Image.Image:
    """Puts an RGBA image on a white background."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    """Converts CIELAB, whose white is D50, to sRGB."""
    try:
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    except ImportError:
        raise ValueError("its pixels are in CIELAB, which this build of Pillow cannot convert (no LittleCMS)") from None
    return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
