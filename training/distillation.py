"""Distillation: a student also learns from a teacher's answers to the images that it sees (Touvron et al.,
arXiv:2012.12877, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.losses import Criterion


@dataclass(frozen=True)
class Distillation:
    """How the teacher's answers enter the loss.

    The class token (or the only head) learns from the labels with weight 1 - alpha, the distillation token (or the same
    head) from the teacher with weight alpha.

    Attributes:
        teacher: normalised images of the student (N, C, H, W), epoch and number of the batch -> logits (N, K).
        kind: "soft" or "hard", see `distillation_loss`.
    """

    teacher: Callable[[torch.Tensor, int, int], torch.Tensor]
    kind: str
    alpha: float
    temperature: float

    def loss(
        self, heads: list[torch.Tensor], teacher_logits: torch.Tensor, targets: torch.Tensor, criterion: Criterion
    ) -> torch.Tensor:
        """Args: heads: logits of the class token and, where there is one, of the distillation token; teacher_logits: (N, K)."""
        from_teacher = distillation_loss(self.kind, heads[-1], teacher_logits, self.temperature)
        return (1 - self.alpha) * criterion(heads[0], targets) + self.alpha * from_teacher


def distillation_loss(
    kind: str, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Equations 2 and 3 without the part that the labels have, a mean over the batch.

    "soft": temperature² KL(softmax(teacher / temperature) || softmax(student / temperature)) as in Hinton et al.,
    arXiv:1503.02531. "hard": cross-entropy with the class that the teacher finds most probable.

    Args:
        logits, teacher_logits: (N, K).
    """
    if kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(1))
    if kind != "soft":
        raise ValueError(f"distillation {kind!r} is neither soft nor hard")
    student, teacher = (values.div(temperature).log_softmax(1) for values in (logits, teacher_logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
