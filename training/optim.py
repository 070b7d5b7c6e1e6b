"""Optimisers, and learning rates as closed-form functions of the step."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from utils import BadRequest


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float, nesterov: bool, decay_all: bool
) -> torch.optim.Optimizer:
    """sgd, adam and adamw are torch's, fused where it has that; any other name is timm's of that name.
    Raises BadRequest for one that cannot be used on this machine.

    Biases and the parameters of normalisation layers (all with one dimension) get no weight decay unless `decay_all`.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trainable if p.ndim > 1 or decay_all]
    vectors = [p for p in trainable if not (p.ndim > 1 or decay_all)]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trainable)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum)
    except Exception as error:  # some need packages or devices that are not here
        raise BadRequest(f"--optimizer {name}: cannot be used here ({type(error).__name__}: {error})") from None


def learning_rate(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    schedule: str,
    warmup_epochs: float = 0.0,
    min_lr: float = 0.0,
    step_size: int | None = None,
    milestones: list[int] | None = None,
    gamma: float = 0.1,
) -> float:
    """The learning rate of optimiser step `step` (from 0), out of steps_per_epoch * epochs.

    The warm-up grows linearly and reaches `lr` with its last step; its first is above zero. Then "cosine" falls from
    `lr` to `min_lr` over the remaining steps; "step" multiplies by `gamma` every `step_size` epochs, "multistep" at the
    epochs in `milestones`, counted from the start of training, both not below `min_lr`; "constant" stays.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    epoch = step // steps_per_epoch
    if schedule == "cosine":
        progress = (step - warmup_steps) / (steps_per_epoch * epochs - warmup_steps)
        return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "step":
        return max(min_lr, lr * gamma ** (epoch // step_size))
    if schedule == "multistep":
        return max(min_lr, lr * gamma ** sum(epoch >= milestone for milestone in milestones))
    if schedule == "constant":
        return lr
    raise ValueError(f"schedule {schedule!r} is none of cosine, step, multistep, constant")


class ModelEMA:
    """An exponential moving average of a model's weights and buffers.

    The decay grows as (1 + step) / (10 + step) up to its final value, so that the random initialisation is soon
    forgotten in short trainings too.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Args: step: optimiser steps taken before this one."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_([average for average, _ in floats], [value for _, value in floats], weight)
        for average, value in pairs:
            if not average.is_floating_point():  # batch normalisation's counters
                average.copy_(value)
