"""What a few steps of a training take, for an estimate of the whole."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from image_datasets.batches import EvalBatches
from image_datasets.dataset import LocatedDataset
from training import processes, run
from training.data import Data, batch_arguments, load_data, make_train_batches
from training.loop import evaluate, train_epoch
from training.run_directory import RunDirectory
from training.timing import synchronizer
from training.tracking import Progress

MOST_STEPS = 22
WARM_UP = 2  # steps that are not counted, of more than this many
SECONDS = 5.0  # after which no further step is made, once there is one to count
EVAL_BATCHES = 3


class Enough(Exception):
    """There are steps enough."""


class StepTimer:
    """Stands in the saver's place in the loop, and ends it after a few steps."""

    def __init__(self, device: torch.device):
        self.synchronize = synchronizer(device)
        self.ends = [time.perf_counter()]

    def after_step(self) -> None:
        """Called after each optimiser step. Raises Enough."""
        self.synchronize()
        self.ends.append(time.perf_counter())
        steps = len(self.ends) - 1
        if steps >= MOST_STEPS or (steps > WARM_UP and self.ends[-1] - self.ends[0] >= SECONDS):
            raise Enough

    def seconds(self) -> float:
        """Of a step, the median without the first ones."""
        took = np.diff(self.ends).tolist()
        return statistics.median(took[WARM_UP:] if len(took) > WARM_UP else took)


def _evaluation_seconds(model: nn.Module, data: Data, precision: str, workers: int, arguments: dict[str, Any]) -> float:
    """Per image, from the first few batches of the reported split."""
    count = min(len(data.dataset.test), EVAL_BATCHES * arguments["batch_size"])
    batches = EvalBatches(data.dataset.test.subset(np.arange(count)), workers=workers, **arguments)
    model.eval()
    for _ in range(2):  # the first is a warm-up
        began = time.perf_counter()
        evaluate(model, batches, len(data.dataset.class_names), precision)
        synchronizer(arguments["device"])()
    return (time.perf_counter() - began) / count


def measure(s: SimpleNamespace, found: LocatedDataset) -> dict[str, Any]:
    """A few steps of the run, which are thrown away: step_seconds (of the optimiser), step_images, eval_seconds (per
    image), measuring_seconds (all steps together), peak_memory (bytes), train_images, val_images (twice as many where
    averaged weights are scored too) and test_images. Writes nothing.

    A teacher, which need not be trained yet, and a resized copy of the images, which need not be there, are left out.
    """
    s.teacher, s.cache_resized = None, None
    with processes.one_line_failures(lambda: f"--batch-size {s.batch_size}"):
        device = processes.set_up(s.device, s.gpu, s.precision, s.eval_precision, s.deterministic)
        data = load_data(s, found)
        run.settle_batch_size(s, data, device, functools.partial(run.trial_step, s, data, device))
        state, *_ = run.make_state(s, data, device, RunDirectory(Path(s.runs_dir) / s.run_name))
        batches = make_train_batches(s, data, device)
        smallest = None if s.on_bad_image == "error" else 1
        recipe = run.make_recipe(s, data, s.precision, len(batches.sizes), None, smallest)
        forward = run.make_forward(state.model, s.channels_last, s.compile)
        timer = StepTimer(device)
        with contextlib.suppress(Enough):
            progress = Progress()
            progress.start_epoch(0, 1, len(data.train), 0)
            train_epoch(state, forward, batches, recipe, progress, timer)
        eval_seconds = _evaluation_seconds(
            state.model, data, s.precision, s.num_workers, batch_arguments(s, data, device, "test")
        )
        return {
            "step_seconds": timer.seconds(),
            "step_images": s.batch_size * s.accumulate,
            "eval_seconds": eval_seconds,
            "measuring_seconds": time.perf_counter() - timer.ends[0],
            "peak_memory": processes.peak_memory(device),
            "train_images": len(data.train),
            "val_images": len(data.val or ()) * (1 if s.ema is None else 2),
            "test_images": len(data.dataset.test),
        }
