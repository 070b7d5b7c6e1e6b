"""Policies: operations drawn at random for each image, from torchvision's tables or DeiT III's three."""

from __future__ import annotations

from typing import Any

import torch

from augmentation.one_batch import by_kind
from augmentation.options import Augment
from augmentation.three_augment import three_augment

AUTO_AUGMENT_LEVELS = 10  # a constant inside torchvision's AutoAugment


def library_policy(augment: Augment) -> Any:
    """Returns torchvision's transform of one image for a policy other than "none" and "3augment"."""
    from torchvision.transforms import v2

    if augment.policy == "randaugment":
        return v2.RandAugment(augment.ops, augment.magnitude)
    return {"trivialaugment": v2.TrivialAugmentWide, "autoaugment": v2.AutoAugment}[augment.policy]()


def policy_batch(images: torch.Tensor, augment: Augment) -> torch.Tensor:
    """Applies a policy other than "none", with draws of its own for each image, and torchvision's distribution.

    RandAugment (arXiv:1909.13719) draws operations of a fixed magnitude, TrivialAugment (arXiv:2103.10158, wide) one
    operation and its magnitude, AutoAugment (arXiv:1805.09501, table 9) one of ImageNet's pairs of operations.

    Args:
        images: uint8 (n, C, H, W); not changed.
    """
    if augment.policy == "3augment":
        return three_augment(images)
    policy, n = library_policy(augment), len(images)
    if augment.policy == "randaugment":
        for _ in range(policy.num_ops):
            operation = torch.randint(len(policy._AUGMENTATION_SPACE), (n,))
            level = torch.full((n,), policy.magnitude)
            images = _apply(images, policy, operation, level, policy.num_magnitude_bins)
        return images
    if augment.policy == "trivialaugment":
        operation = torch.randint(len(policy._AUGMENTATION_SPACE), (n,))
        level = torch.randint(policy.num_magnitude_bins, (n,))
        return _apply(images, policy, operation, level, policy.num_magnitude_bins)
    names = list(policy._AUGMENTATION_SPACE)
    pair = torch.randint(len(policy._policies), (n,))
    for step in zip(*policy._policies, strict=True):  # the first operations of all pairs, then the second ones
        operations, probabilities, levels = zip(*step, strict=True)
        taken = torch.rand(n) <= torch.tensor(probabilities)[pair]
        operation = torch.tensor([names.index(name) for name in operations])[pair]
        level = torch.tensor([level or 0 for level in levels])[pair]
        images = _apply(images, policy, operation.where(taken, len(names)), level, AUTO_AUGMENT_LEVELS)
    return images


def _apply(
    images: torch.Tensor, policy: Any, operation: torch.Tensor, level: torch.Tensor, levels: int
) -> torch.Tensor:
    """Applies one operation to each image, with a random sign where it has signs.

    Images of one operation, level and sign form one batch for it.

    Args:
        policy: torchvision's transform, which has the table of operations.
        operation: int64 (n,), places in that table; the place after its end is no operation.
        level: int64 (n,), places in the operation's list of magnitudes.
        levels: length of that list.
    """
    height, width = images.shape[-2:]
    table = {**policy._AUGMENTATION_SPACE, "Identity": (lambda *_: None, False)}
    names = list(table)
    magnitudes = [of(levels, height, width) for of, _ in table.values()]
    graded = torch.tensor([values is not None for values in magnitudes])
    signed = torch.tensor([has_sign for _, has_sign in table.values()])
    negative = (torch.rand(len(images)) <= 0.5) & signed[operation]
    kind = 2 * (levels * operation + level * graded[operation]) + negative

    def apply(part: torch.Tensor, kind: int) -> torch.Tensor:
        operation, level = divmod(kind // 2, levels)
        values = magnitudes[operation]
        magnitude = 0.0 if values is None else float(values[level])
        return policy._apply_image_or_video_transform(
            part,
            names[operation],
            -magnitude if kind % 2 else magnitude,
            interpolation=policy.interpolation,
            fill=policy._fill,
        )

    return by_kind(images, kind, apply)
