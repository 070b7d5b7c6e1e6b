"""Test-time augmentation: the mean logits of several views of an image, after Jordan, arXiv:2404.00498, section 3.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F


def augmented(forward: Callable[[torch.Tensor], torch.Tensor], kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a function from images (N, C, H, W) to the weighted mean of the logits (N, K) of their views.

    Args:
        forward: from images to logits.
        kind: "flip", the image and its mirror image with equal weights; or "shift", these with half of the weight, and
            with a quarter each both shifted by a pixel up and left, and down and right, where the edge is reflected.
    """

    def mean(images: torch.Tensor) -> torch.Tensor:
        return sum((weight * forward(view).float() for weight, view in _views(images, kind)), torch.zeros(()))

    return mean


def _views(images: torch.Tensor, kind: str) -> Iterator[tuple[float, torch.Tensor]]:
    if kind == "flip":
        shifted = [(1.0, images)]
    else:
        _, _, height, width = images.shape
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect" if min(height, width) > 1 else "replicate")
        corners = (padded[:, :, i : i + height, i : i + width] for i in (0, 2))
        shifted = [(0.5, images), *((0.25, corner) for corner in corners)]
    for weight, view in shifted:
        for image in (view, view.flip(3)):
            yield weight / 2, image.contiguous(memory_format=torch.channels_last)
