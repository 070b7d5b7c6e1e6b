"""What a few steps of a training take, for an estimate of the whole."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from image_datasets.batches import EvalBatches
from training.data import Data
from training.loop import evaluate

MOST_STEPS = 22
WARM_UP = 2  # steps that are not counted, of more than this many
SECONDS = 5.0  # after which no further step is made, once there is one to count
EVAL_BATCHES = 3


class Enough(Exception):
    """There are steps enough."""


class StepTimer:
    """Stands in the saver's place in the loop, and ends it after a few steps."""

    def __init__(self, device: torch.device):
        self.device = device
        self.ends = [time.perf_counter()]

    def after_step(self) -> None:
        """Called after each optimiser step. Raises Enough."""
        synchronize(self.device)
        self.ends.append(time.perf_counter())
        steps = len(self.ends) - 1
        if steps >= MOST_STEPS or (steps > WARM_UP and self.ends[-1] - self.ends[0] >= SECONDS):
            raise Enough

    def seconds(self) -> float:
        """Of a step, the median without the first ones."""
        took = np.diff(self.ends).tolist()
        return statistics.median(took[WARM_UP:] if len(took) > WARM_UP else took)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def evaluation_seconds(
    model: nn.Module, data: Data, precision: str, workers: int, batch_arguments: dict[str, Any]
) -> float:
    """Per image, from the first few batches of the reported split."""
    count = min(len(data.dataset.test), EVAL_BATCHES * batch_arguments["batch_size"])
    batches = EvalBatches(data.dataset.test.subset(np.arange(count)), workers=workers, **batch_arguments)
    model.eval()
    for _ in range(2):  # the first is a warm-up
        began = time.perf_counter()
        evaluate(model, batches, len(data.dataset.class_names), precision)
        synchronize(batch_arguments["device"])
    return (time.perf_counter() - began) / count
