"""How a run is trained, in plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from data_transform import Mix
from training.distillation import Distillation
from training.losses import Criterion


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained.

    Attributes:
        criterion: the loss of logits (N, K) against the labels.
        mix: CutMix and MixUp.
        learning_rate: of optimiser step (from 0).
        epochs: of the whole run.
        precision: "fp32", "bf16" or "fp16" for the forward pass; weights stay in float32.
        accumulate: batches per optimiser step.
        clip_grad: largest global L2 norm of the gradients, None for no bound.
        distillation: the student learns a teacher's answers too.
        roll_back: where numbers are no longer finite, training goes on from the last checkpoint and leaves out the
            batches that led there.
        smallest_batch: a batch that has fewer images left, because files cannot be read, is left out. None: files that
            cannot be read stop the run.
        select_by: the validation metric of the best epoch, "top1", "map", "f1" or "loss".
    """

    criterion: Criterion
    mix: Mix
    learning_rate: Callable[[int], float]
    seed: int
    epochs: int = 1
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: float | None = None
    distillation: Distillation | None = None
    roll_back: bool = False
    smallest_batch: int | None = None
    select_by: str = "top1"

    def objective(
        self,
        outputs: torch.Tensor | tuple[torch.Tensor, ...],
        images: torch.Tensor,
        targets: torch.Tensor,
        epoch: int,
        batch: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(what a step minimises, a mean over the batch; logits (N, K), the mean over the heads, detached).

        The loss is the mean of the heads' losses, or with distillation the labels' for the first head and the teacher's
        for the last. Without targets it is 0, of which every weight has a gradient.

        Args:
            outputs: logits (N, K) of the model, or a tuple of those of each head.
            images: (N, C, H, W), which a teacher gets too.
            targets: class indices (N,) or soft targets (N, K).
            epoch, batch: which images these are.
        """
        heads = [logits.float() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))]
        logits = heads[0] if len(heads) == 1 else torch.stack(heads).mean(0)
        if not len(targets):
            loss = 0 * logits.sum()
        elif self.distillation is not None:
            teacher_logits = self.distillation.teacher(images, epoch, batch)
            loss = self.distillation.loss(heads, teacher_logits, targets, self.criterion)
        else:
            losses = [self.criterion(logits, targets) for logits in heads]
            loss = losses[0] if len(heads) == 1 else torch.stack(losses).mean()
        return loss, logits.detach()
