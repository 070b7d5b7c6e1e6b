"""What a model costs on the machine at hand: images per second in training and inference, latency, memory."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis import cost
from image_datasets.batches import ResidentTrainBatches
from records.run_directory import versions
from training import batch_size as fitting
from training.config import TrainConfig
from training.devices import autocast, device_name
from training.evaluation import evaluate
from training.loop import train_epoch
from training.progress import Progress
from training.state import RunState
from utils import RunFailed, sides

REPEATS = 5  # measurements of each rate, of which the median counts
SECONDS = 0.3  # length of one, where a batch takes less
SINGLES = 50  # images whose latency is measured


@dataclass
class ReadyBatches:
    """One batch that is on the device already, given `count` times: batches that cost nothing."""

    images: torch.Tensor
    targets: torch.Tensor
    count: int

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def sizes(self) -> list[int]:
        return [len(self.targets)] * self.count

    local_sizes = sizes
    rank, world_size = 0, 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(start, self.count):
            yield self.images, self.targets


class SteadyTrainer:
    """The training loop over any number of batches, as often as it is wanted; nothing is shown or saved."""

    def __init__(self, state: RunState, forward: Callable[[torch.Tensor], torch.Tensor], recipe: TrainConfig):
        self.state, self.forward, self.recipe = state, forward, recipe
        self.progress = Progress()
        self.progress.terminal, self.progress.interval = False, math.inf  # a bar would tear what is printed
        self.progress.start_epoch(0, 1, 0, 0)

    def train(self, batches: ReadyBatches | ResidentTrainBatches) -> dict[str, float | None]:
        """One epoch; returns its loss, top1 and top5."""
        self.state.batch = 0
        train_epoch(self.state, self.forward, batches, self.recipe, self.progress)
        means = self.state.totals.means()
        self.state.totals.reset()
        return means


@dataclass(frozen=True)
class CostSubject:
    """A trained model whose cost is measured.

    Attributes:
        model: on `device`, in channels-last memory and eval mode; it is not changed.
        make_trainer: trains a copy of the model as its run did, at a rate of 0.
        precision: "fp32", "bf16" or "fp16".
    """

    model: nn.Module
    make_trainer: Callable[[], SteadyTrainer]
    name: str
    num_classes: int
    img_size: int | Sequence[int]
    in_chans: int
    device: torch.device
    precision: str


def measure_cost(subject: CostSubject, most: int) -> dict[str, Any]:
    """Rates, latency and memory, with lowest and highest measurement in "spread".

    A training step is that of the run's loop with its loss, optimiser and averaged weights, on a batch that lies on the
    device: without reading and augmenting images, without a teacher, and not compiled. Inference is the evaluation's,
    on such a batch too. Peak memory is that of the first step: the model, what it keeps for the backward pass,
    gradients, and the optimiser's state.

    Args:
        most: images per batch; where these do not fit into memory, a half of it, a quarter, ...

    Raises RunFailed where not even one image fits, and BadRequest where one alone is too small a batch.
    """
    device, first_step = subject.device, functools.partial(_first_step, subject)
    size = fitting.largest_that_fits(first_step, most, device)
    if size is None:
        raise RunFailed("not enough memory for a batch of one image")
    fitting.release()
    peak, trainer = peak_memory(device, lambda: first_step(size))
    batch, image = _random_batch(subject, size), _random_batch(subject, 1).images

    def train(steps: int) -> None:
        trainer.train(replace(batch, count=steps))

    def infer(steps: int) -> None:
        evaluate(subject.model, replace(batch, count=steps), subject.num_classes, subject.precision)

    @torch.inference_mode()
    def infer_one() -> None:
        with autocast(device, subject.precision):
            subject.model(image)

    found = {
        "train_images_per_second": [size / seconds for seconds in _seconds_per_step(train)],
        "inference_images_per_second": [size / seconds for seconds in _seconds_per_step(infer)],
        "inference_latency_ms": [1000 * seconds for seconds in _seconds(infer_one, SINGLES)],
    }
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": subject.precision,
        "batch_size": size,
        **{name: statistics.median(values) for name, values in found.items()},
        "peak_memory": peak,
        "params": cost.count_parameters(subject.model),
        "flops": cost.count_flops(subject.model, subject.img_size, subject.in_chans, subject.name),
        "repeats": REPEATS,
        "spread": {name: {"low": min(values), "high": max(values)} for name, values in found.items()},
        "versions": versions(),
    }


def _random_batch(subject: CostSubject, images: int) -> ReadyBatches:
    pixels = torch.randn(
        (images, subject.in_chans, *sides(subject.img_size)), generator=torch.Generator().manual_seed(0)
    )
    targets = torch.arange(images) % subject.num_classes
    return ReadyBatches(
        pixels.to(subject.device, memory_format=torch.channels_last), targets.to(subject.device), count=1
    )


def _first_step(subject: CostSubject, images: int) -> SteadyTrainer:
    """A trainer that has made one step on so many images."""
    if images == 1:
        cost.check_batch_of_one(subject.model, subject.img_size, subject.in_chans)
    trainer = subject.make_trainer()
    trainer.train(_random_batch(subject, images))
    return trainer


def _seconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """How long `work` takes, device included, each time after a call that does not count."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # else the import may tell of CUDA's absence
    from torch.utils.benchmark import Timer

    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return [timer.blocked_autorange(min_run_time=0).mean for _ in range(repeats)]


def _seconds_per_step(work: Callable[[int], Any]) -> list[float]:
    """REPEATS means over so many steps that they take SECONDS.

    Args:
        work: called with a number of steps. It waits for the device at its end only.
    """
    steps = max(1, math.ceil(SECONDS / _seconds(lambda: work(1), 1)[0]))
    return [seconds / steps for seconds in _seconds(lambda: work(steps), REPEATS)]


def peak_memory(device: torch.device, work: Callable[[], Any]) -> tuple[int | None, Any]:
    """(bytes, what `work` returned): the most memory that tensors which `work` made took at once. None on MPS, where
    nothing tells it.

    On a CPU every allocation is recorded. The resident size of the process would not do: what one piece of work has
    given back stays with the process, and is the next one's for nothing.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        return torch.cuda.max_memory_allocated(device) - before, result
    if device.type != "cpu":
        return None, work()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler tells on stderr that it begins and ends
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in memory]
    # The counter goes on from profile to profile, and never learns of what is freed in between.
    before = totals[0] - memory[0]["args"]["Bytes"]
    return max(totals) - before, result
