"""What the pixels of an image file mean, in three 8-bit channels or in grey. docs/data.md has the table for users."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# Tags of TIFF: bits per sample, 0 where white is the lowest value, kind of number, lowest and highest value.
BITS, PHOTOMETRIC, SAMPLE_FORMAT, LOWEST, HIGHEST = 258, 262, 339, 340, 341
WHITE_IS_ZERO, UNSIGNED = 0, 1
SIXTEEN_BIT = ("PNG", "PPM", "JPEG2000")  # formats whose greys above 8 bits Pillow gives in the range of 16 bits


def convert(image: Image.Image, chans: int) -> Image.Image:
    """The image in RGB or grey. Raises ValueError where its numbers do not tell which colours they stand for.

    Transparent pixels show white. More than 8 bits are scaled by the range of the format, not by that of the image.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled(image)
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    elif image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        from PIL import ImageChops

        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted
    elif image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    return image.convert("RGB" if chans == 3 else "L")


def _scaled(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits, or floats, in 8 bits."""
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
    see_through = image.info.get("transparency")  # of PNG files: the grey that is
    if see_through is None:
        return grey
    alpha = Image.fromarray(np.where(values == see_through, 0, 255).astype(np.uint8))
    return _on_white(Image.merge("LA", (grey, alpha)).convert("RGBA"))


def _range(image: Image.Image) -> tuple[float, float]:
    """The values of black and white. Raises ValueError where the file does not say them."""
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
    """The first of a tag's values."""
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) or value is None else float(value)


def _on_white(image: Image.Image) -> Image.Image:
    """Args: image: in RGBA."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    """CIELAB, whose white is D50, in sRGB."""
    try:
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    except ImportError:
        raise ValueError("its pixels are in CIELAB, which this build of Pillow cannot convert (no LittleCMS)") from None
    return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
