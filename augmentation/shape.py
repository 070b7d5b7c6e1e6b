"""Resizes images of any shape to one shape, without randomness: cropped, squeezed, or with a margin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from augmentation.options import CROP, EVAL_CROP, Fit
from utils import sides


def shown_share(height: int, width: int, img_size: int | Sequence[int], eval_crop: float = EVAL_CROP) -> float:
    """Share of an image's area that the evaluation's centre crop shows. Sizes are in pixels."""
    size = sides(img_size)
    scale = max(size[0] / height, size[1] / width) / eval_crop
    return size[0] * size[1] / (height * width * scale**2)


def cover(image, size: tuple[int, int], eval_crop: float):
    """Resizes an image, keeping its aspect ratio, so that `size` is the share `eval_crop` of its tighter side."""
    from torchvision.transforms.v2 import functional

    h, w = functional.get_size(image)
    scale = max(size[0] / h, size[1] / w) / eval_crop
    return functional.resize(image, [max(size[0], round(h * scale)), max(size[1], round(w * scale))], antialias=True)


def letterbox(image, size: tuple[int, int], fill: tuple[int, ...]):
    """Resizes an image, keeping its aspect ratio, to fit into `size`, and fills the margin."""
    from torchvision.transforms.v2 import functional

    return with_margin(functional.resize(image, inside(*functional.get_size(image), size), antialias=True), size, fill)


def inside(height: int, width: int, size: tuple[int, int]) -> list[int]:
    """[height, width] of the largest image with this aspect ratio that fits into `size`."""
    scale = min(size[0] / height, size[1] / width)
    return [max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale)))]


def with_margin(image, size: tuple[int, int], fill: tuple[int, ...]):
    """Centres a PIL image, or uint8 (..., C, h, w), on a canvas of `size` in the colour `fill`."""
    if not isinstance(image, torch.Tensor):
        from PIL import Image

        result = Image.new(image.mode, size[::-1], fill if len(fill) > 1 else fill[0])
        result.paste(image, ((size[1] - image.width) // 2, (size[0] - image.height) // 2))
        return result
    (h, w), (height, width) = image.shape[-2:], size
    top, left = (height - h) // 2, (width - w) // 2
    colour = torch.tensor(fill, dtype=torch.uint8, device=image.device)
    result = colour.expand(*image.shape[:-3], height, width, len(fill)).clone().movedim(-1, -3)
    result[..., top : top + h, left : left + w] = image
    return result


def resize(images: torch.Tensor, img_size: int | Sequence[int], fit: Fit = CROP) -> torch.Tensor:
    """Resizes uint8 (n, C, H, W) to uint8 (n, C, *img_size), bilinear with antialiasing."""
    (h, w), (height, width) = images.shape[2:], sides(img_size)
    if (h, w) == (height, width):
        return images
    if fit.mode == "squeeze" or h * width == w * height:
        return _resized(images, (height, width))
    if fit.mode == "letterbox":
        return with_margin(_resized(images, inside(h, w, (height, width))), (height, width), fit.fill)
    scale = max(height / h, width / w)
    images = _resized(images, (max(height, round(h * scale)), max(width, round(w * scale))))
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def _resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if images.device.type == "cpu":
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)
    # Other devices have no uint8 version.
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
