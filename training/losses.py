"""Losses of logits (N, K) against class indices (N,) or soft targets (N, K). Each is a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_criterion(
    loss: str,
    num_classes: int,
    label_smoothing: float = 0.0,
    bce_target_threshold: float | None = None,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 2.0,
) -> Criterion:
    """Returns the loss function named `loss`.

    "CE" is cross-entropy with softmax. "BCE" is binary cross-entropy with logits for every class, summed over classes
    as in "ResNet strikes back" (arXiv:2110.00476): a mean over K classes would shrink the gradients K-fold. "focal" is
    the focal loss (arXiv:1708.02002) of softmax probabilities.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes.
        bce_target_threshold: for BCE, mixed targets above it become 1 and others 0, before smoothing.
        class_weights: (K,), the factor of an image's loss by its class; mixed images get the mixture. The sum is
            divided by N, not by the sum of the weights, so an image counts the same in every batch.
        focal_gamma: exponent of the focal loss.

    Raises ValueError for any other name.
    """
    if loss == "CE" and class_weights is None:
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    each = {"CE": cross_entropy, "BCE": binary_cross_entropy, "focal": focal_loss}.get(loss)
    if each is None:
        raise ValueError(f"loss {loss!r} is none of CE, BCE, focal")
    options = {"BCE": (bce_target_threshold,), "focal": (focal_gamma,)}.get(loss, ())

    def criterion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, num_classes)
        targets = targets.to(logits.dtype)
        losses = each(logits, targets, label_smoothing, *options)
        if class_weights is not None:
            losses = losses * (targets @ class_weights)[:, None]
        return losses.sum() / len(logits)

    return criterion


def smooth(targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Spreads a share of targets (N, K) evenly over the K classes."""
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1] if label_smoothing > 0 else targets


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """The terms (N, K) of cross-entropy against targets (N, K)."""
    return -smooth(targets, label_smoothing) * logits.log_softmax(1)


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, threshold: float | None
) -> torch.Tensor:
    """The terms (N, K) of binary cross-entropy against targets (N, K), which `threshold` first turns into 0 or 1."""
    if threshold is not None:  # smoothing lifts every class above a small threshold
        targets = (targets > threshold).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, smooth(targets, label_smoothing), reduction="none")


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, gamma: float) -> torch.Tensor:
    """The terms (N, K) of cross-entropy, each multiplied by (1 - p)^gamma, where p is the probability of its class."""
    log_p = logits.log_softmax(1)
    missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # keeps the gradient finite at p = 1
    return -smooth(targets, label_smoothing) * missing**gamma * log_p
