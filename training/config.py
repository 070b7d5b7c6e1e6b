"""How the steps of a training are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from data_transform import Mix
from training.distillation import Distillation
from training.losses import Criterion


@dataclass(frozen=True)
class TrainConfig:
    """How the steps are made.

    Attributes:
        learning_rate: of optimiser step (from 0).
        precision: "fp32", "bf16" or "fp16" for the forward pass; weights stay in float32.
        accumulate: batches per optimiser step.
        clip_grad: largest global L2 norm of the gradients, None for no bound.
        distillation: the student learns a teacher's answers too.
        roll_back: where numbers are no longer finite, training goes on from the last checkpoint and leaves out the
            batches that led there.
        smallest_batch: a batch that has fewer images left, because files cannot be read, is left out. None: files that
            cannot be read stop the run.
    """

    criterion: Criterion
    mix: Mix
    learning_rate: Callable[[int], float]
    seed: int
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: float | None = None
    distillation: Distillation | None = None
    roll_back: bool = False
    smallest_batch: int | None = None

    def loss(self, heads: list[torch.Tensor], answers: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the heads' losses, or with distillation the labels' for the first and the teacher's for the last.

        Args:
            heads: logits (N, K) of each; answers: the teacher's logits, where there is one.
        """
        if self.distillation is not None:
            return self.distillation.loss(heads, answers, targets, self.criterion)
        losses = [self.criterion(logits, targets) for logits in heads]
        return losses[0] if len(heads) == 1 else torch.stack(losses).mean()
