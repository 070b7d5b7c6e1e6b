"""How a run is trained, in plain values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from data_transform import Mix
from training.distillation import Distillation
from training.losses import Criterion
from training.optim import Clip


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained.

    Attributes:
        criterion: loss of logits (N, K) against the labels.
        mix: CutMix and MixUp. If it mixes, class indices (N,) become soft targets (N, K).
        learning_rate: learning rate of an optimiser step, counted from 0.
        average_decay: what averaged weights keep of themselves at an optimiser step.
        epochs: length of the whole run.
        precision: "fp32", "bf16" or "fp16" for the forward pass; weights stay in float32.
        accumulate: batches per optimiser step.
        clip_grad: bounds the gradients, see `training.optim.make_clip`; or None.
        distillation: the teacher, and how the student learns from it; or None.
        roll_back: if numbers are no longer finite, continue from the last checkpoint without the batches that led
            there.
        smallest_batch: a batch with fewer readable images is left out. None: a file that cannot be read stops the run.
        select_by: validation metric that selects the best epoch, "top1", "map", "f1" or "loss".
        patience: epochs without a better one after which training stops.
        class_names: of imbalanced classes: validation scores each of them too; or None.
    """

    criterion: Criterion
    mix: Mix
    learning_rate: Callable[[int], float]
    seed: int
    epochs: int = 1
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: Clip | None = None
    distillation: Distillation | None = None
    roll_back: bool = False
    smallest_batch: int | None = None
    select_by: str = "top1"
    average_decay: Callable[[int], float] = lambda step: 1.0
    patience: float = math.inf
    class_names: list[str] | None = None

    def objective(
        self,
        outputs: torch.Tensor | tuple[torch.Tensor, ...],
        images: torch.Tensor,
        targets: torch.Tensor,
        epoch: int,
        batch: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss that a step minimises, a mean over the batch, and the mean of the heads' logits (N, K).

        The loss is the mean over the heads. With distillation the first head learns the labels, the last one the
        teacher. Without targets the loss is 0, and so is the gradient of every weight. The logits are detached.

        Args:
            outputs: logits (N, K) of the model, or a tuple with the logits of each head.
            images: (N, C, H, W), for the teacher.
            targets: class indices (N,) or soft targets (N, K).
            epoch, batch: position of the batch, for a cached teacher.
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
