"""Distillation: a student learns from the labels and from a teacher's logits (Touvron et al., arXiv:2012.12877,
section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.losses import Criterion


@dataclass(frozen=True)
class Distillation:
    """A teacher, and how the student learns from it.

    The class token learns the labels with weight 1 - alpha, the distillation token the teacher with weight alpha. A
    model with one head learns both with it.

    Attributes:
        teacher: maps the student's normalised images (N, C, H, W), the epoch and the batch's number to logits (N, K).
        kind: "soft" or "hard", see `distillation_loss`.
        alpha: weight of the teacher, from 0 to 1.
        temperature: divides the logits of both in the soft loss.
    """

    teacher: Callable[[torch.Tensor, int, int], torch.Tensor]
    kind: str
    alpha: float
    temperature: float

    def loss(
        self, heads: list[torch.Tensor], teacher_logits: torch.Tensor, targets: torch.Tensor, criterion: Criterion
    ) -> torch.Tensor:
        """Returns the weighted sum of both parts, a mean over the batch.

        Args:
            heads: logits (N, K) of the class token and, if there is one, of the distillation token.
            teacher_logits: (N, K).
            targets: class indices (N,) or soft targets (N, K).
            criterion: the loss against `targets`.
        """
        from_teacher = distillation_loss(self.kind, heads[-1], teacher_logits, self.temperature)
        return (1 - self.alpha) * criterion(heads[0], targets) + self.alpha * from_teacher


def distillation_loss(
    kind: str, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The teacher's part of equations 2 and 3, a mean over the batch.

    "soft": temperature² KL(softmax(teacher / temperature) || softmax(student / temperature)) as in Hinton et al.,
    arXiv:1503.02531. "hard": cross-entropy against the teacher's most probable class.

    Args:
        logits, teacher_logits: (N, K).
    """
    if kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(1))
    if kind != "soft":
        raise ValueError(f"distillation {kind!r} is neither soft nor hard")
    student, teacher = (values.div(temperature).log_softmax(1) for values in (logits, teacher_logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
