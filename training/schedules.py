"""What changes from step to step, in closed form: the learning rate, and how fast averaged weights forget.

Each is a function of the optimiser step, counted from 0, so a resumed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def learning_rate(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    lr: float,
    schedule: str,
    warmup_epochs: float = 0.0,
    min_lr: float = 0.0,
    step_size: int | None = None,
    milestones: Sequence[int] | None = None,
    gamma: float = 0.1,
    decay_epochs: float | None = None,
    start: int = 0,
) -> float:
    """Returns the learning rate of an optimiser step, out of steps_per_epoch * epochs.

    The warm-up grows linearly from above zero and reaches `lr` with its last step. Then "cosine" and "linear" fall from
    `lr` to `min_lr` over the remaining steps, "wsd" (warm-up, stable, decay) stays and falls linearly to `min_lr` over
    the last `decay_epochs`, "step" multiplies by `gamma` every `step_size` epochs, "multistep" does so at the epochs in
    `milestones`, and "constant" stays. Epochs count from the start of the schedule. "step" and "multistep" do not fall
    below `min_lr`.

    Args:
        start: epoch at which the schedule starts; it spans the epochs from there on.

    Raises ValueError for any other schedule.
    """
    step, epochs = max(0, step - start * steps_per_epoch), epochs - start
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    epoch, total = step // steps_per_epoch, steps_per_epoch * epochs
    if schedule in ("cosine", "linear"):
        progress = (step - warmup_steps) / (total - warmup_steps)
        share = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return min_lr + (lr - min_lr) * share
    if schedule == "wsd" and decay_epochs is not None:
        decay_steps = max(1, round(decay_epochs * steps_per_epoch))
        return min_lr + (lr - min_lr) * min(1.0, (total - step) / decay_steps)
    if schedule == "step" and step_size is not None:
        return max(min_lr, lr * gamma ** (epoch // step_size))
    if schedule == "multistep" and milestones is not None:
        return max(min_lr, lr * gamma ** sum(epoch >= milestone for milestone in milestones))
    if schedule == "constant":
        return lr
    raise ValueError(
        f"schedule {schedule!r} is none of cosine, linear, constant, wsd with decay_epochs, step with step_size,"
        " multistep with milestones"
    )


def ema_decay(step: int, decay: float, warmup: str = "ratio") -> float:
    """Returns what an exponential moving average keeps of itself at an optimiser step.

    Args:
        decay: the final value.
        warmup: how the decay grows, so that the average forgets the random initialisation. "ratio": (1 + step) /
            (10 + step), TensorFlow's; "power": 1 - (1 + step)^(-2/3), that of timm's ModelEmaV3; "none": it does not.

    Raises ValueError for any other warm-up.
    """
    if warmup == "none":
        return decay
    if warmup == "ratio":
        return min(decay, (1 + step) / (10 + step))
    if warmup == "power":
        return min(decay, 1 - (1 + step) ** (-2 / 3))
    raise ValueError(f"warm-up {warmup!r} is none of ratio, power, none")


def last_epochs_decay(step: int, steps_per_epoch: int, epochs: int, last: int) -> float:
    """Returns what the mean of the weights after each of the last epochs keeps of itself at an optimiser step.

    It is 1 but at the end of an epoch. Before the last `last` epochs the mean is the weights of the epoch that ended.
    """
    epoch, within = divmod(step + 1, steps_per_epoch)
    if within:
        return 1.0
    averaged = max(1, epoch - (epochs - last))
    return (averaged - 1) / averaged


def continues_exactly(schedule: str, step: int, steps_per_epoch: int, epochs: int, decay_epochs: float | None) -> bool:
    """Whether a run of `epochs`, after so many optimiser steps, has had the learning rates of every longer run."""
    if schedule == "wsd" and decay_epochs is not None:
        return step <= steps_per_epoch * epochs - max(1, round(decay_epochs * steps_per_epoch))
    return schedule in ("constant", "step", "multistep")
