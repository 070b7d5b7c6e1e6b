"""Normalises images for the model, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from augmentation.buffers import Buffers

IN_CACHE = 200_000  # values normalised at once on a CPU
_BUFFERS = Buffers()


class Normalize:
    """Turns uint8 images (N, C, H, W) into numbers of zero mean and unit variance per channel, in channels-last memory.

    Args:
        mean, std: per channel, for pixel values in [0, 1].
        dtype: of the result, which is computed in float32 and rounded.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.width, self.tiled = 0, (self.scale, self.shift)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        n, c, h, w = images.shape
        # Whole rows of pixels: broadcasting over 3 channels alone does not vectorise.
        rows = images.permute(0, 2, 3, 1).reshape(n, h, w * c)
        if w != self.width:
            self.width, self.tiled = w, (self.scale.repeat(w), self.shift.repeat(w))
        scale, shift = self.tiled
        if images.device.type != "cpu" or self.dtype != torch.float32:
            result = torch.empty(rows.shape, dtype=self.dtype, device=images.device)
            rows = rows if images.device.type == "cuda" else rows.float()  # CUDA converts, computes and rounds at once
            torch.addcmul(shift, rows, scale, out=result)
            return result.view(n, h, w, c).permute(0, 3, 1, 2)
        result = _BUFFERS.take((n, h, w * c))
        group = max(1, IN_CACHE // (h * w * c))
        for part, out in zip(rows.split(group), result.split(group), strict=True):
            torch.addcmul(shift, out.copy_(part), scale, out=out)
        return result.view(n, h, w, c).permute(0, 3, 1, 2)


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turns normalised images (..., C, H, W) back into pixel values, clipped to [0, 1].

    Args:
        mean, std: per channel, as of `Normalize`.
    """
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return (images * std + mean).clamp(0, 1)
