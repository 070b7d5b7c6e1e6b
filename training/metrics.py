"""Sums of loss and accuracy over batches, and the full report on a split."""

from __future__ import annotations

import math
from typing import Any

import torch

from utils import widest_float

ECE_BINS = 15  # of equal width, as in Guo et al., arXiv:1706.04599


class Totals:
    """Sums of loss and correct predictions on the device. Adding a batch never waits for the device, reading does.

    With soft targets (N, K) a prediction counts as much as the target gives to its class: the expected agreement with a
    label drawn from the mixed target. top5 is None with five classes or fewer, where it would always be 1.

    Attributes:
        sums: images, loss, top-1 and top-5 hits.
        bad_step: the first step whose loss is not finite, or -1.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.top5 = num_classes > 5
        self.sums = torch.zeros(4, dtype=widest_float(device), device=device)
        self.bad_step = torch.full((), -1, device=device)

    def reset(self) -> None:
        """Starts again from zero."""
        self.sums.zero_()
        self.bad_step.fill_(-1)

    @torch.no_grad()
    def add(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, step: int, scaled: bool = False
    ) -> None:
        """Adds a batch.

        Args:
            loss: mean over the batch.
            logits: (N, K).
            targets: class indices (N,) or soft targets (N, K).
            step: becomes `bad_step` if it is the first whose loss is not finite.
            scaled: a loss scaler is at work, which skips steps that are not finite. They do not count here either.
        """
        best = logits.topk(5 if self.top5 else 1).indices
        hits = targets.gather(1, best) if targets.ndim == 2 else (best == targets[:, None]).to(self.sums.dtype)
        count = torch.full((), len(logits), dtype=self.sums.dtype, device=self.sums.device)
        sums = torch.stack([count, loss.to(count.dtype) * len(logits), hits[:, 0].sum().to(count.dtype),
                            hits.sum().to(count.dtype)])  # fmt: skip
        if scaled:
            self.sums += torch.where(torch.isfinite(loss), sums, 0)
            return
        self.sums += sums
        bad = ~torch.isfinite(loss) & (self.bad_step < 0)
        self.bad_step = torch.where(bad, step, self.bad_step)

    def first_bad_step(self) -> int | None:
        """The first step whose loss is not finite. Waits for the device."""
        step = int(self.bad_step)
        return None if step < 0 else step

    def means(self) -> dict[str, Any]:
        """Mean loss, top1 and top5, as fractions of 1; NaN without images. Waits for the device."""
        count, loss, top1, top5 = self.sums.tolist()
        count = count or math.nan
        return {"loss": loss / count, "top1": top1 / count, "top5": top5 / count if self.top5 else None}


def report(logits: torch.Tensor, targets: torch.Tensor, class_names: list[str]) -> dict:
    """Returns the metrics of a split, as fractions of 1.

    These are top1, top5, loss (cross-entropy), macro-averaged precision, recall and f1, map (mean over classes of the
    average precision), ece (15 bins), per_class_accuracy by name (None for a class without images), and confusion, a
    (K, K) tensor of counts with the true class in rows. Means over classes leave out classes without images.

    Args:
        logits: (N, K).
        targets: class indices (N,).
    """
    from torchmetrics.functional import classification as tm

    logits, targets = logits.float().cpu(), targets.cpu()
    k = len(class_names)
    probabilities = logits.softmax(1)
    predictions = logits.argmax(1)
    confusion = tm.multiclass_confusion_matrix(predictions, targets, num_classes=k)
    present = confusion.sum(1) > 0
    recall = of_classes("recall", logits, targets, k).tolist()
    return {
        "top1": (predictions == targets).double().mean().item(),
        "top5": (logits.topk(5).indices == targets[:, None]).any(1).double().mean().item() if k > 5 else None,
        "loss": torch.nn.functional.cross_entropy(logits.double(), targets).item(),
        **{name: mean_of_classes(name, logits, targets, k) for name in ("precision", "recall", "f1", "map")},
        "ece": tm.multiclass_calibration_error(probabilities, targets, num_classes=k, n_bins=ECE_BINS).item(),
        "per_class_accuracy": {name: recall[i] if present[i] else None for i, name in enumerate(class_names)},
        "confusion": confusion,
    }


def mean_of_classes(name: str, logits: torch.Tensor, targets: torch.Tensor, num_classes: int) -> float:
    """Mean of "precision", "recall", "f1" or "map" (average precision) over the classes that have images.

    Args:
        logits: (N, num_classes) on the CPU.
        targets: class indices (N,).
    """
    present = torch.bincount(targets, minlength=num_classes) > 0
    return of_classes(name, logits, targets, num_classes)[present].double().mean().item()


def of_classes(name: str, logits: torch.Tensor, targets: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The precision, recall, f1 or map of each class, (num_classes,); 0 or NaN for a class without images."""
    from torchmetrics.functional import classification as tm

    functions = {
        "precision": tm.multiclass_precision,
        "recall": tm.multiclass_recall,
        "f1": tm.multiclass_f1_score,
        "map": tm.multiclass_average_precision,
    }
    predictions = logits.float().softmax(1) if name == "map" else logits.argmax(1)
    return functions[name](predictions, targets, num_classes=num_classes, average="none")
