"""3-Augment, of DeiT III (Touvron et al., arXiv:2204.07118, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from augmentation.one_batch import by_kind, filter_sides, send

SIGMA = (0.1, 2.0)  # range of the blur's standard deviation, in pixels
RADIUS = 8  # of the blur's kernel in pixels: four deviations of the strongest
JITTER = 0.3  # largest change of brightness, contrast and saturation
THRESHOLD = 128  # of solarisation
GREY, SOLARISE, BLUR = range(3)
BRIGHTNESS, CONTRAST, SATURATION = range(3)


def three_augment(images: torch.Tensor) -> torch.Tensor:
    """Makes each image grey, solarises it or blurs it, with equal probability; then jitters its colours.

    Crop and flip are not part of it. A grey image has no colour to lose.

    Args:
        images: uint8 (n, C, H, W), C = 1 or 3; not changed.
    """
    from torchvision.transforms.v2 import functional

    n = len(images)
    kind = torch.randint(3, (n,))
    sigma = torch.empty(n).uniform_(*SIGMA)
    order = torch.rand(n, 3).argsort(1)
    factors = torch.empty(n, 3).uniform_(1 - JITTER, 1 + JITTER)

    def apply(part: torch.Tensor, chosen: int) -> torch.Tensor:
        if chosen == GREY:
            return functional.rgb_to_grayscale(part, num_output_channels=part.shape[1])
        if chosen == SOLARISE:
            return functional.solarize(part, THRESHOLD)
        return blur(part, sigma[kind == BLUR])

    return jitter(by_kind(images, kind, apply), order, factors)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image, which is reflected at its borders; torchvision's up to one level.

    Args:
        images: uint8 (n, C, H, W).
        sigma: standard deviations in pixels (n,), on the CPU.
    """
    return filter_sides(images, *(_blurring(send(sigma, images.device), side) for side in images.shape[2:]))


def _blurring(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices (n, size, size) of a Gaussian filter: those of one that blurs the identity matrix."""
    radius = min(RADIUS, size - 1)  # more could not be reflected
    distance = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = (-0.5 * (distance / sigma[:, None]) ** 2).softmax(1)
    mirrored = F.pad(torch.eye(size, device=sigma.device), (radius, radius), mode="reflect")
    return torch.einsum("pok,nk->nop", mirrored.unfold(1, 2 * radius + 1, 1), kernel)


def jitter(images: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Adjusts brightness, contrast and saturation of each image, as torchvision does.

    Each adjustment blends the image with another one: with black, with its mean grey level, with itself in grey.

    Args:
        images: uint8 (n, C, H, W).
        order: int64 (n, 3), the adjustment at each place: `BRIGHTNESS`, `CONTRAST` or `SATURATION`; on the CPU.
        factors: shares of the image (n, 3), by adjustment; on the CPU.
    """
    from torchvision.transforms.v2 import functional

    if images.shape[1] == 1:
        factors = factors.index_fill(1, torch.tensor([SATURATION]), 1.0)  # blending equal images could round
    shares = factors.gather(1, order)
    result = images.float()
    for adjustment, share in zip(send(order, images.device).T, send(shares, images.device).T, strict=True):
        adjustment, share = adjustment.view(-1, 1, 1, 1), share.view(-1, 1, 1, 1)
        grey = functional.rgb_to_grayscale(result).floor_()
        mean = grey.mean((1, 2, 3), keepdim=True)
        other = torch.where(adjustment == CONTRAST, mean, grey).masked_fill_(adjustment == BRIGHTNESS, 0)
        result.mul_(share).addcmul_(other, 1 - share).clamp_(0, 255).floor_()
    return result.to(torch.uint8)
