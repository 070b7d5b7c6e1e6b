"""Measures a few steps of a training, to estimate the whole.

`python -m commands.dry_run SCRIPT FLAGS...` prints the result as JSON in its last line of output. It runs in its own
process, so that all memory is the run's, and writes nothing.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis import cost
from analysis.timing import synchronizer
from assembly import imbalance, memory_trial, trainee
from assembly.data import RunData, make_data, read_dataset
from image_datasets.dataset import LocatedDataset
from settings.groups import Settings
from settings.locate import locate_data
from settings.scripts import SCRIPTS
from settings.settle import settle
from settings.terminal import run_script
from training import devices
from training.devices import machine_errors_as_run_failed
from training.evaluation import evaluate
from training.loop import train_epoch
from training.progress import Progress

MAX_STEPS = 22
WARM_UP = 2  # first steps, which are not counted if there are more
SECONDS = 5.0  # no further step after this time, once one is counted
EVAL_BATCHES = 3


class EnoughSteps(Exception):
    """Ends the loop: enough steps are timed."""


class StepTimer:
    """Times the steps and ends the loop after a few. Takes the place of its saver."""

    def __init__(self, device: torch.device):
        self.synchronize = synchronizer(device)
        self.ends = [time.perf_counter()]

    def after_step(self) -> None:
        """Records the end of an optimiser step. Raises EnoughSteps after the last one."""
        self.synchronize()
        self.ends.append(time.perf_counter())
        steps = len(self.ends) - 1
        if steps >= MAX_STEPS or (steps > WARM_UP and self.ends[-1] - self.ends[0] >= SECONDS):
            raise EnoughSteps

    def seconds(self) -> float:
        """Returns the median seconds per step, without the first steps."""
        took = np.diff(self.ends).tolist()
        return statistics.median(took[WARM_UP:] if len(took) > WARM_UP else took)


def _evaluation_seconds(model: nn.Module, data: RunData, precision: str, device: torch.device, images: int) -> float:
    """Returns the seconds per image of evaluation, from the first few batches of the reported split."""
    count = min(len(data.dataset.test), EVAL_BATCHES * images)
    batches = data.eval_batches("test", device, images, data.dataset.test.subset(np.arange(count)))
    model.eval()
    began = 0.0
    for _ in range(2):  # the first is a warm-up
        began = time.perf_counter()
        evaluate(model, batches, len(data.dataset.class_names), precision)
        synchronizer(device)()
    return (time.perf_counter() - began) / count


def try_steps(settings: Settings, found: LocatedDataset) -> dict[str, Any]:
    """Measures a few steps of the run and discards them. Writes nothing.

    Leaves out a teacher, which may not be trained yet, and a resized copy of the images, which may not exist.

    Returns:
        step_seconds (per optimiser step), step_images, eval_seconds (per image), measuring_seconds (all steps
        together), peak_memory (bytes), train_images, val_images (doubled if averaged weights are scored too) and
        test_images.

    Raises BadRequest or RunFailed if the run would.
    """
    settings = settings.replace(teacher=None, cache_resized=None)
    hardware = settings.hardware
    with machine_errors_as_run_failed(lambda: f"--batch-size {settings.optimization.batch_size}"):
        device = devices.set_up(hardware.device, hardware.gpu, hardware.precision, hardware.eval_precision,
                                hardware.deterministic, tf32=True)  # fmt: skip
        dataset = read_dataset(settings.data, found)
        settings = settle(settings, dataset)
        averaged = trainee.averages(settings.optimization)
        data = make_data(settings.data, dataset, found, settings.model.model, hardware.seed_of_split, averaged)
        fitting = memory_trial.memory_probe(settings, data, device)
        images = memory_trial.settle_batch_size(settings.optimization.batch_size, len(data.train), device, fitting)
        devices.reset_peak_memory(device)
        trained, timer = _first_steps(settings.replace(batch_size=images), data, device)
        state, precision = trained.state, trained.config.precision
        eval_seconds = _evaluation_seconds(state.model, data, precision, device, images)
        return {
            "step_seconds": timer.seconds(),
            "step_images": images * settings.optimization.accumulate,
            "eval_seconds": eval_seconds,
            "measuring_seconds": time.perf_counter() - timer.ends[0],
            "peak_memory": devices.peak_memory(device),
            "train_images": len(data.train),
            "val_images": len(data.val or ()) * (2 if averaged else 1),
            "test_images": len(data.dataset.test),
        }


def _first_steps(settings: Settings, data: RunData, device: torch.device) -> tuple[trainee.Trainee, StepTimer]:
    """Builds the training and makes its first steps."""
    optimization, hardware = settings.optimization, settings.hardware
    num_classes = len(data.dataset.class_names)
    module = trainee.build_model(settings.model, optimization, data, hardware.seed).module
    cost.count_flops(module, data.img_size, data.dataset.in_chans, settings.model.model)  # or BadRequest
    precision = trainee.choose_precision(hardware, device, module)
    state = trainee.make_state(module, optimization, num_classes, device, precision, hardware.channels_last)
    size, dtype = optimization.batch_size, devices.input_dtype(device, precision)
    batches = data.train_batches(settings.augmentation, device, size, hardware.seed, dtype)
    weights = imbalance.class_weights(settings.loss.class_weights, data.train.targets, data.dataset.class_names)
    config = trainee.make_config(
        optimization, settings.loss, settings.augmentation, num_classes, len(batches.sizes), hardware.seed, precision,
        smallest_batch=1 if data.skip_bad else None, class_weights=imbalance.on_device(weights, device),
    )  # fmt: skip
    forward = trainee.make_forward(state.model, hardware.channels_last, hardware.compile, size, hardware.compile_mode)
    timer = StepTimer(device)
    with contextlib.suppress(EnoughSteps):
        progress = Progress()
        progress.start_epoch(0, 1, len(data.train), 0)
        train_epoch(state, forward, batches, config, progress, timer)
    return trainee.Trainee(state, forward, config), timer


def main(argv: list[str] | None = None) -> int:
    """Measures the run that a script's command line describes, and prints the result as JSON."""
    script, *flags = sys.argv[1:] if argv is None else argv
    asked = SCRIPTS[script].ask([*flags, "--overwrite"])  # nothing is deleted
    data, found = locate_data(asked.settings.data, asked.given)
    print(json.dumps(try_steps(asked.settings.replace(**vars(data)), found)))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
