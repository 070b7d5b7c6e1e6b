"""The suite's way, set up as commands/train.py sets up a run."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from analysis.speed import SteadyTrainer
from assembly import trainee
from data_transform import Augment
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.dataset import Dataset
from settings.groups import Settings
from training import devices


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
        optimizer: "sgd", "muon-sgd" or "adamw".
        mix: how two images are mixed, a value of --augmentation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str,
        device: torch.device,
        num_classes: int,
        precision: str,
        compile_model: bool,
        mix: str = "none",
    ):
        lr, weight_decay = (1e-4, 0.05) if optimizer == "adamw" else (0.01, 5e-4)
        flags = {"optimizer": optimizer, "lr": lr, "weight_decay": weight_decay, "augmentation": mix}
        settings = Settings.of({**flags, "schedule": "constant"})
        state = trainee.make_state(model, settings.optimization, num_classes, device, precision)
        config = trainee.make_config(
            settings.optimization, settings.loss, settings.augmentation, num_classes, 1, seed=0, precision=precision
        )
        super().__init__(state, trainee.make_forward(state.model, True, compile_model), config)
        self.model, self.optimizer = state.model, state.optimizer


def set_up(device: str | None) -> torch.device:
    """Sets up the libraries as for a run. Returns its device."""
    return devices.set_up(device, None, tf32=True)


machine_errors_as_run_failed = functools.partial(
    devices.machine_errors_as_run_failed, lambda: "this batch; --batch-size makes it smaller"
)
