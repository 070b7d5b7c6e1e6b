"""What a model costs on the machine at hand: images per second in training and inference, latency, memory."""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from analysis import cost
from analysis.timing import Repeated, spread, synchronizer
from data_transform import Mix
from image_datasets.batches import ResidentTrainBatches
from records.run_directory import versions
from training import batch_size as fitting
from training.config import TrainConfig
from training.devices import autocast, device_name, make_scaler
from training.evaluation import evaluate
from training.loop import train_epoch
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import ModelEMA, freeze_backbone, make_optimizer, parameter_groups
from training.progress import Progress
from training.state import RunState
from utils import RunFailed, sides

REPEATS = 5  # measurements of each rate, of which the median counts
SECONDS = 0.3  # length of one, where a batch takes less
SINGLES, WARMUPS = 50, 3  # images whose latency is measured, after some that do not count


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

    own_sizes = sizes
    rank, ranks = 0, 1

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
    """What is measured.

    Attributes:
        model: on `device`, in channels-last memory and eval mode; it is not changed.
        s: the settings of its run: optimiser, loss, mixing, averaging and what is frozen.
        precision: "fp32", "bf16" or "fp16".
    """

    model: nn.Module
    s: SimpleNamespace
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
    device, synchronize = subject.device, synchronizer(subject.device)

    def batches(images: int, count: int = 1) -> ReadyBatches:
        shape = (images, subject.in_chans, *sides(subject.img_size))
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        targets = torch.arange(images) % subject.num_classes
        return ReadyBatches(pixels.to(device, memory_format=torch.channels_last), targets.to(device), count)

    def first_step(images: int) -> SteadyTrainer:
        if images == 1:
            cost.check_batch_of_one(subject.model, subject.img_size, subject.in_chans)
        trainer = make_trainer(subject)
        trainer.train(batches(images))
        return trainer

    size = fitting.largest_that_fits(first_step, most, device)
    if size is None:
        raise RunFailed("not enough memory for a batch of one image")
    fitting.release()
    peak, trainer = peak_memory(device, lambda: first_step(size))
    ready = batches(size)

    def train(count: int) -> None:
        trainer.train(ReadyBatches(ready.images, ready.targets, count))

    def infer(count: int) -> None:
        again = ReadyBatches(ready.images, ready.targets, count)
        evaluate(subject.model, again, subject.num_classes, subject.precision)

    found = {}
    for name, work in (("train_images_per_second", train), ("inference_images_per_second", infer)):
        measure = Repeated(work, SECONDS, synchronize, lambda seconds: size / seconds)
        measure()
        found[name] = [measure() for _ in range(REPEATS)]
    found["inference_latency_ms"] = _latencies(subject, batches(1).images, synchronize)
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": subject.precision,
        "batch_size": size,
        **{name: statistics.median(values) for name, values in found.items()},
        "peak_memory": peak,
        "params": cost.count_parameters(subject.model),
        "flops": cost.count_flops(subject.model, subject.img_size, subject.in_chans, subject.s.model),
        "repeats": REPEATS,
        "spread": {name: {key: spread(values)[key] for key in ("low", "high")} for name, values in found.items()},
        "versions": versions(),
    }


def make_trainer(subject: CostSubject) -> SteadyTrainer:
    """Trains a copy of the model as its run did, but at a rate of 0: the steps cost the same, and cannot diverge."""
    s, device = subject.s, subject.device
    model = copy.deepcopy(subject.model)
    if s.freeze == "backbone":
        freeze_backbone(model)
    optimizer = make_optimizer(
        parameter_groups(model, s.weight_decay, s.decay_all, s.layer_decay), s.optimizer, s.lr, s.momentum, s.nesterov
    )
    state = RunState(
        model,
        optimizer,
        Totals(subject.num_classes, device),
        ema=None if s.ema is None else ModelEMA(model, s.ema),
        scaler=make_scaler(device, subject.precision),
    )
    recipe = TrainConfig(
        criterion=make_criterion(s.loss, subject.num_classes, s.label_smoothing, s.bce_target_threshold),
        mix=Mix(s.augmentation, subject.num_classes, s.cutmix_alpha, s.mixup_alpha, s.mix_prob),
        learning_rate=lambda step: 0.0,
        seed=0,
        precision=subject.precision,
        clip_grad=s.clip_grad,
    )
    return SteadyTrainer(state, model, recipe)


@torch.inference_mode()
def _latencies(subject: CostSubject, image: torch.Tensor, synchronize: Callable[[], None]) -> list[float]:
    """Milliseconds of each of SINGLES forward passes of one image."""
    times = []
    for _ in range(WARMUPS + SINGLES):
        synchronize()
        began = time.perf_counter()
        with autocast(subject.device, subject.precision):
            subject.model(image)
        synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return times[WARMUPS:]


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
