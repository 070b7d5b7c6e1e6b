"""Losses of logits (N, K) against class indices (N,) or soft targets (N, K). Each is a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_criterion(
    loss: str, num_classes: int, label_smoothing: float = 0.0, bce_target_threshold: float | None = None
) -> Criterion:
    """Returns the loss function named `loss`.

    "CE" is cross-entropy with softmax. "BCE" is binary cross-entropy with logits for every class, summed over classes
    as in "ResNet strikes back" (arXiv:2110.00476): a mean over K classes would shrink the gradients K-fold.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes.
        bce_target_threshold: for BCE, mixed targets above it become 1 and others 0, before smoothing.

    Raises ValueError for any other name.
    """
    if loss == "CE":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if loss != "BCE":
        raise ValueError(f"loss {loss!r} is neither CE nor BCE")

    def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, num_classes)
        targets = targets.to(logits.dtype)
        if bce_target_threshold is not None:  # smoothing lifts every class above a small threshold
            targets = (targets > bce_target_threshold).to(logits.dtype)
        if label_smoothing > 0:
            targets = targets * (1 - label_smoothing) + label_smoothing / num_classes
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)

    return binary_cross_entropy
