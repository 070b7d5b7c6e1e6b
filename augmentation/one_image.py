"""Augments one image in a loader process: a PIL image, or a uint8 tensor (C, H, W)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from augmentation.options import CROP, CROP_RATIO, CROP_SCALE, EVAL_CROP, Augment, Fit
from augmentation.policies import library_policy
from augmentation.shape import cover, inside, letterbox, with_margin
from augmentation.three_augment import three_augment
from utils import sides


def image_transform(
    augment: Augment | None, img_size: int | Sequence[int], eval_crop: float = EVAL_CROP, fit: Fit = CROP
) -> Callable[[Any], torch.Tensor]:
    """Returns a function from a PIL image, or uint8 tensor (C, H, W), to a uint8 tensor (C, *img_size).

    Tensors are quickest in channels-last memory. They give the pixels of the same PIL image, up to one level where
    resizing rounds the other way. So does any object with `shape` that slices like a tensor; only its crop is read.

    Args:
        augment: None for the evaluation's transform, which has nothing random.
        img_size: side of the result in pixels, or (height, width).
        eval_crop: share of the resized image's short side that the centre crop keeps, if no crop is random.
        fit: how another shape becomes that of `img_size`.
    """
    from torchvision.transforms import v2

    steps: list = []
    if augment is not None and augment.crop == "resized":
        steps.append(RandomResizedCrop(img_size, augment.flip, fit))
    elif augment is not None and augment.crop == "pad":
        steps += [*_fitting(img_size, 1.0, fit), v2.RandomCrop(sides(img_size), augment.padding)]
    else:
        steps += _fitting(img_size, eval_crop, fit)
    if augment is not None and augment.flip and augment.crop != "resized":
        steps.append(_random_flip)
    if augment is not None and augment.policy == "3augment":
        steps.append(_three_augment)
    elif augment is not None and augment.policy != "none":
        steps += [_to_pil, library_policy(augment)]  # geometric operations take three times as long on tensors
    return functools.partial(_apply, steps)


def _apply(steps: list, image) -> torch.Tensor:
    if hasattr(image, "shape") and not isinstance(steps[0], RandomResizedCrop):
        image = image[:, :, :]  # reads all of an image that is decoded by slicing
    for step in steps:
        image = step(image)
    return _to_tensor(image)


def _fitting(img_size: int | Sequence[int], eval_crop: float, fit: Fit) -> list:
    """The steps that bring an image to its size, without randomness."""
    from torchvision.transforms import v2

    height, width = sides(img_size)
    if fit.mode == "squeeze":
        return [v2.Resize([height, width])]
    if fit.mode == "letterbox":
        return [functools.partial(letterbox, size=(height, width), fill=fit.fill)]
    if height == width:
        return [v2.Resize(round(height / eval_crop)), v2.CenterCrop(height)]
    return [functools.partial(cover, size=(height, width), eval_crop=eval_crop), v2.CenterCrop([height, width])]


class RandomResizedCrop:
    """torchvision's v2.RandomResizedCrop, mirrored half the time if `flip`.

    The distributions are torchvision's. Tensors take a third of its time: mirroring is part of cropping, before the
    resize. With "squeeze" and "letterbox" crops have the aspect ratio of the image, up to the same random factor.
    """

    def __init__(self, img_size: int | Sequence[int], flip: bool = False, fit: Fit = CROP):
        self.size, self.flip, self.fit = list(sides(img_size)), flip, fit

    def __call__(self, image):
        pillow = not hasattr(image, "shape")
        height, width = (image.height, image.width) if pillow else image.shape[1:]
        aspect = self.size[1] / self.size[0] if self.fit.mode == "crop" else width / height
        top, left, h, w = random_crop(height, width, aspect)
        if self.fit.mode != "letterbox":
            return self._cut(image, top, left, h, w, self.size)
        cut = self._cut(image, top, left, h, w, inside(h, w, tuple(self.size)))
        return with_margin(cut, tuple(self.size), self.fit.fill)

    def _cut(self, image, top: int, left: int, h: int, w: int, size: list[int]):
        mirror = self.flip and torch.rand(()).item() < 0.5
        if not hasattr(image, "shape"):
            from torchvision.transforms.v2 import functional

            image = functional.resized_crop(image, top, left, h, w, size, antialias=True)
            return functional.horizontal_flip(image) if mirror else image
        crop = image[:, top : top + h, left : left + w].permute(1, 2, 0)
        # Both copy the crop alone; without them interpolate would copy all of `image`.
        crop = (crop.flip(1) if mirror else crop.contiguous())[None].permute(0, 3, 1, 2)
        return F.interpolate(crop, size=size, mode="bilinear", antialias=True)[0]


def random_crop(height: int, width: int, aspect: float = 1.0) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) of a crop, with torchvision's distribution.

    The crop has 8 % to 100 % of the image's area, and an aspect ratio (width / height) of 3/4 to 4/3 times `aspect`.
    If none of ten tries fits, it is the largest central crop with such a ratio.
    """
    (smallest, largest), (least, most) = CROP_SCALE, (aspect * ratio for ratio in CROP_RATIO)
    *tries, vertical, horizontal = torch.rand(22, dtype=torch.float64).tolist()
    for share, slant in zip(tries[::2], tries[1::2], strict=True):
        area = height * width * (smallest + (largest - smallest) * share)
        ratio = least * (most / least) ** slant
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(vertical * (height - h + 1)), int(horizontal * (width - w + 1)), h, w
    w, h = min(width, round(height * most)), min(height, round(width / least))
    return (height - h) // 2, (width - w) // 2, h, w


def _random_flip(image):
    from torchvision.transforms.v2 import functional

    return functional.horizontal_flip(image) if torch.rand(()) < 0.5 else image


def _three_augment(image) -> torch.Tensor:
    return three_augment(_to_tensor(image)[None])[0]


def _to_tensor(image) -> torch.Tensor:
    return image if isinstance(image, torch.Tensor) else torch.from_numpy(np.atleast_3d(image).copy()).permute(2, 0, 1)


def _to_pil(image):
    from PIL import Image

    if not isinstance(image, torch.Tensor):
        return image
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
