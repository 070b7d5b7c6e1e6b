"""Mixes two images: CutMix and MixUp of a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

GROUP = 8  # images mixed at once on a CPU


class Mix:
    """CutMix (arXiv:1905.04899) and MixUp (arXiv:1710.09412), with torchvision's draws.

    Each image is mixed with the previous one of the batch, the first with the last.

    Args:
        kind: "none", "cutmix", "mixup", or "cutmix+mixup": one of the two per batch, with equal probability.
        cutmix_alpha, mixup_alpha: both parameters of the Beta distribution of the mixing share.
        probability: of mixing a batch at all.
        off_epoch: no batch is mixed from this epoch on, counted from 0.
    """

    def __init__(
        self,
        kind: str,
        num_classes: int,
        cutmix_alpha: float,
        mixup_alpha: float,
        probability: float,
        off_epoch: float = math.inf,
    ):
        self.num_classes = num_classes
        self.probability, self.off_epoch = probability, off_epoch
        self.mixers = []
        if kind != "none":
            from torchvision.transforms import v2

            if "cutmix" in kind:
                self.mixers.append(v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes))
            if "mixup" in kind:
                self.mixers.append(v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes))

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, epoch: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes images (N, C, H, W) in place.

        Args:
            targets: class indices (N,); without any nothing is mixed.

        Returns the images and soft targets (N, num_classes); `targets` unchanged where no batch of the epoch is mixed.
        """
        if not self.mixers or epoch >= self.off_epoch or not len(targets):
            return images, targets
        one_hot = F.one_hot(targets, self.num_classes).float()
        if torch.rand(()) >= self.probability:
            return images, one_hot
        mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
        drawn = mixer.make_params([images])
        if "box" in drawn:
            x1, y1, x2, y2 = drawn["box"]
            _mix_with_previous(images[..., y1:y2, x1:x2], 1.0)
            share = drawn["lam_adjusted"]
        else:
            share = drawn["lam"]
            _mix_with_previous(images, 1 - share)
        return images, one_hot.lerp(one_hot.roll(1, 0), 1 - share)


def _mix_with_previous(images: torch.Tensor, weight: float) -> None:
    """Blends each image (N, C, H, W) in place with the previous one, the first with the last.

    Args:
        weight: share of the previous image.
    """
    if images.device.type != "cpu":
        rows = images.permute(0, 2, 3, 1)  # contiguous if the images are channels-last, so that roll keeps their layout
        rows.lerp_(rows.roll(1, 0), weight)  # copying the batch is cheap there
        return
    if images.stride(1) == 1:
        images = images.permute(0, 2, 3, 1).flatten(2)  # channels-last: a row of pixels is one run
    last = images[-1].clone()
    for end in range(len(images), 1, -GROUP):  # in groups: large temporaries cost page faults and do not fit the cache
        start = max(1, end - GROUP)
        images[start:end].lerp_(images[start - 1 : end - 1].clone(), weight)
    images[0].lerp_(last, weight)
