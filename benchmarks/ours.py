"""The suite's way, set up as commands/train.py sets up a run."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from analysis.speed import SteadyTrainer
from data_transform import Augment, Mix
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.registry import Dataset
from training import devices
from training.config import TrainConfig
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import make_optimizer, parameter_groups
from training.state import RunState


@dataclass
class RepeatedBatches:
    """Evaluation batches, repeated `count` times, as if the split were that much larger."""

    batches: EvalBatches
    count: int

    @property
    def device(self) -> torch.device:
        return self.batches.device

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self.count):
            yield from self.batches


def resident_batches(
    dataset: Dataset, img_size: int, batch_size: int, device: torch.device, erasing: float = 0.0
) -> ResidentTrainBatches:
    """Training batches of small images with random crop (padding: an eighth of the side), flip and erasing."""
    augment = Augment(crop="pad", padding=dataset.side // 8, flip=True, erasing=erasing)
    return ResidentTrainBatches(dataset.train, augment, img_size, dataset.mean, dataset.std, device, batch_size, seed=0)


def streamed_batches(
    dataset: Dataset, img_size: int, batch_size: int, device: torch.device, workers: int
) -> StreamedTrainBatches:
    """Training batches of image files with random resized crop and flip."""
    augment = Augment(crop="resized", flip=True)
    return StreamedTrainBatches(
        dataset.train, augment, img_size, dataset.mean, dataset.std, device, batch_size, seed=0, workers=workers
    )


class Trainer(SteadyTrainer):
    """A model, its optimiser and the suite's loop.

    Args:
        model: in any memory format; it becomes channels-last.
        optimizer: "sgd" or "adamw".
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str,
        device: torch.device,
        num_classes: int,
        precision: str,
        compile_model: bool,
    ):
        self.model = model = model.to(device, memory_format=torch.channels_last)
        lr, weight_decay = (0.01, 5e-4) if optimizer == "sgd" else (1e-4, 0.05)
        groups = parameter_groups(model, weight_decay)
        self.optimizer = make_optimizer(groups, optimizer, lr, momentum=0.9, nesterov=False)
        mix = Mix("none", num_classes, 1.0, 1.0, 1.0)
        super().__init__(
            RunState(model, self.optimizer, Totals(num_classes, device)),
            torch.compile(model) if compile_model else model,
            TrainConfig(make_criterion("CE", num_classes), mix, lambda step: lr, seed=0, precision=precision),
        )


def set_up(device: str | None) -> torch.device:
    """Sets up the libraries as for a run. Returns its device."""
    return devices.set_up(device, None)


machine_errors_as_run_failed = functools.partial(
    devices.machine_errors_as_run_failed, lambda: "this batch; --batch-size makes it smaller"
)
