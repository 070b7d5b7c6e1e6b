"""Augments a whole batch on its device: uint8 (n, C, H, W), except for `erase`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from utils import sides


def send(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves a draw from the CPU to the device without waiting for the device.

    Only from pinned memory does a copy to a CUDA device not wait. torch reuses that memory when the copy is done.
    """
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


def random_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], fallback: str
) -> torch.Tensor:
    """Draws n rectangles (top, left, height, width), int64 (n, 4), with torchvision's distribution.

    The first of ten tries that fits is taken.

    Args:
        height, width: of the images in pixels.
        scale: range of the area as a share of the image, drawn uniformly.
        ratio: range of the aspect ratio, drawn log-uniformly: width / height with fallback="whole", else its inverse.
        fallback: if no try fits, "whole" gives the whole image and "none" a rectangle of size 0.
    """
    tries = 10
    area = height * width * torch.empty(n, tries).uniform_(*scale)
    aspect = torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp()
    if fallback == "whole":  # as RandomResizedCrop: aspect is width / height
        h, w = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
        fits = (h > 0) & (w > 0) & (h <= height) & (w <= width)
    else:  # as RandomErasing: aspect is height / width, the rectangle smaller than the image
        h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (h < height) & (w < width)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    empty = (height, width) if fallback == "whole" else (0, 0)
    h = torch.where(found, h.gather(1, first)[:, 0], empty[0])
    w = torch.where(found, w.gather(1, first)[:, 0], empty[1])
    top = (torch.rand(n) * (height - h + 1)).long()
    left = (torch.rand(n) * (width - w + 1)).long()
    return torch.stack([top, left, h, w], 1)


def resize_boxes(images: torch.Tensor, boxes: torch.Tensor, img_size: int | Sequence[int]) -> torch.Tensor:
    """Crops one box from each image and resizes it, bilinear with antialiasing, as two matrix products.

    Args:
        images: uint8 (n, C, H, W).
        boxes: (top, left, height, width) of each crop, int64 (n, 4).
        img_size: side of the result in pixels, or (height, width).

    Returns uint8 (n, C, *img_size) in channels-last memory.
    """
    height, width = sides(img_size)
    boxes = send(boxes, images.device)
    vertical = _interpolation(boxes[:, 0], boxes[:, 2], images.shape[2], height)
    horizontal = _interpolation(boxes[:, 1], boxes[:, 3], images.shape[3], width)
    return filter_sides(images, vertical, horizontal)


def filter_sides(images: torch.Tensor, vertical: torch.Tensor, horizontal: torch.Tensor) -> torch.Tensor:
    """Weighs the rows and the columns of each image with matrices of its own.

    With TF32 products, in training on CUDA, a value may round to a neighbouring level.

    Args:
        images: uint8 (n, C, H, W).
        vertical: (n, height, H).
        horizontal: (n, width, W).

    Returns uint8 (n, C, height, width) in channels-last memory.
    """
    result = torch.einsum("noh,nchw,npw->ncop", vertical, images.float(), horizontal)
    return result.round_().clamp_(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _interpolation(start: torch.Tensor, length: torch.Tensor, size: int, out_size: int) -> torch.Tensor:
    """Weights (n, out_size, size) of the triangle filter that resizes [start, start + length) to out_size pixels."""
    step = (length / out_size)[:, None, None]
    support = step.clamp(min=1.0)  # shrinking averages over all covered pixels
    centre = start[:, None, None] + (torch.arange(out_size, device=start.device)[None, :, None] + 0.5) * step
    pixel = torch.arange(size, device=start.device)[None, None, :]
    weight = (1 - (pixel + 0.5 - centre).abs() / support).clamp(min=0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(2, keepdim=True)


def by_kind(
    images: torch.Tensor, kind: torch.Tensor, apply: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    """Applies a function to all images of one kind at once, for each kind.

    Args:
        images: (n, C, H, W) on any device; not changed, nor their order.
        kind: int64 (n,) on the CPU, so that no count waits for the device.
        apply: gets the images of a kind, in their order, and the kind.
    """
    kinds, counts = kind.unique(return_counts=True)
    order = kind.argsort(stable=True)  # images of one kind follow each other, so each kind is a slice
    parts = images[send(order, images.device)].split(counts.tolist())
    done = [apply(part, value) for part, value in zip(parts, kinds.tolist(), strict=True)]
    return torch.cat(done)[send(order.argsort(), images.device)]


def erase(images: torch.Tensor, probability: float) -> torch.Tensor:
    """Random erasing (arXiv:1708.04896): sets a rectangle of 2 % to 33 % of an image's area to 0, the mean colour.

    Args:
        images: normalised (n, C, H, W); not changed.
        probability: of erasing, for each image.
    """
    n, _, height, width = images.shape
    boxes = random_boxes(n, height, width, (0.02, 0.33), (0.3, 3.3), fallback="none")
    boxes[torch.rand(n) >= probability, 2:] = 0
    top, left, h, w = send(boxes, images.device).T[:, :, None]
    y, x = (torch.arange(side, device=images.device) for side in (height, width))
    in_rows = (y >= top) & (y < top + h)
    in_cols = (x >= left) & (x < left + w)
    mask = in_rows[:, None, :, None] & in_cols[:, None, None, :]
    return torch.where(mask, 0.0, images)  # masked_fill with a broadcast mask would lose the channels-last memory
